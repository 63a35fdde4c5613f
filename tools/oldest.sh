#!/bin/sh
# Run tests with the oldest versions of the requirements that setup.cfg allows.
#
#     tools/oldest.sh PYTHON FOLDER [PYTEST ARGUMENTS]
#
# PYTHON is an interpreter of the oldest version that is supported, FOLDER the virtual environment to
# make. CHOLMOD comes from cvxopt's wheels. By default the tests that are not marked slow and ask for no
# package that wants newer ones.
set -eu

test $# -ge 2 || { sed -n '2,7s/^#//p' "$0" >&2; exit 2; }
python=$1 folder=$2
shift 2
cd "$(dirname "$0")/.."

test -x "$folder/bin/python" || "$python" -m venv "$folder"
sed -n '/^install_requires/,/^$/s/^ *\([a-z]*\)>=\(.*\)$/\1==\2/p' setup.cfg >"$folder/oldest.txt"
"$folder/bin/pip" install -q -c "$folder/oldest.txt" ".[wheels,plots,parquet]" \
    "pytest>=8" pytest-xdist hypothesis
export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1
if test $# -eq 0; then set -- -n 2 --dist loadfile -m "not slow" --ignore tests/model/statsmodels; fi
exec "$folder/bin/python" -m pytest -q "$@"
