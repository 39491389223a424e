# Needs only Python 3.11 or newer, make and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TFX := .venv-tfx

.PHONY: setup demo test test-tfx docs saved-models lint format clean

setup: $(VENV)/.ready

$(VENV)/.ready: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'tfcompress needs Python 3.11 or newer')"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev,detection,edge,onnx,plots,report]"
	touch $@

demo: setup
	$(BIN)/tfcompress run pipelines/recipes/quickstart.yaml

# Two processes at once: with threads of its own in each, BLAS only gets in the way. On a
# CPU, layers with the channels first need oneDNN, which TensorFlow turns on by itself only
# on some processors; there it costs the last bit of what a stopped training ends with.
test: setup
	pipelines/fetch_fashion_mnist.sh $(CURDIR)/.data
	pipelines/fetch_chromium.sh
	TFCOMPRESS_DATA=$${TFCOMPRESS_DATA:-$(CURDIR)/.data} OPENBLAS_NUM_THREADS=1 \
		$(BIN)/python -m pytest -n 2 --dist loadfile -q --ignore tests/layers
	TF_ENABLE_ONEDNN_OPTS=1 OPENBLAS_NUM_THREADS=1 \
		$(BIN)/python -m pytest -n 2 --dist loadfile -q tests/layers

# In one process: importing TFX takes most of a minute. Without TFX it fails, it skips
# nothing. Needs a C++ compiler and Python's headers; see the script.
test-tfx: $(TFX)/.ready
	TF_CPP_MIN_LOG_LEVEL=3 OPENBLAS_NUM_THREADS=1 $(TFX)/bin/python -m pytest -q tests/tfx

$(TFX)/.ready: setup.cfg constraints-tfx.txt pipelines/tfx_environment.sh
	PYTHON=$(PYTHON) pipelines/tfx_environment.sh $(TFX)
	touch $@

# The documentation as a site, into site/; a broken link or an unknown name is an error.
docs: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[docs]"
	TF_CPP_MIN_LOG_LEVEL=3 NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# About two hours on two cores; makes what is missing, and goes on where it was stopped.
saved-models: setup
	pipelines/fetch_fashion_mnist.sh $(CURDIR)/.data
	TFCOMPRESS_DATA=$${TFCOMPRESS_DATA:-$(CURDIR)/.data} $(BIN)/python pipelines/saved_models.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(TFX) site build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
