# check=skip=InvalidDefaultArgInFrom
# libhindsight_plugins.so: our TensorRT plugins in C++, compiled against the TensorRT that will load them.
#
#   docker build -f docker/plugins.Dockerfile --build-arg TENSORRT_IMAGE=... --output build/plugins .
#
# TENSORRT_IMAGE is NVIDIA's TensorRT container from their registry, of the release whose TensorRT is the version that
# requirements/gpu.txt pins. It holds TensorRT's headers and the CUDA toolkit, which no package registry has. There is
# no default: its name is NVIDIA's to give. Only this build needs it: an engine made with
# `hindsight export MODEL --to tensorrt --plugin-library` carries the library inside.
#
# Never built yet: docs/docker.md.
ARG TENSORRT_IMAGE

FROM ${TENSORRT_IMAGE} AS build
RUN cmake --version || (apt-get update && apt-get install --yes --no-install-recommends cmake g++ && rm -rf /var/lib/apt/lists/*)
COPY export/plugins/cpp /source/export/plugins/cpp
COPY model/kernels /source/model/kernels
# Empty: machine code for every GPU from Turing to Blackwell. One number, as 90, makes library and engines smaller.
ARG CUDA_ARCHITECTURES=
RUN cmake -S /source/export/plugins/cpp -B /build -DCMAKE_BUILD_TYPE=Release -DTENSORRT_ROOT=/usr \
        ${CUDA_ARCHITECTURES:+-DCMAKE_CUDA_ARCHITECTURES="$CUDA_ARCHITECTURES"} \
    && cmake --build /build --parallel \
    && cmake --install /build --prefix /install --strip
# TensorRT looks for these two symbols and no other. An empty answer of nm fails the build as well.
RUN nm --dynamic --defined-only /install/lib/libhindsight_plugins.so | awk '{print $3}' | sort | tr '\n' ' ' \
    | grep -x 'getCreators setLoggerFinder '
USER 10001:10001

# Nothing but the library: --output writes it to the host.
FROM scratch AS library
COPY --from=build /install/lib/libhindsight_plugins.so /libhindsight_plugins.so
