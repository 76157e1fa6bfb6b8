# Every command a person types. `make demo` and `make test` do all their set-up themselves.

PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(if $(shell $(p) -c 'import sys; print(1 if sys.version_info >= (3, 11) else "")' 2>/dev/null),$(p))))
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PROTOS := protocol/open_inference.proto protocol/onnx_graph.proto

export BENTOML_DO_NOT_TRACK := True

protoc = $(BIN)/python -m grpc_tools.protoc -I. --python_out=$(1) --pyi_out=$(1) $(PROTOS) && $(BIN)/python -m grpc_tools.protoc -I. --grpc_python_out=$(1) $(firstword $(PROTOS))

.PHONY: help setup demo demo-redeploy test test-all test-fast check docs format image-test sbom audit bench-finetune bench-serving gpu-check fuzz soak faults proto proto-check lock clean

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

setup: $(INSTALLED)  ## create .venv and install what requirements.lock pins

$(INSTALLED): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name one with make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Installing into $(VENV): about 3 GB to download and 8 GB on disk, once."
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@# The lock names every package; pip as it comes with Python 3.11 stumbles over extras among them.
	$(BIN)/python -m pip install --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: setup  ## the whole main job on handwritten digits, about 5 minutes on two cores
	@exec $(BIN)/python examples/demo.py

demo-redeploy: setup  ## retrain and redeploy under load, refuse a poisoned model, roll back; 9 minutes
	@exec $(BIN)/python examples/redeploy.py

# Tests run beside each other, and so do the processes that they start: PyTorch's threads would wait
# for each other, spinning, for an eighth of the time. Three workers, since many tests only wait. In
# the order of the files' names: the longest, those of tests/integration, come early, and no worker
# is left alone with one of them at the end.
PYTEST := env OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test: setup  ## the tests, 7 minutes on two cores
	@exec $(PYTEST) -m "not exhaustive"

test-all: setup  ## and those that try many of a kind that another one shows, as CI does; about 13 minutes
	@exec $(PYTEST)

test-fast: setup  ## all tests but those that take seconds each; a minute
	@exec $(PYTEST) -m "not slow and not exhaustive"

check: setup proto-check  ## formatting, lint, types, import directions, links of the docs, Kubernetes manifests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/bandit --quiet --recursive --tests B613,B614,B615 cli models review serving training web service.py
	$(BIN)/python -m testing.docs.check
	$(BIN)/kubernetes-validate --strict --no-warn --quiet deploy/kubernetes/base/*.yaml deploy/kubernetes/components/*/retrain.yaml

docs: setup  ## the documentation as a site, in build/docs/index.html
	@# Its makers' notice of the end of support, see docs/architecture/dependencies.md.
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

format: setup  ## format the code and repair what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

image-test: setup  ## build the CPU image with buildah, run it read-only, check it; as root on Debian 12
	@mkdir -p build && exec env PYTHONPATH=. deploy/image-test.sh

sbom: setup  ## what the images hold, as CycloneDX in build/
	@mkdir -p build
	for flavour in cpu gpu; do $(BIN)/cyclonedx-py requirements deploy/requirements-$$flavour.lock --of JSON -o build/sbom-$$flavour.json; done

audit: setup  ## look up published vulnerabilities of everything that is locked; asks PyPI
	test -d build/audit/pip_audit || $(BIN)/python -m pip install --disable-pip-version-check --quiet --target build/audit pip-audit==2.10.1
	for lock in requirements.lock deploy/requirements-*.lock; do \
	  echo "== $$lock"; PYTHONPATH=build/audit $(BIN)/python -m pip_audit --strict --require-hashes --disable-pip --progress-spinner off -r $$lock || exit 1; done

bench-finetune: setup  ## fine-tuning against the tutorial's loop and other tools, 30 to 60 minutes
	$(BIN)/python -m benchmarks.training.finetune --strategy fc --image-size 224
	$(BIN)/python -m benchmarks.training.finetune --strategy full --image-size 64 --pretrain 100
	$(BIN)/python -m benchmarks.training.linear_step
	$(BIN)/python -m benchmarks.serving.decode

bench-serving: setup  ## serving against nine other servers, benchmarks/peers; an hour and a half
	$(BIN)/python -m benchmarks.serving
	$(BIN)/python -m benchmarks.serving.overhead
	$(BIN)/python -m benchmarks.serving.batches
	$(BIN)/python -m benchmarks.serving.transports

# On a machine without a network, `make gpu-check WHEELS=folder PYTHON=python3` takes PyTorch from that
# Python and the rest from the folder, see benchmarks/gpu/wheels.py.
GPU_VENV := build/gpu-venv
gpu-check:  ## what the GPU's code does on this machine's card, checked and measured; 8 minutes
ifdef WHEELS
	@test -x $(GPU_VENV)/bin/vgg19 || { rm -rf $(GPU_VENV); benchmarks/gpu/install.sh "$(PYTHON)" "$(WHEELS)" $(GPU_VENV); }
	@exec env PATH="$(CURDIR)/$(GPU_VENV)/bin:$$PATH" $(GPU_VENV)/bin/python -m benchmarks.gpu
else
	@$(MAKE) --no-print-directory setup
	@exec $(BIN)/python -m benchmarks.gpu
endif

SECONDS ?= 60
fuzz: setup  ## fuzz what reads a client's bytes, guided by coverage; make fuzz SECONDS=600 for each
	test -d build/fuzz/atheris || $(BIN)/python -m pip install --disable-pip-version-check --quiet --target build/fuzz/atheris atheris==3.0.0
	for target in decoder json binary message multipart; do \
	  echo "== $$target"; PYTHONPATH=build/fuzz/atheris:. $(BIN)/python -W ignore -m fuzz.run $$target $(SECONDS) || exit 1; done

MINUTES ?= 60
soak: setup  ## a service under load for an hour (MINUTES=60): does anything grow, is anything lost?
	@exec $(BIN)/python -W ignore -m reliability.soak --minutes $(MINUTES)

faults: setup  ## faults of a running service, one after another, 5 minutes
	@exec $(BIN)/python -W ignore -m reliability.serving

proto: setup  ## generate the code from the .proto files
	$(call protoc,.)

proto-check: setup
	@out=$$(mktemp -d) && trap 'rm -rf "$$out"' EXIT && $(call protoc,"$$out") && \
	for file in $$(cd "$$out" && echo protocol/*); do \
	  cmp "$$out/$$file" $$file || { echo "$$file is not what the .proto gives; run make proto"; exit 1; }; done

lock:  ## pin every dependency again, needs uv
	uv pip compile pyproject.toml --universal --python-version 3.11 --extra train --extra hf --extra cpu-fast --extra openvino --extra sign --extra ray --extra s3 --extra docs --extra dev --no-emit-package opencv-python --no-emit-package openvino-telemetry --generate-hashes -o requirements.lock
	for flavour in cpu gpu; do uv pip compile deploy/requirements-$$flavour.in -c requirements.lock --no-emit-package openvino-telemetry --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes -o deploy/requirements-$$flavour.lock || exit 1; done

clean:  ## remove .venv, caches and the demo's output
	rm -rf $(VENV) demo-output redeploy-output build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
