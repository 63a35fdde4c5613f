"""The models of the reference fits, fitted by sparselmm once for all tests."""

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from reference_fits import ReferenceFit, reference_fit

import sparselmm


@dataclass(frozen=True, eq=False)
class Comparison:
    """A reference fit, our fit of the same model, and which of our terms is which of lme4's.

    ``order[i]`` is the number of our term that is ``ref.terms[i]``; the coefficients within a
    term stand in the same order.
    """

    ref: ReferenceFit
    fit: sparselmm.MixedLMResults
    order: tuple[int, ...]

    @cached_property
    def theta(self):
        """lme4's theta in our order of terms."""
        lams, start = [None] * len(self.order), 0
        for term, t in zip(self.ref.terms, self.order, strict=True):
            k = len(term.names)
            lam, stop = np.zeros((k, k)), start + k * (k + 1) // 2
            lam.T[np.triu_indices(k)] = self.ref.theta[start:stop]
            lams[t], start = lam, stop
        return self.fit.deviance.covariance.pick(lams)

    @cached_property
    def kept(self):
        """Columns of X in our fit."""
        return self.fit.deviance.cross.basis.kept

    @cached_property
    def change(self):
        """``ours = X_lme4 change`` for the independent columns that each program keeps."""
        names = [self.fit.model.exog_names[j] for j in self.kept]
        if set(names) == set(self.ref.fixef.index):
            return (np.array(list(self.ref.fixef.index))[:, None] == np.array(names)) * 1.0
        return np.linalg.lstsq(self.ref.X, self.fit.model.exog[:, self.kept], rcond=None)[0]

    @cached_property
    def criterion(self):
        """lme4's criterion, for our choice of independent columns."""
        if not self.ref.p:
            return self.ref.criterion
        return self.ref.criterion + self.ref.reml_shift(self.fit.model.exog[:, self.kept])

    def by_level(self, b):
        """For every reference term: b (l, k) and the numbers of the levels it lists."""
        for term, t in zip(self.ref.terms, self.order, strict=True):
            ours = self.fit.model.terms[t]
            labels = [str(label) for label in ours.levels.labels()]
            listed = [labels.index(level) for level in term.levels]
            part = self.fit.deviance.cross.slices[t]
            yield term, t, b[part].reshape(ours.n_levels, ours.k), listed


@cache
def compare(name):
    """Fit a reference model, once for all tests."""
    ref = reference_fit(name)
    missing = "missing" in ref.tags
    data = ref.data if missing else ref.rows.assign(prior=ref.weights)
    model = sparselmm.MixedLM.from_formula(
        ref.formula,
        data,
        missing="drop" if missing else "raise",
        weights="prior" if ref.weights_formula else None,
    )
    fit = model.fit(reml=ref.reml)
    ours = {(term.name.split(".")[0], term.columns): t for t, term in enumerate(model.terms)}
    order = tuple(ours.pop((term.group, term.names)) for term in ref.terms)
    assert not ours, "terms that the reference does not have"
    return Comparison(ref, fit, order)


def at_reference(name):
    """Our results at lme4's theta, where no search is involved."""
    c = compare(name)
    return c.fit.model.fit(reml=c.ref.reml, start_theta=c.theta, do_cg=False)


def close(ours, theirs, rtol=1e-6):
    """Equal up to a share of the largest value."""
    ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=rtol * np.abs(theirs).max())
