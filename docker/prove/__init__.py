"""Shows, without Docker, that the CPU recipe builds and serves: `python -m docker.prove`."""
