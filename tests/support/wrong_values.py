"""Values that are wrong for nearly every argument, and which kinds of argument may take some."""

import numpy as np
import pandas as pd

VALUES = {
    "None": None,
    "nan": np.nan,
    "inf": np.inf,
    "-1": -1,
    "0": 0,
    "3.5": 3.5,
    "1e300": 1e300,
    "10**30": 10**30,
    "True": True,
    "complex": 2.0 + 1.0j,
    "''": "",
    "'nope'": "nope",
    "bytes": b"nope",
    "object": object(),
    "[]": [],
    "{}": {},
    "{'nope': 1}": {"nope": 1},
    "ragged": [[1.0], [2.0, 3.0]],
    "array": np.ones(7),
    "complex array": np.ones(7, dtype=complex),
    "frame": pd.DataFrame({"nope": [1.0]}),
    "['nope', 'nope']": ["nope", "nope"],
    "lambda": lambda *a: None,
    "class": int,
}

# Values of the table that each kind of argument may take.
FLAG = {"True", "0"}
CHOICE = set()
LEVEL = set()
COUNT = set()
POSITIVE = {"3.5", "1e300"}
TEXT = {"''", "'nope'"}
NONE = {"None"}
ANYTHING = set(VALUES)
NUMBERS = {"3.5", "0", "-1", "True", "1e300", "10**30"}
