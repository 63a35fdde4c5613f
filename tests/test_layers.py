"""Imports inside the package go downwards, or sideways without a circle, at the top of a file.

LAYERS lists the top-level modules from the bottom up. A new module is registered there.
"""

import ast
from configparser import ConfigParser
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

LAYERS = (  # lowest first; imports go downwards or sideways, never in a circle
    "base",
    "datasets",
    "design",
    "factor",
    "likelihood",
    "inference",
    "results",
    "model",
    "formula",
    "batched",
    "__init__ __main__",
)
HOMES = {  # modules that may import these packages; every other package may be imported anywhere
    "sksparse": "providers",
    "cvxopt": "providers",
    "numba": "kernels",
    "patsy": "formula",
    "pandas": "formula contrasts holders labels prediction results model summary tables datasets"
    " plots __main__",
}

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sparselmm"
FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
LEVEL = {module: level for level, line in enumerate(LAYERS) for module in line.split()}


def imports(node: ast.AST) -> list[str]:
    """Dotted names that the import statements in and below a node bring in."""
    names = []
    for found in ast.walk(node):
        if isinstance(found, ast.Import):
            names += [alias.name for alias in found.names]
        elif isinstance(found, ast.ImportFrom):
            assert found.level == 0, f"line {found.lineno}: write own imports absolutely"
            names += [f"{found.module}.{alias.name}" for alias in found.names]
    return names


def own(names: list[str]) -> set[str]:
    """Reduce the names that come from this package to the modules that hold them."""
    modules = set()
    for head, *tail in (name.split(".") for name in names):
        if head == "sparselmm":
            ends = range(len(tail), -1, -1)
            known = [".".join(tail[:end] + last) for end in ends for last in ([], ["__init__"])]
            modules.add(next((m for m in known if m in FILES), "__init__"))
    return modules


def top(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize("module", FILES)
def test_imports_respect_the_layers(module):
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    assert top(module) in LEVEL, f"register {top(module)!r} in LAYERS of {Path(__file__).name}"
    for name in imports(tree):
        home = HOMES.get(top(name), top(module))
        assert top(module) in home.split(), f"{top(name)} may be imported only in: {home}"
    upward = {m for m in own(imports(tree)) if LEVEL.get(top(m), 0) > LEVEL[top(module)]}
    assert not upward, f"{module} imports from a layer above its own"
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    hidden = {m for function in functions for m in own(imports(function))}
    assert not hidden, f"{module} imports inside a function; move the import or the code"


def test_no_circle():
    parse = {m: ast.parse(path.read_text(encoding="utf-8")) for m, path in FILES.items()}
    graph = {module: own(imports(tree)) - {module} for module, tree in parse.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_every_folder_is_packaged():
    config = ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    folders = {path.parent.relative_to(ROOT) for path in FILES.values()}
    missing = {".".join(f.parts) for f in folders} - set(config["options"]["packages"].split())
    assert not missing, "add to packages in setup.cfg"
