# The two commands to start with; both set up the environment in .venv first:
#
#   make demo    the whole pipeline on real images, on a CPU, in ten minutes
#   make test    linters, types and tests
#
# and, with a DVC remote configured:
#
#   make pull    bring data and results without running anything again
#
# pip takes the CUDA build of torch by default, several GB; any other index can be named:
#   make demo TORCH_INDEX=<PyTorch's CPU index>
# Every package is held to its hash. A build of torch whose hash is not in envs/torch.txt is refused, unless asked for:
#   make demo TORCH_INDEX=... TORCH_UNHASHED=1
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= python3
TORCH := torch==2.13.0
TORCH_INDEX ?=
TORCH_UNHASHED ?=
HASHED := pip install -qq --no-deps --require-hashes
INSTALLED := .venv/installed
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DVC_NO_ANALYTICS := 1

.PHONY: demo test pull
demo: $(INSTALLED)
	@echo "Training the smoke grid: 10 scaled-down Vision Mambas on scikit-learn's digits, on the CPU."
	@snakemake --cores all --configfile config/smoke.yaml --quiet host reason rules progress
	@echo; cat results/smoke/tables/summary.md
	@echo; echo "And what the paper's own tables say (famba audit):"; famba audit
	@echo; echo "All of it on one page: results/smoke/report.html   Rows: results/smoke/cells/*/row.json"

test: $(INSTALLED)
	ruff check
	ruff format --check
	mypy
	lint-imports --no-logo --no-cache
	snakefmt --check Snakefile rules
	python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

pull: $(INSTALLED)
	dvc pull --allow-missing
	@# pulled files are as new as the pull: where they belong to the settings here, tell Snakemake that they do
	@for experiment in $$(dvc stage list --name-only); do \
	  config=config/$$experiment.yaml; \
	  if [ ! -e $$config ]; then continue; fi; \
	  if dvc status --quiet $$experiment; then \
	    snakemake --cores 1 --configfile $$config --touch --forceall --quiet all; \
	    echo "results/$$experiment: up to date"; \
	  else \
	    echo "results/$$experiment: not pulled, or not of $$config as it is here"; \
	  fi; \
	done

# set up anew when the lock or the package's metadata have changed
$(INSTALLED): envs/requirements.txt envs/torch.txt envs/torch-cuda.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "famba needs Python 3.11 or later: make PYTHON=...")'
	@echo "Setting up .venv (two minutes, once)"
	@$(PYTHON) -m venv .venv
	@# pip itself prefers the builds whose hash an index tells; so it chooses first, and is held to the hashes then
	@pip download -qq --no-deps --dest .venv/torch $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	@$(if $(TORCH_UNHASHED),pip install -qq .venv/torch/*.whl,$(HASHED) --no-index --find-links .venv/torch -r envs/torch.txt)
	@rm -r .venv/torch
	@# the CUDA build has no local version, as in 2.13.0+cpu; it asks for CUDA's libraries
	@pip show torch | grep '^Version: .*+' >/dev/null || $(HASHED) -r envs/torch-cuda.txt
	@$(HASHED) -r envs/requirements.txt
	@pip install -qq --no-deps --no-build-isolation --editable .
	@touch $@
