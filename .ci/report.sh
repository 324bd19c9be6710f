#!/usr/bin/env bash
# Open a report in headless Chromium and hold it to what it promises (.ci/report/check.mjs), or the page of a published
# set (.ci/report/leaderboard.mjs):
#   .ci/report.sh [REPORT.html | SITE/index.html] [FOLDER for screenshots and the printed page]
set -euo pipefail
ROOT=$(cd "$(dirname "$0")/.." && pwd)
REPORT=$(realpath "${1:-$ROOT/results/smoke/report.html}")
SHOTS=$(realpath -m "${2:-$(dirname "$REPORT")/screenshots}")
exec </dev/null

export CHROMIUM=${CHROMIUM:-$(command -v chromium || command -v google-chrome || echo chromium)}
missing=()
command -v "$CHROMIUM" >/dev/null || missing+=(chromium)
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)
if [ ${#missing[@]} -gt 0 ]; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi

# axe goes to a folder of its own: nothing is installed into the working tree
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
cp "$ROOT"/.ci/report/{.npmrc,package.json,package-lock.json,*.mjs} "$WORK"
cd "$WORK"
npm ci --silent --no-audit --no-fund
CHECK=check.mjs
[ "$(basename "$REPORT")" = index.html ] && CHECK=leaderboard.mjs
timeout --kill-after=10 300 node "$CHECK" "$REPORT" "$SHOTS"
