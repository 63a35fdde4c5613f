"""What a fit of a linear mixed model gives back, in the words of statsmodels.

Every number is computed by a function on arrays in :mod:`sparselmm.likelihood.deviance`,
:mod:`sparselmm.inference.estimates`, :mod:`sparselmm.inference.effects` or
:mod:`sparselmm.inference.prediction.means`; here it gets its label. What costs more than the fit
itself is computed when first asked for.
"""

from __future__ import annotations

from typing import Any

from sparselmm.base.other_names import NamesOthers
from sparselmm.results.independent import IndependentResults
from sparselmm.results.methods.augment import AugmentResults
from sparselmm.results.methods.diagnostics import DiagnosticResults
from sparselmm.results.methods.exact import ExactResults
from sparselmm.results.methods.profiles import ProfileMethods
from sparselmm.results.methods.reports import check_lines


class MixedLMResults(
    DiagnosticResults, AugmentResults, ExactResults, ProfileMethods, IndependentResults, NamesOthers
):
    """A fitted linear mixed model.

    Results are labelled (pandas) when the model was given pandas objects and plain arrays when it
    was given arrays, except that ``vcomp`` is always an array and random effects are always
    labelled.

    Units: ``cov_re``, ``vcomp``, ``scale``, ``bse_re`` and the summary are in the units of the
    data. As in statsmodels, the variance entries of ``params``, ``bse``, ``tvalues``,
    ``conf_int`` and ``cov_params`` are ratios to ``scale``.

    Parameters
    ----------
    model : object
        The model, kept as ``results.model``; nothing of it is used here.
    built : BuiltDesign
        Design, recipe and row labels.
    deviance : ProfiledDeviance
        The sparse engine, which also answers questions after the fit.
    fit : PLSFit
        ``deviance.at(opt.theta)``.
    opt : OptSummary
        How the optimizer got there.
    use_sqrt : bool
        Kept as ``results.use_sqrt``.
    given : Given, optional
        Masks, held parameters and penalties of the fit.

    Attributes
    ----------
    model, built, deviance, opt, use_sqrt, given
        As given.
    pls : PLSFit
        The penalized least-squares solution at the optimum.

    Examples
    --------
    >>> import sparselmm
    >>> data = sparselmm.datasets.load("sleepstudy")
    >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
    >>> fit.ranef["Subject"].loc["308"].round(2).to_dict()
    {'Intercept': 2.26, 'Days': 9.2}
    >>> fit.varcorr.sdcor.round(2).tolist()
    [24.74, 5.92, 0.07, 25.59]
    """

    def _residual_figure(self) -> Any:
        return self.plot_diagnostics()

    def _check_lines(self) -> list[str]:
        return check_lines(self.check())
