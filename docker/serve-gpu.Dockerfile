# The server on NVIDIA GPUs: ONNX Runtime, PyTorch and TensorRT, and `hindsight export --to tensorrt`, which has to
# run on the GPU that will serve. CUDA comes with the Python packages, the driver from the host
# (NVIDIA Container Toolkit), so the base is plain Python: a CUDA base image would bring the libraries twice.
#
#   docker build -f docker/serve-gpu.Dockerfile -t hindsight:gpu .
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
# The packages named tensorrt are stubs: while they are installed they fetch TensorRT from NVIDIA's own package index.
# A builder that cannot reach it leaves TensorRT out: --build-arg TENSORRT=
ARG TENSORRT=yes
RUN --mount=type=cache,target=/downloads \
    /tools/bin/uv venv --quiet --python "$(command -v python)" /opt/venv \
    && /tools/bin/uv pip install --quiet --python /opt/venv/bin/python \
        -c requirements/gpu.txt -r pyproject.toml --extra gpu --extra export ${TENSORRT:+--extra tensorrt}

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
      org.opencontainers.image.description="Object detection with a second opinion on every box; serves on NVIDIA GPUs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="python:3.11-slim-bookworm"
# /cache: compiled kernels. Give it a volume, or every start compiles them again.
RUN groupadd --gid 10001 hindsight \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /cache --shell /usr/sbin/nologin hindsight \
    && install --directory --owner=10001 --group=10001 /cache
COPY --from=packages /opt/venv /opt/venv
COPY --from=project /opt/hindsight /opt/hindsight
ENV PATH=/opt/hindsight/bin:/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/hindsight \
    HINDSIGHT_HOST=0.0.0.0 \
    HINDSIGHT_PORT=8000 \
    HINDSIGHT_DEVICE=cuda \
    HINDSIGHT_MODELS=/models \
    ORT_DISABLE_TELEMETRY=1 \
    HINDSIGHT_CACHE=/cache \
    XDG_CACHE_HOME=/cache \
    CUDA_CACHE_PATH=/cache/cuda \
    TORCHINDUCTOR_CACHE_DIR=/cache/inductor \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
# All that a server imports, as far as that works without a GPU: a build that lacks something fails here. It leaves the
# bytecode of just these modules, the standard library's too; on a read-only disk nobody could write it later.
RUN python -c "import service.app, service.cli, service.probe, service.worker, uvicorn, uvloop, httptools, \
    hindsight.runtime.onnxruntime, export.torch_runtime"
ENV PYTHONDONTWRITEBYTECODE=1
WORKDIR /models
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# The first start compiles kernels and captures graphs: compose.yaml gives the worker as long (HINDSIGHT_START_TIMEOUT).
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 CMD ["python", "-m", "service.probe"]
ENTRYPOINT ["hindsight"]
CMD ["serve"]
