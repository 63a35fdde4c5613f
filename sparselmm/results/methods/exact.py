"""Exact tests of variances, the conditional AIC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sparselmm.base.arguments import check_choice, check_strings
from sparselmm.base.exceptions import DataError
from sparselmm.inference.diagnostics.caic import ConditionalAIC, conditional_aic
from sparselmm.inference.hypotheses import comparison as tests
from sparselmm.inference.hypotheses.rlrt import ExactTest, NullSpectrum, exact_test
from sparselmm.results.methods.smaller_models import ComparisonResults


class ExactResults(ComparisonResults):
    """Tests of variances whose null distribution is simulated, and the conditional AIC."""

    def exact_rlrt(
        self, term: str | None = None, nsim: int = 10_000, seed: Any = None
    ) -> ExactTest:
        """Test one variance by its restricted likelihood ratio, with a simulated null distribution.

        The distribution is exact in finite samples when the tested term is the only random effect;
        otherwise it is the approximation of Greven et al. (2008), which takes the other random
        effects as known.

        Parameters
        ----------
        term : str, optional
            Term to test, with one coefficient per level: its name in ``varcorr``. Not needed when
            there is one.
        nsim : int
            Number of simulated ratios.
        seed : int or numpy Generator, optional

        Returns
        -------
        ExactTest
            ``statistic``, ``pvalue``, its Monte Carlo standard error and the sample.

        Raises
        ------
        DataError
            When the fit is not by REML, or the term is unknown or has several coefficients.

        References
        ----------
        Crainiceanu, C. M. and Ruppert, D. (2004). Likelihood ratio tests in linear mixed models
        with one variance component. *JRSS B* 66, 165-185, theorem 1.

        Greven, S., Crainiceanu, C. M., Kuechenhoff, H. and Peters, A. (2008). Restricted
        likelihood ratio testing for zero variance components in linear mixed models. *JCGS* 17,
        870-891, section 2.2.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("Dyestuff")
        >>> fit = sparselmm.mixedlm("Yield ~ 1 + (1 | Batch)", data).fit()
        >>> test = fit.exact_rlrt(nsim=20_000, seed=1)
        >>> round(test.statistic, 3), test.pvalue < 0.01
        (6.369, True)
        """
        if not self.pls.reml:
            raise DataError("exact_rlrt needs a fit by REML; for an ML fit use exact_lrt")
        t = self._tested(term, "exact_rlrt")
        (found,) = self._without_term(t)
        null = NullSpectrum.of(self.deviance.cross, t)
        return exact_test(found.lrt, null, reml=True, nsim=nsim, seed=seed)

    def exact_lrt(
        self, drop: Sequence[str] = (), nsim: int = 10_000, seed: Any = None
    ) -> ExactTest:
        """Test the only variance of the model, and fixed effects with it, by the likelihood ratio.

        Parameters
        ----------
        drop : sequence of str
            Fixed effects (terms of the formula, or columns of X) that are zero under the null.
        nsim : int
        seed : int or numpy Generator, optional

        Returns
        -------
        ExactTest

        Raises
        ------
        DataError
            When the fit is not by ML, has several random effects, or a name in ``drop`` is
            unknown.

        References
        ----------
        Crainiceanu, C. M. and Ruppert, D. (2004). Likelihood ratio tests in linear mixed models
        with one variance component. *JRSS B* 66, 165-185, theorem 1.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("Rail")
        >>> fit = sparselmm.mixedlm("travel ~ 1 + (1 | Rail)", data).fit(reml=False)
        >>> test = fit.exact_lrt(nsim=2_000, seed=1)
        >>> round(test.statistic, 2), test.pvalue < 0.01
        (35.37, True)
        """
        if self.pls.reml:
            raise DataError("exact_lrt needs a fit by ML (reml=False); after REML use exact_rlrt")
        if len(self._est.terms) != 1:
            raise DataError(
                f"exact_lrt needs a model with one random effect, this one has "
                f"{len(self._est.terms)} terms; fit by REML and use exact_rlrt(term=...)"
            )
        t = self._tested(None, "exact_lrt")
        statistic, n_fixed = tests.null_lrt(
            self.deviance, self.pls.theta, self._est.layout, self._named_columns(drop)
        )
        null = NullSpectrum.of(self.deviance.cross, t)
        return exact_test(statistic, null, reml=False, n_fixed=n_fixed, nsim=nsim, seed=seed)

    def _named_columns(self, names: Sequence[str]) -> list[int]:
        names = check_strings(names, "drop")
        design, columns = self.built.layout, self.built.spec.term_columns() or {}
        out: list[int] = []
        for name in names:
            if name in columns:
                out += columns[name]
            elif name in design.x_names:
                out.append(design.x_names.index(name))
            else:
                raise DataError(
                    f"drop names no fixed effect {name!r}; columns of X are {design.x_names}"
                )
        return sorted(set(out))

    def _tested(self, term: str | None, method: str) -> int:
        """Position of the term an exact test is about."""
        self._check_estimated(method)
        terms = self._est.terms
        if self.deviance.known_scale is not None:
            raise DataError(f"{method} needs a residual variance that is estimated")
        names = [one.name for one in terms]
        if term is None and len(terms) != 1:
            raise DataError(
                f"pass term=, one of {names}: the model has {len(terms)} random effects"
            )
        if term is not None:
            term = check_choice(term, "term", names, "random effect")
        t = 0 if term is None else names.index(term)
        if terms[t].k != 1:
            raise DataError(
                f"{method} tests one variance, and {names[t]!r} has {terms[t].k} coefficients; "
                "ranova() tests each of them with its covariances"
            )
        return t

    def _without_term(self, t: int) -> list[tests.Deletion]:
        drop = tests.RandomDrop("", t, np.zeros((self._est.terms[t].k, 0)), True)
        return tests.delete_random(self.deviance, self.pls.theta, [drop])

    def caic(self) -> ConditionalAIC:
        """Conditional Akaike information of Greven & Kneib.

        For choosing among models by how well they predict further rows of the *same* groups. The
        number of parameters is the trace of the derivative of the fitted values in the response,
        which follows the variance parameters too.

        Returns
        -------
        ConditionalAIC
            ``caic``, ``llf``, ``df`` and ``df_known_variances``.

        Notes
        -----
        R's cAIC4 1.0 halves a term of this derivative in its analytic formula; its ``df`` are
        larger by a few hundredths in ordinary models. Finite differences of refits agree with the
        number given here.

        References
        ----------
        Greven, S. and Kneib, T. (2010). On the behaviour of marginal and conditional AIC in linear
        mixed models. *Biometrika* 97, 773-789, theorem 3.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> round(fit.caic().df, 4)
        31.2535
        """
        self._check_estimated("caic")
        return conditional_aic(self.deviance, self.pls.theta)
