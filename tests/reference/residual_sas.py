"""Numbers of SAS and mmrm for the FEV1 data, from a clone of openpharma/mmrm (Apache-2.0).

    python tests/reference/residual_sas.py /path/to/mmrm

SAS's PROC MIXED fitted ``FEV1 = ARMCD`` by REML with every structure: with DDFM=KR(LINEAR)
(``design/ddfm_covtype``), with EMPIRICAL (``design/Robust``), with conditional predictions for all
rows (``design/predict_interval``). mmrm's own table is the summary printed in its README.
"""

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

REPO = Path(sys.argv[-1])
OUT = Path(__file__).parents[2] / "data" / "reference" / "residual" / "sas" / "fev.json"
NAMES = {
    "us": "us", "ar1": "ar1", "ar1h": "arh1", "cs": "cs", "csh": "csh", "toep": "toep",
    "toeph": "toeph", "adh": "adh", "exp": "spexp",
}  # fmt: skip


def shown(path: str) -> str:
    """A file at the head of the clone."""
    done = subprocess.run(["git", "-C", str(REPO), "show", f"HEAD:{path}"], capture_output=True,
                          text=True, check=True)  # fmt: skip
    return done.stdout


def table(path: str) -> list[dict[str, str]]:
    """Rows of a CSV file."""
    return list(csv.DictReader(io.StringIO(shown(path))))


def covariance(path: str) -> list[float]:
    """Variance of the intercept, covariance, variance of the treatment's effect."""
    first, second = table(path)[:2]
    return [float(first["Col1"]), float(second["Col1"]), float(second["Col2"])]


def main() -> None:
    """Write the file."""
    out: dict[str, object] = {
        "source": "openpharma/mmrm (Apache-2.0), "
        + subprocess.run(["git", "-C", str(REPO), "rev-parse", "HEAD"], capture_output=True,
                         text=True, check=True).stdout.strip(),
        "model": "FEV1 ~ ARMCD, REML; the effect of TRT against PBO",
    }  # fmt: skip
    linear, robust, weighted, llf = {}, {}, {}, {}
    for ours, theirs in NAMES.items():
        name = f"kr_{theirs}" if theirs == "spexp" else f"kr1_{theirs}"  # swapped in their script
        row = table(f"design/ddfm_covtype/{name}.csv")[0]
        linear[ours] = [float(row[key]) for key in ("Estimate", "StdErr", "DF", "Probt")]
        text = shown(f"design/ddfm_covtype/{name}.txt")
        llf[ours] = float(re.search(r"-2 Res Log Likelihood\s+([\d.]+)", text)[1])
        robust[ours] = covariance(f"design/Robust/empirical_{theirs}_covb.csv")
        weighted[ours] = covariance(f"design/Robust/empirical_{theirs}_weighted_covb.csv")
    out |= {
        "minus_2_llf": llf, "kenward_roger_linear": linear, "empirical": robust,
        "empirical_weighted": weighted,
    }  # fmt: skip
    out["prediction_us"] = [
        [None if v == "NA" else float(v) for k, v in row.items() if k]
        for row in table("design/predict_interval/un_satterthwaite.csv")[:40]
    ]
    out["prediction_columns"] = ["FEV1", "mean", "mean_se", "prediction", "prediction_se"]
    number = r"(-?[\d.]+)"
    row = rf"^#> (\S.*?)\s+{number}\s+{number}\s+{number}\s+{number}\s+<?\s*[\d.e-]+"
    lines = re.findall(row, shown("README.md"), flags=re.MULTILINE)
    out["mmrm_model"] = "FEV1 ~ RACE + SEX + ARMCD * AVISIT + us(AVISIT | USUBJID)"
    out["mmrm_satterthwaite"] = {name: [float(x) for x in rest[:4]] for name, *rest in lines}
    OUT.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
