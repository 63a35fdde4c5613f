"""Simulate the ``pupils`` data set: pupils in classrooms in schools.

    python data/make_pupils.py

writes ``data/pupils.csv.gz``, byte for byte the same every time. The model is

    score = 50 + (3 + c_school) * ses + 1.2 * female - 0.1 * (class_size - 18)
            + a_school + a_classroom + e

with standard deviations 4 (a_school), 3 (a_classroom), 9 (e), 0.9 (c_school) and
correlation -0.3 between a_school and c_school. ``ses`` is clustered in schools (intraclass
correlation about 0.2) and standardised over all pupils. Classroom labels start again at
"1" in every school, so a classroom is known by school and label together.
"""

from __future__ import annotations

import gzip
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd

SEED = 20240607
N_SCHOOLS = 150

INTERCEPT, BETA_SES, BETA_FEMALE, BETA_SIZE = 50.0, 3.0, 1.2, -0.1
SD_SCHOOL, SD_SLOPE, CORRELATION = 4.0, 0.9, -0.3
SD_CLASSROOM, SD_RESIDUAL = 3.0, 9.0
MEAN_CLASS_SIZE = 18


def simulate(seed: int = SEED) -> pd.DataFrame:
    """One row per pupil, ordered by school and classroom."""
    rng = np.random.default_rng(seed)
    n_rooms = rng.integers(5, 12, size=N_SCHOOLS)
    school_of_room = np.repeat(np.arange(N_SCHOOLS), n_rooms)
    room_label = np.concatenate([np.arange(1, k + 1) for k in n_rooms])
    room_size = np.clip(rng.poisson(MEAN_CLASS_SIZE, size=len(room_label)), 8, 30)
    room = np.repeat(np.arange(len(room_label)), room_size)
    school, size = school_of_room[room], room_size[room]

    raw = rng.normal(0.0, 0.45, N_SCHOOLS)[school] + rng.normal(0.0, 0.9, len(room))
    ses = np.round((raw - raw.mean()) / raw.std(), 3)
    female = rng.integers(0, 2, size=len(room))

    cross = CORRELATION * SD_SCHOOL * SD_SLOPE
    cov = [[SD_SCHOOL**2, cross], [cross, SD_SLOPE**2]]
    a_school, c_school = rng.multivariate_normal([0.0, 0.0], cov, N_SCHOOLS, method="cholesky").T
    a_room = rng.normal(0.0, SD_CLASSROOM, len(room_label))
    score = (
        INTERCEPT
        + (BETA_SES + c_school[school]) * ses
        + BETA_FEMALE * female
        + BETA_SIZE * (size - MEAN_CLASS_SIZE)
        + a_school[school]
        + a_room[room]
        + rng.normal(0.0, SD_RESIDUAL, len(room))
    )
    return pd.DataFrame(
        {
            "school": [f"S{s + 1:03d}" for s in school],
            "classroom": room_label[room].astype(str),
            "score": np.round(score, 1),
            "ses": ses,
            "female": female,
            "class_size": size,
        }
    )


def main() -> None:
    """Write the file next to this script."""
    buffer = BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=9, mtime=0) as stream:
        stream.write(simulate().to_csv(index=False, lineterminator="\n").encode())
    (Path(__file__).resolve().parent / "pupils.csv.gz").write_bytes(buffer.getvalue())


if __name__ == "__main__":
    main()
