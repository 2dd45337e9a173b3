# The server on CPUs: no PyTorch, no compiler, no pip of ours; not root; its root file system may be read-only.
#
#   docker build -f docker/serve-cpu.Dockerfile -t hindsight:cpu .
#
# Needs BuildKit (Docker 23 or newer). `make docker-proof` runs every step below without Docker.

# A digest pins the base for good: --build-arg PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:...
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# What is installed, in two folders that change at different times: packages seldom, our code often.
FROM ${PYTHON_IMAGE} AS packages
ENV PIP_CACHE_DIR=/downloads/pip \
    UV_CACHE_DIR=/downloads/uv \
    UV_LINK_MODE=copy \
    UV_PYTHON_DOWNLOADS=never
WORKDIR /build
COPY requirements/build.txt requirements/serve.txt requirements/
RUN --mount=type=cache,target=/downloads \
    python -m venv /tools \
    && /tools/bin/python -m pip install --quiet -c requirements/build.txt uv
COPY pyproject.toml ./
RUN --mount=type=cache,target=/downloads \
    /tools/bin/uv venv --quiet --python "$(command -v python)" /opt/venv \
    && /tools/bin/uv pip install --quiet --python /opt/venv/bin/python \
        -c requirements/serve.txt -r pyproject.toml --extra cpu

FROM packages AS project
COPY LICENSE README.md ./
COPY hindsight hindsight
COPY model model
COPY training training
COPY export export
COPY service service
RUN --mount=type=cache,target=/downloads \
    /tools/bin/uv pip install --quiet --python /opt/venv/bin/python --compile-bytecode \
        -b requirements/build.txt --no-deps --target /opt/hindsight .

FROM ${PYTHON_IMAGE} AS serve
LABEL org.opencontainers.image.title="Hindsight" \
      org.opencontainers.image.description="Object detection with a second opinion on every box; serves on CPUs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="python:3.11-slim-bookworm"
# A number, so that Kubernetes can see that it is not root.
RUN groupadd --gid 10001 hindsight \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin hindsight
COPY --from=packages /opt/venv /opt/venv
COPY --from=project /opt/hindsight /opt/hindsight
ENV PATH=/opt/hindsight/bin:/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/hindsight \
    HINDSIGHT_HOST=0.0.0.0 \
    HINDSIGHT_PORT=8000 \
    HINDSIGHT_MODELS=/models \
    ORT_DISABLE_TELEMETRY=1
# Detect once and import all that a server does: a build that lacks something fails here. It leaves the bytecode of just
# these modules, the standard library's too, which the base image comes without; on a read-only disk nobody could later.
RUN python -c "import service.app, service.cli, service.probe, service.worker, uvicorn, uvloop, httptools, hindsight; \
    hindsight.load('cells').detect('/opt/hindsight/hindsight/models/cells/samples/BloodImage_00296.jpg')"
ENV PYTHONDONTWRITEBYTECODE=1
# Model folders, mounted read-only; the models in the image need none.
WORKDIR /models
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# Healthy: a worker can take an image. 120 s is the time a worker may take to load (HINDSIGHT_START_TIMEOUT).
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 CMD ["python", "-m", "service.probe"]
ENTRYPOINT ["hindsight"]
CMD ["serve"]
