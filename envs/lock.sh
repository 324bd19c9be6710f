#!/usr/bin/env bash
# Brings envs/requirements.txt up to date with pyproject.toml and envs/requirements.in: exact versions with hashes, for
# Python 3.11 and later. What is locked already stays as it is; `envs/lock.sh --upgrade` takes the newest of everything.
# Needs uv, and `make test` afterwards.
set -euo pipefail
cd "$(dirname "$0")/.."

# torch is installed first and by itself (see the Makefile): here it is left out, however it is asked for
uv pip compile pyproject.toml envs/requirements.in \
  --extra pipeline --extra paper --extra dev \
  --override <(echo 'torch ; sys_platform == "never"') \
  --no-emit-package torch --universal --fork-strategy fewest --python-version 3.11 \
  --generate-hashes --no-header --no-annotate \
  --output-file envs/requirements.txt --quiet "$@"
echo "envs/requirements.txt: $(grep -c == envs/requirements.txt) packages"
