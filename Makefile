PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
BUNDLE = bundles/mri_tle_efficientnet
OUT ?= $(CURDIR)/demo_out
# Two processes, each file in one of them; PYTEST_WORKERS=0 runs all in one.
PYTEST_WORKERS ?= 2
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile

.PHONY: demo test lint types train train-films trust-study gate slow benchmark tour-pacs servers viewers clean

# What the tests of DICOM and of the PACS talk to: servers, a second opinion, a validator, a browser. Debian, as root.
SERVERS = orthanc orthanc-dicomweb orthanc-gdcm dcmtk dicom3tools chromium

demo: $(BIN)/.installed
	cd $(BUNDLE) && $(abspath $(BIN))/python -m monai.bundle run --args_file configs/explain.args.yaml --output_dir $(OUT)
	cd $(BUNDLE) && $(abspath $(BIN))/python -m monai.bundle run --args_file configs/gate.args.yaml --output_dir $(OUT)
	@echo "demo: open $(OUT)/index.html"

test: $(BIN)/.installed-dev
	$(PYTEST) -m "not slow"

slow: $(BIN)/.installed-dev
	$(PYTEST) -m slow

viewers: $(BIN)/.installed-dev
	$(PYTEST) -m slow tests/pacs/test_ohif.py

lint: $(BIN)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(BIN)/.installed-dev
	$(BIN)/mypy

train: $(BIN)/.installed
	cd $(BUNDLE) && $(abspath $(BIN))/python -m monai.bundle run --config_file configs/train.json

train-films: $(BIN)/.installed
	for name in cxr_pneumothorax cxr_pneumonia skin_ultrasound; do \
	  (cd bundles/$$name && $(abspath $(BIN))/python -m monai.bundle run --config_file configs/train.json) || exit 1; \
	done

# Ten methods, two architectures, three trainings each; the last two lines share the study between two processes.
trust-study: export OMP_NUM_THREADS = 1
trust-study: $(BIN)/.installed
	cd bundles/cxr_pneumonia && for seed in 1 2; do \
	  test -f eval/trust/resnet_small-$$seed/model.safetensors || $(abspath $(BIN))/python -m monai.bundle run \
	    --config_file configs/train.json --seed $$seed --output_dir eval/trust/resnet_small-$$seed || exit 1; \
	done
	cd bundles/cxr_pneumonia && for seed in 0 1 2; do \
	  test -f eval/trust/densenet_small-$$seed/model.safetensors || $(abspath $(BIN))/python -m monai.bundle run \
	    --config_file configs/train.json --architecture densenet_small --epochs 20 --patience 20 \
	    --seed $$seed --output_dir eval/trust/densenet_small-$$seed || exit 1; \
	done
	cd bundles/cxr_pneumonia && study="$(abspath $(BIN))/python -m monai.bundle run --args_file configs/trust.args.yaml \
	  --output_dir eval/trust" && { $$study & other=$$!; $$study; ended=$$?; wait $$other && exit $$ended; }

benchmark: $(BIN)/.installed-dev
	$(BIN)/python benchmarks/mri_job.py

tour-pacs: $(BIN)/.installed-pacs
	$(BIN)/python -m benchmarks.pacs_tour --output $(CURDIR)/tour_out

servers:
	apt-get -qq update
	DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $(SERVERS)

clean:
	rm -rf demo_out tour_out .pytest_cache .mypy_cache .ruff_cache

$(BIN)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "medsal: wanted Python 3.11 or newer, got " + sys.version.split()[0] + "; run make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(BIN)/.installed-dev: $(BIN)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

$(BIN)/.installed-pacs: $(BIN)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[pacs]"
	touch $@
