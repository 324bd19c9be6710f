#!/usr/bin/env bash
# The CPU image, built and used by the real Apptainer:
#
#   1. Without the image, `snakemake --use-singularity` says in one line how to get it.
#   2. envs/build.sh cpu builds it. Its labels are right, and nothing of this machine's pip settings is in it.
#   3. A grid of four cells outside and, with --use-singularity, inside of it: every row says which it was, and
#      `famba reproduce` finds that they agree.
#
# Run as root in a checkout with .venv set up, which it leaves as it was, but for the image. ROOT is the checkout beside
# which the script is that installs Apptainer [this one]; elsewhere it is installed beforehand.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PWD/.venv/bin:/opt/apptainer/usr/bin:$PATH
export APPTAINER_DROP_CAPS=CAP_SYS_RESOURCE # which root in a virtual machine may not have
IMAGE=envs/famba-cpu.sif
LOG=$(mktemp)
STARTED=$SECONDS

say() { echo "-- $* (at $((SECONDS - STARTED)) s)"; }

fail() {
  echo "container.sh: $*" >&2
  exit 1
}

clean_up() { rm -rf config/{inside,outside}.yaml results/{inside,outside} .snakemake/container; }

needs() {
  command -v debootstrap >/dev/null && command -v apptainer >/dev/null && return
  timeout -s KILL 60 apt-get update -qq
  DEBIAN_FRONTEND=noninteractive timeout -s KILL 120 \
    apt-get install -y -qq --no-install-recommends debootstrap debian-archive-keyring >/dev/null 2>&1 || fail "debootstrap: not installed"
  command -v apptainer >/dev/null && return
  local script=${ROOT:-$PWD}/../shared/tools/install-apptainer.sh
  [ -e "$script" ] || fail "Apptainer is missing: apptainer.org/docs/admin says how to install it"
  timeout -s KILL 120 bash "$script" >/dev/null 2>&1 || fail "Apptainer: not installed"
}

grid() { # grid NAME: config/NAME.yaml, of the smoke grid one model, a third as deep, two strategies, two seeds, two epochs
  python - "$1" <<'END'
import sys
import yaml

settings = yaml.safe_load(open("config/smoke.yaml"))
name, model = next(iter(settings["models"].items()))
settings |= {"experiment": sys.argv[1], "models": {name: model | {"depth": 4}}}
settings |= {"strategies": ["baseline", "upper"], "seeds": [0, 1]}
settings["recipe"] |= {"epochs": 2, "warmup_epochs": 1}
yaml.safe_dump(settings, open(f"config/{sys.argv[1]}.yaml", "w"))
END
}

run() { # run NAME OPTIONS...: a grid, with what is said only if it fails
  local name=$1 log
  shift
  log=$(timeout -s KILL 600 snakemake --cores all --configfile "config/$name.yaml" "$@" 2>&1) ||
    fail "snakemake --configfile config/$name.yaml $*"$'\n'"$log"
}

trap 'clean_up; rm "$LOG"' EXIT
clean_up
needs
say "$(apptainer --version)"

rm -f "$IMAGE"
for options in -n "--cores all"; do
  status=0
  # shellcheck disable=SC2086
  said=$(snakemake $options --use-singularity --configfile config/smoke.yaml 2>&1 | grep -v "^Using workflow") ||
    status=$?
  [ "$status" = 2 ] && [ "$(wc -l <<<"$said")" = 1 ] && [[ $said == *"$IMAGE"*"envs/build.sh cpu makes it"* ]] ||
    fail "without the image, exit status $status: $said"
done
say "without the image: $said"

timeout -s KILL 1500 envs/build.sh cpu >"$LOG" 2>&1 || { cat "$LOG" >&2; fail "envs/build.sh cpu"; }
grep "^check: " "$LOG"
tail -n 1 "$LOG"
labels=$(apptainer inspect --labels "$IMAGE")
for file in definition:envs/image.def lock:envs/famba-cpu.txt; do
  [[ $labels == *"famba.${file%%:*}.sha256: $(sha256sum "${file#*:}" | cut -d ' ' -f 1)"* ]] || fail "labels: $labels"
done
[[ $labels == *"famba.revision: $(git rev-parse HEAD)"* ]] || fail "labels: $labels"
settings=$(apptainer exec --containall "$IMAGE" sh -c \
  'ls -d /etc/pip.conf /etc/xdg/pip ~/.pip ~/.config /opt/famba/venv/pip.conf /mnt/* 2>/dev/null; pip config list')
[ -z "$settings" ] || fail "of the build is left in the image: $settings"
say "the image is built, and its labels are right"

grid outside
grid inside
run outside
say "four cells outside"
run inside --use-singularity
say "four cells inside"

python - "$(sha256sum "$IMAGE" | cut -d ' ' -f 1)" "$(git rev-parse HEAD)" <<'END'
import sys
from pathlib import Path
from famba.results.row import read_row

image, commit = sys.argv[1:]
for where, expected in (("inside", image), ("outside", None)):
    rows = [read_row(path) for path in sorted(Path("results", where, "cells").glob("*/row.json"))]
    assert len(rows) == 4, f"{where}: {len(rows)} rows"
    for row in rows:
        found = row.environment
        assert found.container_sha256 == expected, f"{where}, {row.id}: container {found.container_sha256}"
        assert (found.git_commit, found.git_dirty is None) == (commit, False), f"{where}, {row.id}: {found.git_commit}"
        assert row.scan.backend == "cpu", f"{where}, {row.id}: {row.scan}"
    print(f"{where}: container {expected}, lock {found.lock_sha256}, Python {found.python}")
END
python -m famba reproduce results/outside/cells/*/row.json \
  --with results/inside/cells/*/row.json 2>&1 |
  grep -E "^Compared|identical,|error:"
left=$(git status --porcelain --untracked-files=all -- . ':!config' | grep '^??' || true)
[ -z "$left" ] || fail "left behind: $left"
say "rows from inside and outside agree"
