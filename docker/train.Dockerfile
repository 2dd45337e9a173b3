# Training, evaluation and export, on NVIDIA GPUs or (slowly) on CPUs.
#
#   docker build -f docker/train.Dockerfile -t hindsight:train .
#   docker run --rm --init --gpus all --shm-size 1g -v "$PWD/my-set:/data:ro" -v "$PWD/runs:/runs" --user "$(id -u):$(id -g)" \
#       hindsight:train train --data /data --recipe hindsight-r50 --out /runs/mine
#
# Needs BuildKit (Docker 23 or newer). Never built yet: docs/docker.md.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS packages
ENV PIP_CACHE_DIR=/downloads/pip \
    UV_CACHE_DIR=/downloads/uv \
    UV_LINK_MODE=copy \
    UV_PYTHON_DOWNLOADS=never
WORKDIR /build
COPY requirements/build.txt requirements/gpu.txt requirements/
RUN --mount=type=cache,target=/downloads \
    python -m venv /tools \
    && /tools/bin/python -m pip install --quiet -c requirements/build.txt uv
COPY pyproject.toml ./
RUN --mount=type=cache,target=/downloads \
    /tools/bin/uv venv --quiet --python "$(command -v python)" /opt/venv \
    && /tools/bin/uv pip install --quiet --python /opt/venv/bin/python \
        -c requirements/gpu.txt -r pyproject.toml --extra gpu --extra train --extra export

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

FROM ${PYTHON_IMAGE} AS train
LABEL org.opencontainers.image.title="Hindsight, training" \
      org.opencontainers.image.description="Trains, evaluates and exports detectors with a second opinion on every box" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="python:3.11-slim-bookworm"
RUN groupadd --gid 10001 hindsight \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin hindsight \
    && install --directory --owner=10001 --group=10001 /runs
COPY --from=packages /opt/venv /opt/venv
COPY --from=project /opt/hindsight /opt/hindsight
# Caches under /tmp: training usually runs under the caller's own number, which owns no folder in the image.
ENV PATH=/opt/hindsight/bin:/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/hindsight \
    PYTHONDONTWRITEBYTECODE=1 \
    HINDSIGHT_CACHE=/tmp/cache \
    XDG_CACHE_HOME=/tmp/cache \
    MPLCONFIGDIR=/tmp/cache/matplotlib \
    CUDA_CACHE_PATH=/tmp/cache/cuda \
    TORCHINDUCTOR_CACHE_DIR=/tmp/cache/inductor \
    ORT_DISABLE_TELEMETRY=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /runs
USER 10001:10001
STOPSIGNAL SIGTERM
# A training run has no health to ask for: it ends, or it fails.
HEALTHCHECK NONE
ENTRYPOINT ["hindsight"]
CMD ["--help"]
