"""Imports inside the package go downwards, or sideways without a circle, at the top of a file."""

import ast
from configparser import ConfigParser
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from sparselmm.results.core import MixedLMResults
from sparselmm.results.general.core import MixedGLMResults
from sparselmm.results.krylov import KrylovResults
from sparselmm.results.residual.core import MMRMResults, ResidualResults

HOUSE = {  # wings, lowest first; in each its files and folders, floor by floor
    "base": (
        "exceptions types",
        "arguments memory progress reduction smallmatrix storage threads vectors",
        "compiling",
        "grid kernels kernels_cholesky kernels_families kernels_krylov kernels_rows kernels_stacks "
        "other_names providers seeds",
        "cholesky workers",
    ),
    "datasets": (),
    "design": (
        "levels residual",
        "column_types exact_labels known_covariance terms",
        "factors relationships rows sources validate",
        "formula",
        "kinds",
        "spec",
        "built",
        "marginality new_rows responses row_arguments subsets",
        "arrays build",
        "passes",
    ),
    "factor": (
        "basis pattern",
        "crossprod factorization",
        "bases centred coupling submodels",
        "partition_pairs row_sums",
        "partitions",
        "layout",
        "remainders",
        "solver",
        "candidates krylov",
        "plan",
    ),
    "likelihood": (
        "term_covariance",
        "patterned",
        "covariance expected",
        "evaluations held moments",
        "boundary curvature",
        "deviance",
        "quadratic",
        "dense rebased record",
        "zeros",
        "optimize starting_points",
        "krylov",
        "engine identifiability multistart special_directions",
        "laplace many residual",
    ),
    "inference": (
        "variances wald",
        "effects packing",
        "estimates",
        "residual",
        "residual_profile residual_rows",
        "diagnostics general hypotheses intervals prediction resampling",
    ),
    "results": (
        "given plots print",
        "tables",
        "methods",
        "linear",
        "independent",
        "core",
        "general krylov residual",
        "compare",
    ),
    "model": (
        "cluster generalized_arguments partitions probing regularized",
        "linear mixedglm",
        "statsmodels",
        "fit",
        "request",
        "krylov residual",
        "linear_fit",
        "linear_fits",
        "mixedlm",
        "command marginal_effects mmrm pymmeans_info regressor warming",
    ),
}
HOMES = {  # where these packages may be imported; every other package may be imported anywhere
    "sksparse": "base.providers",
    "cvxopt": "base.providers",
    "numba": "base.compiling base.vectors",
    "llvmlite": "base.vectors",
    "patsy": "design.formula",
    "sklearn": "model.regressor",
    "marginaleffects": "model.marginal_effects",
    "pymmeans": "model.pymmeans_info",
    "pandas": "datasets design results model __main__",
}
APART = {"diagnostics", "hypotheses", "intervals", "prediction", "resampling"}  # of inference

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sparselmm"
FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
TREES = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in FILES.items()}
ENTRANCES = {"__init__", "__main__", "sklearn", "adapters", *(f"{wing}.__init__" for wing in HOUSE)}
WINGS = [*HOUSE, "__init__", "__main__", "sklearn", "adapters"]
FLOOR = {
    f"{wing}.{room}": floor
    for wing, floors in HOUSE.items()
    for floor, line in enumerate(floors)
    for room in line.split()
}


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


def wing(module: str) -> str:
    return module.split(".")[0]


def room(module: str) -> str:
    """Wing, and the file or folder in it."""
    return ".".join(module.split(".")[:2])


@pytest.mark.parametrize("module", FILES)
def test_imports_respect_the_floors(module):
    tree = TREES[module]
    assert wing(module) in WINGS, f"{module} stands outside the wings: {', '.join(HOUSE)}"
    for name in imports(tree):
        homes = HOMES.get(wing(name), module).split()
        inside = any(f"{module}.".startswith(f"{home}.") for home in homes)
        assert inside, f"{wing(name)} may be imported only in: {homes}"
    upward = {m for m in own(imports(tree)) if WINGS.index(wing(m)) > WINGS.index(wing(module))}
    assert not upward, f"{module} imports from a wing above its own"
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    hidden = {m for function in functions for m in own(imports(function))}
    assert not hidden, f"{module} imports inside a function; move the import or the code"
    if module in ENTRANCES:
        return
    assert room(module) in FLOOR, f"register {room(module)!r} in HOUSE of {Path(__file__).name}"
    near = {m for m in own(imports(tree)) if wing(m) == wing(module)}
    assert not near & ENTRANCES, f"{module} imports from the face of its own wing"
    above = {m for m in near if FLOOR[room(m)] > FLOOR[room(module)]}
    assert not above, f"{module} imports from a floor above its own"
    own_room = room(module).removeprefix("inference.")
    beside = {m for m in near if {room(m).removeprefix("inference."), own_room} <= APART}
    beside = {m for m in beside if room(m) != room(module)}
    assert not beside, f"{module} imports from a room that must stand apart from its own"


def test_no_circle():
    graph = {module: own(imports(tree)) - {module} for module, tree in TREES.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_every_folder_is_packaged():
    config = ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    folders = {path.parent.relative_to(ROOT) for path in FILES.values()}
    missing = {".".join(f.parts) for f in folders} - set(config["options"]["packages"].split())
    assert not missing, "add to packages in setup.cfg"


MOST_LINES = 500
LONG = "likelihood.deviance"  # known, to be taken apart


@pytest.mark.parametrize("module", FILES)
def test_modules_are_short(module):
    lines = FILES[module].read_text(encoding="utf-8").count("\n")
    assert lines <= MOST_LINES or module in LONG.split(), f"find the second thing in {module}"


ENGINES = "BlockSolver KrylovSolver TiledSolver ProfiledDeviance KrylovDeviance RebasedDeviance"


@pytest.mark.parametrize("module", FILES)
def test_engines_are_made_in_one_place(module):
    """Elsewhere a solver may only make another of its kind, or be asked for its price."""
    if module == "likelihood.engine" or module.startswith("factor."):
        return
    called = [n.func for n in ast.walk(TREES[module]) if isinstance(n, ast.Call)]
    made = {f.id for f in called if isinstance(f, ast.Name)} & set(ENGINES.split())
    assert not made, f"{module} makes {', '.join(sorted(made))}; likelihood/engine.py makes engines"


METHODS = [
    m
    for m in FILES
    if m.startswith(("results.methods.", "results.general.", "results.residual.", "model."))
]


@pytest.mark.parametrize("module", METHODS)
def test_methods_inherit_what_they_ask(module):
    """Parts of a class name the parts they stand on: no stubs, no attributes taken on trust."""
    text = FILES[module].read_text(encoding="utf-8")
    for trust in ("TYPE_CHECKING", "type: ignore[attr-defined]", ": Any = self\n"):
        assert trust not in text, f"{module} asks a sibling that it does not inherit from: {trust}"


KINDS = (MixedLMResults, KrylovResults, ResidualResults, MMRMResults, MixedGLMResults)
BOUND_IN = "linear independent core krylov residual.core general.core"


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_results_binds_each_part_once(kind):
    """A public name stands in one part; where parts are bound it may be extended."""
    bound = {f"sparselmm.results.{module}" for module in BOUND_IN.split()}
    for name in (name for name in dir(kind) if not name.startswith("_")):
        parts = [
            f"{part.__module__}.{part.__qualname__}" for part in kind.__mro__
            if name in vars(part) and part.__module__ not in bound
            and not getattr(vars(part)[name], "__isabstractmethod__", False)
        ]  # fmt: skip
        assert len(parts) <= 1, f"{name} of {kind.__name__} stands in {' and in '.join(parts)}"
