#!/usr/bin/env bash
# Everything that wants an accelerator, one command. Parts of at most 9 minutes; what is finished is not done again.
# Measurements and a whole training take half an hour, the evidence on searches two parts of 9 minutes more.
#
#   benchmarks/gpu/all.sh OUT                      all parts, in the order of their worth
#   benchmarks/gpu/all.sh OUT --minutes 9.5        no part is begun that would not end in this time: call again
#   benchmarks/gpu/all.sh OUT --parts search       some parts alone (with the weights that ship, if none were trained)
#   benchmarks/gpu/all.sh OUT --scale 2            twice the minutes for every part
#   benchmarks/gpu/all.sh OUT --from OLD_OUT       go on from what another machine brought home
#   benchmarks/gpu/all.sh OUT --dry                tiny sizes on a CPU, every script from start to end
#
# OUT gets few and small files to carry home (everything.py says which); the rest stays in --work (default:
# $TMPDIR/longtake-gpu). WHEELS=FOLDER in the environment: wheels of packages that a machine without network lacks
# (`all.sh --ready` names them; mostly diffusers, ftfy, av and jaxtyping, with importlib_metadata, zipp and wcwidth). COMMIT: what to write into rows where there is no git. PYTHON: which Python.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ -n "${WHEELS:-}" ]; then
  site=${TMPDIR:-/tmp}/longtake-site
  ${PYTHON:-python3} -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$site" "$WHEELS"/*.whl
  export PYTHONPATH="$site:$PWD"
else
  export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
fi
export HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=passive
exec "${PYTHON:-python3}" benchmarks/gpu/everything.py "$@"
