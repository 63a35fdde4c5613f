"""Every structure of the residuals beside nlme, glmmTMB, mmrm and SAS.

``python tests/support/residual_table.py`` prints, per structure, its reference fits; the lowest and
the highest difference of our log-likelihood to theirs; the largest difference of a fixed effect and
of a standard error, relative; evaluations, the median and the most. Then SAS's -2 REML
log-likelihoods of ``FEV1 ~ 1``, which are printed to one digit.
"""

from __future__ import annotations

import warnings
from collections import defaultdict

import numpy as np
from residual_fits import CASES, SAS, Case, data_of, deviations, fitted

import sparselmm


def structure(case: Case) -> str:
    """What a case has of residual= and dispersion=."""
    kind = (case.residual or "").split("(")[0]
    kind += "h" if "hom=False" in (case.residual or "") else ""
    words = [kind] * bool(kind) + ["dispersion"] * bool(case.dispersion)
    return " + ".join(words) + ("" if case.interior else ", singular")


def main() -> None:
    """Print both tables."""
    found = defaultdict(list)
    for name, case in CASES.items():
        fit, ref = fitted(name)
        gaps = (fit.llf - ref["logLik"], *deviations(fit, ref), fit.opt.n_evaluations)
        found[structure(case)].append(gaps)
    print(f"{'structure':22} fits  {'log-lik.':^19} {'beta':>8} {'SE':>8}  eval.")
    for kind, rows in sorted(found.items()):
        gap, beta, se, count = np.transpose(rows)
        print(
            f"{kind:22} {len(rows):4} {gap.min():9.1e} {gap.max():9.1e} {beta.max():8.1e} "
            f"{se.max():8.1e} {np.median(count):4.0f} {count.max():3.0f}"
        )
    every = [row[3] for kind, rows in found.items() if "singular" not in kind for row in rows]
    print(f"evaluations of interior fits: median {np.median(every):.0f}, at most {max(every)}")
    print(f"\n{'SAS':24} {'printed':>8} {'here':>12} eval.")
    for text, printed in SAS.items():
        fit = sparselmm.mixedlm("FEV1 ~ 1", data_of("fev_data"), residual=text).fit()
        print(f"{text:24} {printed:8} {-2.0 * fit.llf:12.5f} {fit.opt.n_evaluations:4}")


if __name__ == "__main__":
    warnings.simplefilter("ignore", sparselmm.ModelWarning)
    main()
