# `make help` lists what can be asked for. Nothing outside this clone and the cache folder is touched.
PYTHON ?= python3
BIN := .venv/bin
PROFILE ?= quick
ALL ?=
SLOW ?=
CURRENT ?= torch numpy scipy pandas numba
export HF_HUB_DISABLE_TELEMETRY = 1

.DEFAULT_GOAL := help
.PHONY: help env reproduce test current canaries lab site bench clean

help:       ## this list
	@grep -hE '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## */  make \1|/' | column -t -s '|'

env: .venv/.ready   ## the environment in .venv (exact versions of constraints.txt)

.venv/.ready: constraints.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: apt-get install python3 python3-venv python3-dev build-essential"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make env PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch setuptools wheel
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

reproduce: env      ## real speech, latents, every stale discussion, figures, site (PROFILE=smoke, quick, thorough or full; ALL=1 adds codes and ember)
	$(BIN)/audioengram reproduce --profile $(PROFILE) $(if $(ALL),--all)

test: env           ## lint, unit tests, every library notebook, every discussion in its smoke profile (SLOW=1: the downloads too)
	$(BIN)/ruff check .
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal $(if $(SLOW),,-m "not slow") tests

current:            ## the tests under today's torch, numpy, scipy, pandas and numba, all else as pinned (in .venv-current)
	$(PYTHON) -m venv .venv-current
	.venv-current/bin/pip install --quiet --disable-pip-version-check --upgrade $(CURRENT) setuptools wheel
	.venv-current/bin/pip freeze --all | sed 's/[=@ ].*//' | sed 's/.*/^&==/' > .venv-current/have
	grep -viEf .venv-current/have constraints.txt > .venv-current/rest
	.venv-current/bin/pip install --quiet --disable-pip-version-check --no-deps -r .venv-current/rest
	.venv-current/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	AUDIOENGRAM_CURRENT=1 OMP_NUM_THREADS=1 .venv-current/bin/pytest -n 2 --dist worksteal -m "not slow" tests

canaries: env       ## digests of the smoke runs anew, after a stage was given another version
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --canaries tests/test_discussions.py

lab: env            ## JupyterLab on this repository
	$(BIN)/jupyter lab --notebook-dir=.

site: env           ## rebuild _site from the figures on disk
	$(BIN)/audioengram site

bench: env          ## speed, as ratios against the naive form or a peer in the same run
	$(BIN)/pytest benchmarks --benchmark-only --benchmark-columns=min,median,rounds -p no:xdist

clean:              ## remove the environment and what was built (figures and the cache stay)
	rm -rf .venv .venv-current _site _docs _build .quarto *.egg-info
