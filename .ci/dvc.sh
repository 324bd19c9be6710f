#!/usr/bin/env bash
# DVC, provenance and reproduction with the real tools: bash .ci/dvc.sh
#
# In a checkout whose .venv is set up and whose `make demo` has run. It works on copies: the checkout stays as it is.
# Each part prints its seconds.
set -euo pipefail
exec </dev/null
CHECKOUT=$PWD
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
export PATH=$CHECKOUT/.venv/bin:$PATH DVC_NO_ANALYTICS=1 CI=true
SMOKE=config/smoke.yaml

part() { # part LIMIT TITLE FUNCTION: run it in a shell of its own, print its seconds, stop at its failure
  local start=$SECONDS status=0
  echo "-- $2"
  timeout --kill-after=30 "$1" bash -euo pipefail -c "$3" || status=$?
  echo "-- $2: $((SECONDS - start)) s, exit status $status"
  return "$status"
}

fail() {
  echo "FAILED: $1" >&2
  exit 1
}

commit() { # commit MESSAGE: a commit of the copy, nobody's
  git add --all
  git -c user.name=ci -c user.email=ci@example.org commit --quiet --message "$1"
}

repro() { # repro: what Snakemake and DVC say goes to the log and to `said`
  said=$(dvc repro smoke 2>&1) || { echo "$said"; fail "dvc repro smoke"; }
  grep -E "^(Running stage|Stage|Updating|Nothing to be done|[0-9]+ of [0-9]+ steps|vim_)" <<<"$said" || true
}

trained() { # trained: how many trainings Snakemake's table of jobs announced
  awk '$1 == "train" && NF == 2 { n = $2 } END { print n + 0 }' <<<"$said"
}

expect() { # expect WHAT PATTERN: what was said must have it
  grep -qE -- "$2" <<<"$said" || { echo "$said"; fail "$1: no line like '$2'"; }
}

after_the_demo() { # the rows are there: Snakemake has nothing to do, DVC takes them over
  mkdir "$WORK/demo" && cd "$WORK/demo"
  tar --create --directory "$CHECKOUT" --exclude ./.venv . | tar --extract # with the times of all files
  cat results/smoke/cells/*/row.json >"$WORK/before"
  repro
  expect "after the demo" "Nothing to be done"
  expect "after the demo" "Updating lock file"
  cat results/smoke/cells/*/row.json | cmp - "$WORK/before"
  repro
  expect "a second time" "Stage 'smoke' didn't change, skipping"
  commit "results of the demo"
}

changed_setting() { # a schedule of its own beside the published ones
  cd "$WORK/demo"
  python - <<'EOF'
import yaml

with open("config/smoke.yaml") as file:
    settings = yaml.safe_load(file)
settings["strategies"] += ["mine"]
settings["schedules"] = {"mine": [16] * 3 + [0] * 9}
with open("config/smoke.yaml", "w") as file:
    yaml.safe_dump(settings, file)
EOF
  dvc params diff
  repro
  [ "$(trained)" = 2 ] || fail "$(trained) trainings for a setting that adds two cells"
  commit "a schedule of our own"
}

differences() { # between the two commits: the parameters, and the numbers of those two cells and of no other
  cd "$WORK/demo"
  said=$(dvc params diff HEAD~1 HEAD)
  echo "$said"
  expect "params diff" "config/smoke.yaml +schedules.mine"
  said=$(dvc metrics diff HEAD~1 HEAD --targets results/smoke/summary.json)
  echo "$said"
  expect "metrics diff" "top1_last_percent.vim_(tiny|small)_mini.mine "
  expect "metrics diff" "saved_activations_ratio.vim_tiny_mini.mine "
  [ "$(grep -c summary.json <<<"$said")" = "$(grep -c '_mini.mine ' <<<"$said")" ] || fail "other cells have changed"
}

from_nothing() { # no results: the stage trains
  git clone --quiet "$CHECKOUT" "$WORK/new" && cd "$WORK/new"
  sed -i -e '/^  vim_small_mini:/d' -e 's/^strategies:.*/strategies: [baseline, upper]/' \
    -e 's/^  epochs:.*/  epochs: 1/' -e 's/^  warmup_epochs:.*/  warmup_epochs: 0/' "$SMOKE"
  repro
  [ "$(trained)" = 2 ] || fail "$(trained) trainings, not 2"
  [ "$(find results/smoke/cells -name row.json | wc -l)" = 2 ] || fail "two rows were to be there"
  repro
  expect "a second time" "didn't change, skipping"
}

second_machine() { # push, clone, make pull: neither engine has anything to do
  cd "$WORK/demo"
  dvc remote add --quiet --default store "$WORK/store"
  dvc push smoke
  commit "a remote"
  git clone --quiet "$WORK/demo" "$WORK/elsewhere" && cd "$WORK/elsewhere"
  ln -s "$CHECKOUT/.venv" .venv
  make --old-file .venv/installed pull
  said=$(snakemake -n --configfile "$SMOKE" 2>&1)
  expect "snakemake -n" "Nothing to be done"
  dvc status smoke
  dvc status --quiet smoke
  # without a target: what was never run, or pulled, is not up to date, and nothing else
  said=$(dvc status)
  echo "$said"
  [ -z "$(grep -E '^smoke:' <<<"$said")" ] || fail "dvc status"
  diff --recursive --brief --exclude '*.pt' --exclude logs --exclude '*.log' --exclude status.json results/smoke "$WORK/demo/results/smoke"
}

crate_validates() { # the public validator on the pulled crate; the one context it asks for comes from a package
  cd "$WORK/elsewhere"
  python3 -m venv "$WORK/validator"
  "$WORK/validator/bin/pip" install -qq --disable-pip-version-check --require-hashes -r "$CHECKOUT/.ci/roc-validator.txt"
  "$WORK/validator/bin/python" - "$WORK/contexts" <<'EOF'
import io, json, sys
from importlib.resources import files

from requests.adapters import HTTPAdapter
from requests_cache import CachedSession
from urllib3 import HTTPResponse

URL = "https://w3id.org/ro/crate/1.1/context"
context = files("rocrate").joinpath("data/ro-crate.jsonld").read_bytes()
assert json.loads(context)["@id"] == URL


class Packaged(HTTPAdapter):
    def send(self, request, **options):
        head = {"Content-Type": "application/ld+json"}
        answer = HTTPResponse(io.BytesIO(context), head, 200, preload_content=False, request_url=request.url)
        return self.build_response(request, answer)


cache = CachedSession(sys.argv[1], backend="sqlite", expire_after=-1)
cache.mount(URL, Packaged())
cache.get(URL)
EOF
  "$WORK/validator/bin/rocrate-validator" -y --disable-color validate --offline --cache-path "$WORK/contexts" \
    --no-paging --verbose --profile-identifier workflow-run-crate --requirement-severity required results/smoke |
    grep -E "RO-Crate|Profile:|MUST|Detected|Violation"
}

reproduced() { # a row of the demo, trained again: bit for bit on this machine
  cd "$CHECKOUT"
  local row=results/smoke/cells/vim_tiny_mini-lower-s0/row.json
  said=$(famba reproduce "$row") || { echo "$said"; fail "famba reproduce"; }
  echo "$said"
  expect "famba reproduce" "^Compared bit for bit, because CPU"
}

famba() { python -m famba "$@"; }

export CHECKOUT WORK SMOKE
export -f fail commit repro trained expect famba
export -f after_the_demo changed_setting differences from_nothing second_machine crate_validates reproduced
part 120 "dvc repro takes the demo's rows over; a second one does nothing" after_the_demo
part 420 "a changed setting: dvc repro trains the cells that it changes" changed_setting
part 60 "dvc params diff, dvc metrics diff" differences
part 180 "dvc repro from nothing, a shortened smoke grid" from_nothing
part 120 "a second machine: push, clone, make pull" second_machine
part 180 "the crate validates as a Workflow Run Crate" crate_validates
part 300 "famba reproduce: a row, bit for bit" reproduced
echo "-- all of it: $SECONDS s"
