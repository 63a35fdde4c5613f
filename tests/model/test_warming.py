"""What is compiled ahead is all that is ever compiled."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparselmm.base import kernels

OTHER_PROVIDERS = {"solve_sparse"}
"""Kernels of those who factor sparse matrices without CHOLMOD's own solves."""

SCRIPT = """
import json, sys
from sparselmm.base import compiling
from sparselmm.model import warming

warming.warm()
print(json.dumps(sorted(compiling.compiled_functions())))
"""

FITS = """
import warnings
import numpy as np, pandas as pd
import sparselmm
from sparselmm.base import compiling

warnings.simplefilter("ignore")
rng, n = np.random.default_rng(0), 21_000
data = pd.DataFrame({
    "x": rng.normal(size=n), "y": rng.normal(size=n), "w": rng.uniform(1, 2, n),
    "a": rng.integers(0, 1500, n), "b": rng.integers(0, 700, n), "t": np.arange(n) % 5,
    "id": np.arange(n) // 5, "f": rng.choice(["p", "q", "r"], n), "k": rng.poisson(1.0, n),
})
data["text"] = np.char.mod("s%d", data["a"])
data["kind"] = pd.Categorical(data["text"])
for formula, arguments, fit in (
    ("y ~ x + (x | text) + (1 | b)", {"weights": "w"}, {}),
    ("y ~ x + (0 + f | a) + (1 | b)", {}, {}),
    ("y ~ x + (1 | kind / b)", {}, {}),
    ("y ~ x + (x | kind) + (1 | b)", {"keep_rows": False}, {}),
    ("y ~ x + (1 | text) + (1 | a:b)", {"keep_rows": False, "chunk_rows": 20_500}, {}),
    ("y ~ x + (x | a) + (x | b)", {}, {"engine": "krylov"}),
    ("y ~ x + (1 | a) + (1 | b) + (1 | t)", {}, {"engine": "krylov", "finish": "exact"}),
    ("y ~ x + (1 | b)", {"residual": "ar1(t | id)"}, {}),
):
    sparselmm.mixedlm(formula, data, **arguments).fit(**fit, maxiter=3)
for family in ("poisson", "nbinom2"):
    sparselmm.mixedglm("k ~ x + (x | text) + (1 | b)", data, family=family).fit(maxiter=2)
for name, function in compiling.compiled_functions().items():
    for signature, count in function.stats.cache_misses.items():
        print(name, signature)
"""


def kernels_of_the_package():
    """Names of all compiled loops, from the source."""
    names = set()
    for path in Path(kernels.__file__).parent.glob("kernels*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                names |= {node.name for d in node.decorator_list if ast.unparse(d) == "compiled"}
    return names


@pytest.mark.slow
def test_all_kernels_are_compiled_ahead_as_fits_call_them(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}

    def printed(script):
        ran = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        return ran.stdout

    assert kernels_of_the_package() - set(json.loads(printed(SCRIPT))) <= OTHER_PROVIDERS
    assert printed(FITS) == ""


LATER = """
import sys
import numpy as np
from sparselmm.base import compiling, kernels

for dtype in ("int32", "int64")[: int(sys.argv[1])]:
    codes = np.array([2, 0, 1, 0], dtype)
    order = kernels.sort_pairs(codes, np.zeros_like(codes), 3, 1)
    assert order.tolist() == [1, 3, 2, 0]
    stats = compiling.compiled_functions()["sort_pairs"].stats
    print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()),
          "numba.np.linalg" in sys.modules)
"""


@pytest.mark.parametrize("tried", [None, ((0, 1), (0, 2))])
def test_machine_code_is_loaded_without_what_compiling_needs(tmp_path, tried):
    def printed(signatures):
        other = "" if tried is None else (
            f"from sparselmm.base import compiling\ncompiling.TRIED = {tried}\n"
        )  # fmt: skip
        ran = subprocess.run(
            [sys.executable, "-c", other + LATER, str(signatures)], check=True,
            capture_output=True, text=True, env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
        )  # fmt: skip
        return ran.stdout.splitlines()

    assert printed(1) == ["0 1 True"]
    loaded = f"1 0 {tried is not None}"
    assert printed(1) == [loaded]
    assert printed(2) == [loaded, "1 1 True"]  # compiled after something was loaded
    assert printed(2) == [loaded, f"2 0 {tried is not None}"]
