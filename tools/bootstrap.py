"""Create a virtual environment and install sparselmm in it, system libraries included.

    python tools/bootstrap.py            report what is here and what is missing
    python tools/bootstrap.py .venv      install what is missing, then the package

Uses nothing but the standard library. The environment steers it:

    SUITESPARSE_INCLUDE_DIR, SUITESPARSE_LIBRARY_DIR    use the SuiteSparse found there, no other
    ANY_BLAS=1                                          do not ask for OpenBLAS
"""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON = (3, 10)
PY = f"python{sys.version_info[0]}.{sys.version_info[1]}"

# scikit-sparse 0.5 states SuiteSparse >= 7.4 and has a part in C++; 0.4.16 builds against 5.12.
FIRST_SUITESPARSE_FOR_05 = (7, 4)


class SuiteSparse(NamedTuple):
    """Headers of an installed SuiteSparse."""

    include: Path
    version: tuple[int, int]

    @property
    def scikit_sparse(self) -> str:
        """Requirement for the scikit-sparse releases that build against these headers."""
        new = self.version >= FIRST_SUITESPARSE_FOR_05
        return "scikit-sparse>=0.5,<0.6" if new else "scikit-sparse>=0.4.16,<0.5"

    def build_environment(self) -> dict[str, str]:
        """Environment that makes the compiler and the loader take this copy and no other."""
        if Path("/usr/include") in (self.include, self.include.parent):
            return dict(os.environ)
        above = self.include.parent if self.include.name == "suitesparse" else self.include
        lib = os.environ.get("SUITESPARSE_LIBRARY_DIR", str(above.parent / "lib"))
        flags = {"CFLAGS": f"-I{self.include}", "LDFLAGS": f"-L{lib} -Wl,-rpath,{lib}"}
        return {**os.environ, **{k: f"{v} {os.environ.get(k, '')}" for k, v in flags.items()}}


class Need(NamedTuple):
    """Something the build needs from the system, and its package in three package managers."""

    what: str
    present: bool
    apt: str
    brew: str
    conda: str


def include_dirs() -> list[Path]:
    """Folders where SuiteSparse's headers may be, in order of preference."""
    chosen = os.environ.get("SUITESPARSE_INCLUDE_DIR")
    if chosen:
        return [Path(chosen)]
    named = [os.environ[k] for k in ("CONDA_PREFIX", "HOMEBREW_PREFIX") if os.environ.get(k)]
    prefixes = [*named, "/usr", "/usr/local", "/opt/homebrew", "/opt/local"]
    return [Path(p, "include", *sub) for p in prefixes for sub in (["suitesparse"], [])]


def find_suitesparse() -> SuiteSparse | None:
    """Return the first folder with CHOLMOD's headers, and the version they state."""
    for folder in include_dirs():
        config = folder / "SuiteSparse_config.h"
        if config.is_file() and (folder / "cholmod.h").is_file():
            text = config.read_text(encoding="utf-8", errors="replace")
            numbers = [
                re.search(rf"#define\s+SUITESPARSE_{part}_VERSION\s+(\d+)", text)
                for part in ("MAIN", "SUB")
            ]
            major, minor = (int(match[1]) if match else 0 for match in numbers)
            return SuiteSparse(folder, (major, minor))
    return None


def has_openblas() -> bool:
    """Whether OpenBLAS is installed; macOS has a good BLAS of its own."""
    if os.environ.get("ANY_BLAS") or sys.platform == "darwin":
        return True
    conda = Path(os.environ.get("CONDA_PREFIX", os.devnull), "lib")
    return bool(ctypes.util.find_library("openblas") or list(conda.glob("libopenblas*")))


def needs() -> list[Need]:
    """Everything the build needs from the system, missing or not."""
    has_venv = all(importlib.util.find_spec(name) for name in ("venv", "ensurepip"))
    has_header = Path(sysconfig.get_path("include"), "Python.h").is_file()
    found = find_suitesparse()
    has_c = any(map(shutil.which, ("cc", "gcc", "clang")))
    has_cpp = any(map(shutil.which, ("c++", "g++", "clang++")))
    needs_cpp = found is None or found.version >= FIRST_SUITESPARSE_FOR_05
    has_compilers = has_c and (has_cpp or not needs_cpp)
    return [
        Need("Python's venv module", has_venv, f"{PY}-venv", "python", "python"),
        Need("Python's C headers", has_header, f"{PY}-dev", "python", "python"),
        Need("C and C++ compilers", has_compilers, "build-essential", "gcc", "compilers"),
        Need("SuiteSparse", bool(found), "libsuitesparse-dev", "suite-sparse", "suitesparse"),
        Need("OpenBLAS", has_openblas(), "libopenblas-dev", "openblas", "openblas"),
    ]


def missing_needs() -> list[Need]:
    """Return what the build needs and the system lacks."""
    return [need for need in needs() if not need.present]


def run(*command: str | Path, check: bool = True, env: dict[str, str] | None = None) -> bool:
    """Show a command, run it, and say whether it succeeded."""
    print("+", *command, flush=True)
    return subprocess.run([str(word) for word in command], check=check, env=env).returncode == 0


def apt_prefix() -> list[str] | None:
    """How to call apt-get with the right to install, or None where that is impossible."""
    if not shutil.which("apt-get"):
        return None
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    if sudo and subprocess.run([sudo, "-n", "true"], check=False, **quiet).returncode == 0:
        return [sudo, "-n"]
    return None


def apt_install(missing: list[Need], prefix: list[str]) -> None:
    """Install packages with apt-get, which may stop to ask nothing."""
    apt = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
    # One unreachable third-party source fails the update, yet need not fail the installation.
    run(*apt, "update", "-q", check=False)
    options = ["-y", "-q", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"]
    run(*apt, "install", *options, *(need.apt for need in missing), check=False)


def instructions(missing: list[Need]) -> str:
    """Say what is missing and the commands that install it."""
    what = ", ".join(need.what for need in missing)
    apt, brew, conda = (
        " ".join(dict.fromkeys(getattr(need, manager) for need in missing))
        for manager in ("apt", "brew", "conda")
    )
    lines = [
        f"sparselmm cannot be built for {sys.executable}; missing: {what}.",
        "Install with one of these, then run the same command again:",
        f"  Debian, Ubuntu   sudo apt-get update && sudo apt-get install {apt}",
        f"  Homebrew         brew install {brew}",
        f"  conda            conda install -c conda-forge {conda}",
    ]
    if find_suitesparse() is None:
        lines += [
            "Headers of SuiteSparse (cholmod.h, SuiteSparse_config.h) were looked for in",
            *(f"  {folder}" for folder in include_dirs()),
            "Set SUITESPARSE_INCLUDE_DIR and SUITESPARSE_LIBRARY_DIR if they are elsewhere.",
        ]
    if not has_openblas():
        lines.append("Set ANY_BLAS=1 to build without OpenBLAS; large models will fit more slowly.")
    return "\n".join(lines)


def require_system() -> None:
    """Install what the system lacks where that is allowed; otherwise stop with instructions."""
    missing = missing_needs()
    prefix = apt_prefix()
    if missing and prefix is not None:
        apt_install(missing, prefix)
        missing = missing_needs()
    if missing:
        sys.exit(instructions(missing))


def install(venv: Path) -> None:
    """Create the virtual environment, and install the package in it with all its extras."""
    require_system()
    suitesparse = find_suitesparse()
    assert suitesparse is not None  # require_system stops otherwise
    python = venv / "bin" / "python"
    if not python.exists():
        run(sys.executable, "-m", "venv", venv)
    pip = [python, "-m", "pip"]
    env = suitesparse.build_environment()
    wanted = suitesparse.scikit_sparse
    run(*pip, "install", "-q", wanted, "-e", f"{ROOT}[dev]", env=env)
    if not run(python, "-c", "import sksparse.cholmod", check=False):
        print("This scikit-sparse was built against another SuiteSparse; building it again.")
        again = ["--force-reinstall", "--no-deps", "--no-cache-dir"]
        run(*pip, "install", "-q", *again, wanted, env=env)
        run(python, "-c", "import sksparse.cholmod")


def report() -> None:
    """Print what was found on the system and what would be installed."""
    for need in needs():
        print(f"{need.what:22}{'found' if need.present else 'missing'}")
    found = find_suitesparse()
    if found:
        version = ".".join(map(str, found.version))
        print(f"SuiteSparse {version} in {found.include}: {found.scikit_sparse}")
    if missing_needs():
        sys.exit(instructions(missing_needs()))


def main(arguments: list[str]) -> None:
    """Run as a script: install into the folder named, or report when none is."""
    if sys.version_info < OLDEST_PYTHON:
        sys.exit(
            f"sparselmm needs Python 3.10 or later; {sys.executable} is {sys.version.split()[0]}. "
            "Name another: make PYTHON=/path/to/python3"
        )
    if not arguments:
        report()
        return
    try:
        install(Path(arguments[0]))
    except subprocess.CalledProcessError as error:
        sys.exit(f"Failed with status {error.returncode}: {' '.join(map(str, error.cmd))}")


if __name__ == "__main__":
    main(sys.argv[1:])
