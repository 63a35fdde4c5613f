"""What `import sparselmm` costs beside the libraries it stands on, in CPU seconds.

    PYTHONPATH=tests OPENBLAS_NUM_THREADS=1 python -m benchmarks.imports

Fresh processes, in turn; the least of `ROUNDS` of each.
"""

import os
import subprocess
import sys

ROUNDS = 9
BELOW = "import numpy, scipy.sparse, scipy.linalg, pandas"
CODES = {"libraries": BELOW, "sparselmm": "import sparselmm"}


def seconds(code: str) -> float:
    """CPU seconds of a new process."""
    before = os.times()
    subprocess.run([sys.executable, "-c", code], check=True)
    after = os.times()
    return (
        after.children_user + after.children_system - before.children_user - before.children_system
    )


def main() -> None:
    """Print the times, their ratio and their difference."""
    times = {name: [seconds(code)] for name, code in CODES.items()}  # writes bytecode
    for _ in range(ROUNDS):
        for name, code in CODES.items():
            times[name].append(seconds(code))
    below, ours = (min(times[name][1:]) for name in CODES)
    print(f"{BELOW}: {below:.2f} s")
    print(f"import sparselmm: {ours:.2f} s, {ours / below:.2f} times, {ours - below:.2f} s more")


if __name__ == "__main__":
    main()
