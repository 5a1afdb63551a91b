# `make engine` compiles a network, `make test` runs every test, `make check` reads the code. Each makes .venv first if it must.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
EXTRAS := dev,tensorrt,openvino,fleet,samples,authors,triton,sign,polygraphy

# What a user may set: make engine MODEL=resnest50 PREC=int8 TARGET=onnxruntime CHECKPOINT=best.pth DATA=photos BATCH=1..8 ARGS="--max-drop 0.5"
MODEL  ?= resnest-nano-elpv
PREC   ?= int8

flag = $(if $($(1)),--$(2) "$($(1))")

.PHONY: engine test check fmt lock clean samples-accuracy bench-rewrite bench-calibration bench-peers bench-tasks \
        bench-int8-kernels device-kit gpu-check fault-check fuzz corpus

engine: $(VENV)/.ready
	$(BIN)/radixrt engine "$(MODEL)" --precision "$(PREC)" $(call flag,TARGET,target) $(call flag,CHECKPOINT,checkpoint) \
	  $(call flag,DATA,data) $(call flag,BATCH,batch) $(call flag,OUT,output) $(ARGS)

test: $(VENV)/.ready
	$(BIN)/pytest -n 2 --dist worksteal $(ARGS)

check: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --python-version $(OLDEST) -p radixrt -p benchmarks -p samples
	$(BIN)/lint-imports

# Types are checked as the oldest Python sees them, where that can be: NumPy's stubs for 3.12 and later need 3.12.
OLDEST = $(if $(wildcard $(VENV)/lib/python3.1[01]),3.10,3.12)

fmt: $(VENV)/.ready
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

# Top-1 of the three sample networks in float32, on the test split.
samples-accuracy: $(VENV)/.ready
	$(BIN)/python -m samples.accuracy $(ARGS)

# Side by side with the original graph, with peers, with NNCF: figures under benchmarks/results/.
bench-rewrite: $(VENV)/.ready
	$(BIN)/python -m benchmarks.rewrite $(ARGS)
bench-calibration: $(VENV)/.ready
	$(BIN)/python -m benchmarks.calibration $(ARGS)
bench-peers: $(VENV)/.ready
	$(BIN)/python -m benchmarks.peers $(ARGS)
# U-Nets, pyramids, detectors, embeddings: blocks found, outputs equal, INT8 by output. Needs the extra `bench`.
bench-tasks: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[bench]"
	$(BIN)/python -m benchmarks.tasks $(ARGS)
bench-int8-kernels: $(VENV)/.ready
	$(BIN)/python -m benchmarks.int8_kernels $(ARGS)

# Packs here what a GPU check on a bare machine needs, under build/device-kit; a network that is packed is not made again.
device-kit: $(VENV)/.ready
	$(BIN)/python -m benchmarks.device_kit $(ARGS)

# On that machine: make gpu-check KIT=FOLDER, or python3 FOLDER/00/gpu_check.py FOLDER. It needs no .venv and no network.
KIT ?= build/device-kit
gpu-check:
	$(PYTHON) "$(KIT)/00/gpu_check.py" "$(KIT)" $(ARGS)

# Every SE, SK and ResNeSt model of timm and of the authors' package: blocks expected, found, lowered; outputs equal.
corpus: $(VENV)/.ready
	$(BIN)/python -m tests.export.test_rewrite_corpus $(ARGS)

# Kills the real command at its operations on files and at random moments, and looks at what is left.
fault-check: $(VENV)/.ready
	$(BIN)/python -m tests.faults.harness $(ARGS)

fuzz: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[fuzz]"
	$(BIN)/python -m tests.fuzz.harness $(ARGS)

# Rebuilt only when the pins or the project's own metadata change.
$(VENV)/.ready: constraints.txt pyproject.toml
	@echo "Setting up $(VENV): some 8 GB, a few minutes"
	$(PYTHON) -m venv $(if $(SYSTEM_PACKAGES),--system-site-packages) $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	# Its stubs ask for the library they describe, which comes from NVIDIA's own index: take the stubs alone.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps tensorrt-stubs==10.13.0.35.1
	touch $@

# Writes constraints.txt anew: one file for every Python from 3.10 to 3.13. Needs uv.
lock:
	uv pip compile pyproject.toml $(foreach e,$(subst $(comma), ,$(EXTRAS)) fuzz,--extra $(e)) --universal --python-version 3.10 --no-header --no-annotate -o constraints.txt

comma := ,

clean:
	rm -rf build dist .cache
