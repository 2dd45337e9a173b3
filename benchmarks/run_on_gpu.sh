#!/usr/bin/env bash
# On a GPU host, within ten minutes: the kernels' tests, the operators' timings, whole detectors.
#
#     benchmarks/run_on_gpu.sh            # JSON into benchmarks/results/, logs into build/gpu/
#     OUT=/some/folder benchmarks/run_on_gpu.sh    # logs and JSON there as well
#
# PYTHON names an interpreter that has torch, torchvision, timm, onnx, onnxscript, onnxruntime, cuda-bindings,
# jaxtyping, safetensors, numpy, pillow, typer, rich, pytest and pytest-timeout; `make gpu-figures` brings one. MINUTES:
# of the whole (10). COMMIT: of this code, where the copy has no .git. Every step runs, whatever the others
# did; the exit status is 1 if any failed.
set -uo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
begin=$SECONDS
limit=$((${MINUTES:-10} * 60 - 20))
logs=${OUT:-build/gpu}
mkdir -p "$logs"
export PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
failed=()

# What there is by now: whoever ends this script from outside keeps the steps before.
keep() {
    [ -z "${OUT:-}" ] || cp benchmarks/results/operators-*.json benchmarks/results/gpu-*.json "$OUT" 2>/dev/null
}

# step NAME SECONDS COMMAND...: run it with a log of its own, for at most SECONDS and what is left of the whole.
step() {
    local name=$1 seconds=$2 left=$((limit - (SECONDS - begin)))
    shift 2
    ((seconds > left)) && seconds=$left
    echo "== $name (at most $seconds s)"
    if ((seconds < 5)); then
        echo "no time left" | tee "$logs/$name.log"
        failed+=("$name")
    elif ! timeout --kill-after=5 "$seconds" "$@" 2>&1 | tee "$logs/$name.log"; then
        failed+=("$name")
    fi
    keep
}

commit=()
[ -n "${COMMIT:-}" ] && commit=(--commit "$COMMIT")
# TensorRT is left to `make test-gpu`: such a host may lack it. Compiling, which takes minutes, to benchmarks.gpu.
tests=(tests/unit/kernels tests/unit/export/test_torch_gpu.py tests/parity/test_backends.py)

nvidia-smi >"$logs/nvidia-smi.log" 2>&1
step tests 150 "$python" -m pytest -q -p no:cacheprovider -p tests.plugins_gpu -m "gpu and not tensorrt" -k "not compiled" \
    "${tests[@]}"
step operators 90 "$python" -m benchmarks.operators
left=$((limit - (SECONDS - begin)))
step gpu "$left" "$python" -m benchmarks.gpu --seconds "$((left > 30 ? left - 10 : 20))" "${commit[@]}"

echo "done in $((SECONDS - begin)) s; logs in $logs"
if ((${#failed[@]})); then
    echo "failed: ${failed[*]}" >&2
    exit 1
fi
