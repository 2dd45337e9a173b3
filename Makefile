# `make help` lists the targets. PYTHON picks the interpreter; ARGS passes flags on.

SHELL := /bin/bash
PYTHON ?= python3
JOBS ?= 2
ARGS ?=
PACKAGES := hindsight model training export service

.DEFAULT_GOAL := help
.PHONY: help serve test test-gpu gpu-figures check format browser page-images systems docker-proof docker-monitoring constraints clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

serve: .venv-serve/.installed ## serve a shipped model and the page (ARGS="--model cells --model pcb")
	@exec .venv-serve/bin/hindsight serve $(ARGS)

# The suite starts many processes: without bytecode files each would compile torch again.
test: .venv/.installed browser ## run every test (ARGS="tests/unit -k nms")
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= .venv/bin/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

# Without a GPU or without TensorRT these tests skip themselves; here that is a failure.
SANITIZE ?=
test-gpu: .venv-gpu/.installed ## on a GPU host: what only a GPU can prove (SANITIZE=1: kernels under compute-sanitizer too)
	PYTHONDONTWRITEBYTECODE= .venv-gpu/bin/python -m pytest -m "gpu or tensorrt" -p tests.plugins_gpu $(ARGS)
	$(if $(SANITIZE),$(sanitize))

# Without torch's cache of memory, so that an access past a tensor's end is seen; a graph cannot be captured so.
define sanitize
@command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer is not on the PATH: it comes with the CUDA toolkit" >&2; exit 1; }
	for tool in memcheck racecheck synccheck; do \
	    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --error-exitcode 9 --tool $$tool \
	        .venv-gpu/bin/python -m pytest -m gpu -k 'not graph_captures' -o timeout=3600 tests/unit/kernels || exit 1; \
	done
endef

gpu-figures: .venv-gpu/.installed ## on a GPU host: tests and timings of the kernels, detectors against torchvision's
	PYTHON=.venv-gpu/bin/python benchmarks/run_on_gpu.sh

check: .venv/.installed ## lint, formatting, strict types, import contracts
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

format: .venv/.installed ## rewrite the code in the project's format
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

# The page's tests drive a Chromium: $CHROMIUM, or the one on the PATH. Without one they fail.
browser: ## install Chromium for the page's tests (Debian, as root)
	@if [ -n "$$CHROMIUM" ] || command -v chromium >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; \
	else echo "no chromium on the PATH: the page's tests will fail (apt-get install chromium, or set CHROMIUM)" >&2; fi

page-images: .venv/.installed browser ## pictures of the page for the documentation (ARGS="FOLDER --all": every picture)
	OMP_NUM_THREADS=1 .venv/bin/python -m tests.browser.screenshots $(ARGS)

PHOTOS ?= ../shared/data/coco_mini/annotations/instances_train2017.json
systems: .venv/.installed ## train and export every system at toy width; docs/systems.md (PHOTOS=COCO.json)
	PYTHONPATH=. .venv/bin/python benchmarks/systems.py --photos $(PHOTOS) $(ARGS)

docker-proof: .venv/.installed ## run the CPU image's recipe without Docker and serve from it (Debian, root, debootstrap)
	.venv/bin/python -m docker.prove $(ARGS)

# PROMETHEUS: the folder of the programs prometheus and promtool, of Debian's package prometheus.
PROMETHEUS ?= /usr/bin
docker-monitoring: .venv/.installed ## ask a real Prometheus every query of the dashboard and every alert
	.venv/bin/python -m docker.prove.monitoring $(PROMETHEUS)

# Existing pins are kept where they still fit: delete a line to move its package on.
COMPILE = .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate \
    --no-emit-index-url --no-emit-find-links
constraints: .venv/.installed ## resolve requirements/*.txt again from pyproject.toml
	echo "hatchling editables uv" | tr ' ' '\n' | $(COMPILE) - -o requirements/build.txt
	$(COMPILE) pyproject.toml --extra cpu -o requirements/serve.txt
	$(COMPILE) pyproject.toml --extra cpu --extra train --extra export --extra dev -c requirements/serve.txt \
	    -o requirements/all.txt
	$(COMPILE) pyproject.toml --extra gpu --extra train --extra export --extra tensorrt --extra dev \
	    -c requirements/all.txt -o requirements/gpu.txt

clean: ## remove what the other targets made, the environments included
	rm -rf .venv .venv-serve .venv-gpu build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache tests/.output
	find $(PACKAGES) tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# $(call install,FOLDER,CONSTRAINTS,EXTRAS): an environment with the project in it. The stamp file makes the next run instant.
define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	    || { echo "Hindsight needs Python 3.11 or newer; name one with PYTHON=..., as in: make $@ PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	    || { echo "$(PYTHON) cannot make virtual environments (Debian: apt-get install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet --disable-pip-version-check -c requirements/build.txt uv
	$(1)/bin/uv pip install --quiet --python $(1)/bin/python -b requirements/build.txt -c $(2) -e ".[$(3)]"
	@touch $@
endef

.venv-serve/.installed: pyproject.toml requirements/serve.txt requirements/build.txt
	$(call install,.venv-serve,requirements/serve.txt,cpu)

.venv/.installed: pyproject.toml requirements/all.txt requirements/build.txt
	$(call install,.venv,requirements/all.txt,cpu$(comma)train$(comma)export$(comma)dev)

.venv-gpu/.installed: pyproject.toml requirements/gpu.txt requirements/build.txt
	$(call install,.venv-gpu,requirements/gpu.txt,gpu$(comma)train$(comma)export$(comma)tensorrt$(comma)dev)

comma := ,
