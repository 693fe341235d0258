#!/usr/bin/env bash
# Builds and measures on the NVIDIA GPU of this machine, and keeps what was measured:
# docs/measured/DATE-PROFILE/MODEL/{summary.json,reports.json}.
#
#   hil/rigs/gpu.sh [PROJECT ...]     without one: what `sdk init` makes
#
# Needs this folder and the machine's Python, 3.11 or newer. Where that has no Slipway, an environment
# over it is made in $WORK and gets what is missing; without internet, from WHEELS.
#
#   PYTHON=python3              whose torch, TensorRT and onnxruntime-gpu count
#   WORK=/var/tmp/slipway-gpu   for the environment, the builds and their cache
#   WHEELS=DIR                  install from these, and from nowhere else
#   TARGET=server-gpu           another target measures the machine's CPU: a trial of this script
#   KEEP=docs/measured          where what was measured goes
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
. "$here/common.sh"
target=${TARGET:-server-gpu}
work=${WORK:-/var/tmp/slipway-gpu}
keep=${KEEP:-$root/docs/measured}
python=${PYTHON:-python3}
export PYTHONPATH=$root SLIPWAY_CACHE=$work/cache SLIPWAY_DATA=$work/data

[ "$target" != server-gpu ] || nvidia-smi -L > /dev/null 2>&1 ||
  need "no NVIDIA GPU answers here: nvidia-smi -L"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  need "$python is no Python 3.11 or newer"
mkdir -p "$work"

has() { "$1" -c 'import jinja2, nncf, onnx, onnxruntime, onnxscript, psutil, rich, sqlite_utils, torch, typer' 2> /dev/null; }

if ! has "$python"; then
  say "$python lacks some of what Slipway needs: an environment in $work/env gets it"
  [ -x "$work/env/bin/python" ] || "$python" -m venv --system-site-packages "$work/env"
  python=$work/env/bin/python
  "$python" -m pip --disable-pip-version-check -q install \
    ${WHEELS:+--no-index --find-links "$WHEELS"} -c "$root/constraints.txt" "$root[$target]" ||
    need "what is missing could not be installed; WHEELS=DIR names a folder of wheels"
fi

# The profile that this machine is. On a GPU's machine the GPU decides, elsewhere it is the host.
if [ "$target" = server-gpu ]; then
  profile=$("$python" -c '
from agent.identity import fingerprint
from sdk.rigs import closest
fits = [one["profile"] for one in closest(fingerprint()) if not one["differs"] and one["target"] == "server-gpu"]
print(fits[0] if fits else "")')
  [ -n "$profile" ] || need "no profile of server-gpu fits this machine's GPU ($(nvidia-smi -L | head -1)): write one"
else
  profile=host
fi

if [ $# = 0 ]; then
  [ -e "$work/example" ] || (cd "$work" && "$python" -m sdk init example > /dev/null)
  set -- "$work/example"
fi
for project in "$@"; do
  say "building $project for $profile"
  # 3: a limit is unmet. What was measured is kept all the same.
  "$python" -m sdk build "$project" --target "$target" --profile "$profile" --out "$work/out" ||
    [ $? = 3 ]
done
for built in "$work"/out/*/; do
  model=$(basename "$built")
  kept=$keep/$(date -u +%F)-$profile/$model
  mkdir -p "$kept"
  cp "$built/summary.json" "$built/reports.json" "$kept/"
  echo "$kept"
done
