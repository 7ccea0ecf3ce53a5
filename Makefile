PYTHON ?= python3
# threads that wait by sleeping: spinning ones starve each other where cores are few
export OMP_WAIT_POLICY ?= passive
PY = .venv/bin/python

# the laws of the core and the house, in under a minute; make test runs everything
FAST = $(addprefix tests/test_,core.py check.py house.py prompts.py reflect.py rewards.py wan_codec.py)

.PHONY: setup demo test check bench sheets clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: setup
	.venv/bin/longtake generate "a dog walks right across green hills at noon" --seconds 60 --method fifo --seed 7

test: setup
	$(PY) -m pytest tests --durations=20

check: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check longtake tests benchmarks examples scripts
	.venv/bin/pyright
	$(PY) -m pytest $(FAST) -m "not slow"

bench: setup
	.venv/bin/longtake bench --profile quick

sheets: setup
	$(PY) benchmarks/sheets.py

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache
