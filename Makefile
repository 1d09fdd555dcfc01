# Every target fills .venv first when it is missing, or when pyproject.toml or constraints.txt changed.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
RUN    := $(VENV)/bin/python -m

EXP  ?= baseline
EXPORT ?= export
DATA ?= data/Task03_Liver
FOLD ?= 0
BENCH ?= pipeline
ARGS ?=

# Tests on real scans run where they are found, and say why they are skipped elsewhere.
export TF_LIVER_REAL_DATA ?= $(abspath $(wildcard ../shared/ct))

.DEFAULT_GOAL := help
.PHONY: help demo phantoms data verify prepare train crossval evaluate report predict export serve test test-slow bench bench-peers lint format clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "  make %-10s %s\n", $$1, $$2}'

$(VENV)/.filled: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tf_liver needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	@echo "filling $(VENV): TensorFlow and its company, about 2.7 GB on disk"
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(VENV)/.filled  ## synthetic scans, train, evaluate, export: minutes on two CPU cores, no data needed
	$(RUN) tf_liver.phantoms --output demo/data
	$(RUN) tf_liver.train --experiment demo --data demo/data --runs demo/runs --prepared demo/prepared $(ARGS)
	$(RUN) tf_liver.evaluate --runs demo/runs
	$(RUN) tf_liver.export --runs demo/runs --output demo/export

phantoms: $(VENV)/.filled  ## write synthetic scans to data/phantoms
	$(RUN) tf_liver.phantoms $(ARGS)

data: $(VENV)/.filled  ## fetch, check and unpack Task03_Liver (28.9 GB) to DATA
	$(RUN) tf_liver.download --output "$(DATA)" $(ARGS)

verify: $(VENV)/.filled  ## say what is wrong or odd with the scans in DATA
	$(RUN) tf_liver.verify "$(DATA)" $(ARGS)

prepare: $(VENV)/.filled  ## decode DATA once, into slices that training reads fast (train does it when needed)
	$(RUN) tf_liver.prepare "$(DATA)" $(ARGS)

train: $(VENV)/.filled  ## train EXP=baseline on DATA=data/Task03_Liver, FOLD=0; ARGS="--epochs 2" overrides fields
	$(RUN) tf_liver.train --experiment "$(EXP)" --data "$(DATA)" --fold "$(FOLD)" $(ARGS)

crossval: $(VENV)/.filled  ## train and score EXP on every fold of DATA, each case held out once; ARGS="--seeds 0 1"
	$(RUN) tf_liver.crossval --experiment "$(EXP)" --data "$(DATA)" $(ARGS)

evaluate: $(VENV)/.filled  ## score the latest run, or ARGS=runs/…, on its held-out cases
	$(RUN) tf_liver.evaluate $(ARGS)

report: $(VENV)/.filled  ## write the latest run's report.html again; ARGS=--serve opens its scans in a viewer
	$(RUN) tf_liver.report $(ARGS)

predict: $(VENV)/.filled  ## segment scans with the latest run: ARGS="scan.nii.gz -o predictions"
	$(RUN) tf_liver.predict $(ARGS)

export: $(VENV)/.filled  ## write the latest run, or ARGS=runs/…, as a SavedModel to export/tf_liver/<version>
	$(RUN) tf_liver.export $(ARGS)

serve:  ## start TF Serving (docker compose) on EXPORT=export: gRPC on 8500, REST on 8501
	docker compose -f "$(EXPORT)/compose.yaml" up $(ARGS)

test: $(VENV)/.filled  ## the fast test suite
	$(RUN) pytest -q -n 2 --dist loadfile $(ARGS)

test-slow: $(VENV)/.filled  ## the tests that take longer than a few seconds
	$(RUN) pytest -q -m slow $(ARGS)

bench: $(VENV)/.filled  ## BENCH=pipeline, predict, scores, serving, time_to_dice or train; beside peers where make bench-peers was run
	$(VENV)/bin/python benchmarks/bench_$(BENCH).py $(ARGS)

bench-peers: benchmarks/peers.txt  ## make .venv-peers: MONAI, PyTorch, OpenVINO, ONNX Runtime, for the benchmarks only
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install --quiet --disable-pip-version-check --requirement benchmarks/peers.txt

lint: $(VENV)/.filled  ## ruff check, ruff format --check, mypy
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

format: $(VENV)/.filled  ## let ruff mend and format the code
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

clean:  ## remove the environment, the demo and all caches; runs/, export/ and data/ stay
	rm -rf $(VENV) demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
