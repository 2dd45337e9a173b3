"""python -m training.experiments CLAIM --data ... --out ..."""

from training.experiments.command import main

if __name__ == "__main__":
    main()
