# Two commands for a fresh machine with Python 3.10 or later and pip: `make demo` and `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test check clean

demo: $(VENV)/.core
	$(BIN)/obverse create examples/mug.jpg -m embedded -o demo-out --overwrite -v
	@echo
	@echo "Look at demo-out/preview.png, or open demo-out/report.html in a browser; the 3D asset is demo-out/asset.glb"

test: $(VENV)/.dev
	$(BIN)/python -m pytest

check: $(VENV)/.dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

# torch comes first and by exact version, so that pip takes the build that is at hand and not the newest of several GB.
$(VENV)/.core: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || $(PIP) install -q -c constraints.txt torch==2.13.0
	$(PIP) install -q -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(PIP) install -q -c constraints.txt -e ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) demo-out dist
