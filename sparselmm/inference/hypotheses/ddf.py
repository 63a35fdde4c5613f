"""Degrees of freedom for tests of fixed effects: which method, on which fit."""

from __future__ import annotations

from sparselmm.base.arguments import check_choice
from sparselmm.base.exceptions import ArgumentError
from sparselmm.inference.estimates import Estimates
from sparselmm.inference.hypotheses.hypotheses import Asymptotic, DenominatorDF, FTest
from sparselmm.inference.hypotheses.joint_information import joint_information
from sparselmm.inference.hypotheses.kenward_roger import KenwardRoger
from sparselmm.inference.hypotheses.satterthwaite import Satterthwaite
from sparselmm.inference.residual import ResidualEstimates

__all__ = ["DDF_METHODS", "DenominatorDF", "FTest", "denominator_df"]

DDF_METHODS = ("z", "satterthwaite", "kenward-roger")


def denominator_df(est: Estimates, method: str, like: DenominatorDF | None = None) -> DenominatorDF:
    """Tests of the fixed effects of a fit by one method.

    Parameters
    ----------
    method : {"z", "satterthwaite", "kenward-roger"}
    like : DenominatorDF, optional
        Another method's tests of the same fit, whose derivatives are used again.

    Raises
    ------
    ValueError
        When the method is unknown, or needs a REML fit (Kenward-Roger) or freely estimated
        variances and gets none.
    """
    method = check_choice(method, "ddf", DDF_METHODS)
    if method == "z":
        return Asymptotic(est)
    kind = Satterthwaite if method == "satterthwaite" else KenwardRoger
    if isinstance(est, ResidualEstimates):
        if kind is KenwardRoger and not est.pls.reml:
            return kind.of(est, None)  # says why not
        return kind.of(est, joint_information(est.fit, kind is KenwardRoger))
    if est.n_fixed or est.psi_scale is not None:
        raise ArgumentError(
            f"ddf={method!r} needs a fit by plain ML or REML; in this one parameters were held "
            "fixed or the fixed effects were penalized. Use ddf='z'"
        )
    info = like.info if isinstance(like, Satterthwaite | KenwardRoger) else None
    return kind.of(est, info)
