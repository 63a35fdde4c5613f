"""Analysis of variance: F tests of the terms of the formula."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sparselmm.base.arguments import check_choice
from sparselmm.base.exceptions import DataError, SpecificationWarning, catchable, warn_user
from sparselmm.design.marginality import term_structure
from sparselmm.inference.hypotheses.anova import TYPES, term_contrasts
from sparselmm.results.methods.base import ResultsBase, from_sums
from sparselmm.results.print.notebook import as_table


class AnovaResults(ResultsBase):
    """Tests of the terms of any linear fit."""

    @from_sums
    @as_table
    def anova(self, type: int | str = 3, ddf: str = "satterthwaite") -> pd.DataFrame:
        """Analysis of variance of the terms of the formula, with F tests.

        Parameters
        ----------
        type : {3, 2, 1} or {"III", "II", "I"}
            Hypotheses: each term given all others, with those that contain it averaged over (III)
            or left out (II), or terms in the order of the formula (I). Types II and III do not
            depend on the order of the terms, and no type depends on the coding of factors.
        ddf : {"satterthwaite", "kenward-roger", "z"}
            Denominator degrees of freedom. Kenward-Roger is for REML fits; "z" takes the variances
            as known.

        Returns
        -------
        DataFrame
            One row per term: ``sum_sq`` and ``mean_sq`` (F times the residual variance, in squared
            units of the response; F before Kenward and Roger's scaling, as in lmerTest),
            ``df_num``, ``df_den``, ``F``, ``p_value``.

        Raises
        ------
        ValueError
            When an argument is unknown or ``ddf`` is not defined for this fit.
        DataError
            After ``remove_data()``: the hypotheses depend on the rows.

        Warns
        -----
        SpecificationWarning
            For type III when combinations of levels have no rows.

        Notes
        -----
        The hypotheses are lmerTest's (Kuznetsova, Brockhoff & Christensen 2017), with
        one difference: in a model with an interaction but without one of its main effects, such
        as ``a + a:b``, lmerTest tests the coefficients of ``a``, whose meaning depends on the
        coding; here ``a`` counts as contained in ``a:b``, as in SAS. Degrees of freedom: equations
        (1) and (2) of :mod:`sparselmm.inference.hypotheses.satterthwaite` (Fai & Cornelius 1996),
        (1) to (3) of :mod:`sparselmm.inference.hypotheses.kenward_roger` (Kenward & Roger 1997).

        References
        ----------
        Fai, A. H.-T. and Cornelius, P. L. (1996). Approximate F-tests of multiple degree of
        freedom hypotheses in generalized least squares analyses of unbalanced split-plot
        experiments. *Journal of Statistical Computation and Simulation* 54, 363-378.

        Goodnight, J. H. (1980). Tests of hypotheses in fixed effects linear models.
        *Communications in Statistics - Theory and Methods* 9(2), 167-180.

        Kenward, M. G. and Roger, J. H. (1997). Small sample inference for fixed effects from
        restricted maximum likelihood. *Biometrics* 53(3), 983-997.

        Kuznetsova, A., Brockhoff, P. B. and Christensen, R. H. B. (2017). lmerTest package: tests
        in linear mixed effects models. *Journal of Statistical Software* 82(13).

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("Oats")
        >>> fit = sparselmm.mixedlm("Yield ~ nitro_f * Variety + (1 | Block/Variety)", data).fit()
        >>> fit.anova(ddf="kenward-roger").round(3)[["df_num", "df_den", "F"]]
                         df_num  df_den       F
        nitro_f               3      45  37.686
        Variety               2      10   1.485
        nitro_f:Variety       6      45   0.303
        """
        if not len(self.pls.beta):
            raise DataError("anova tests fixed effects, and the model has none")
        kind = TYPES[check_choice(type, "type", tuple(TYPES))]
        method = self._ddf(ddf)
        structure = term_structure(self.built)
        empty = ~structure.cells.any(axis=0)
        if kind == 3 and empty.any():
            names = {structure.names[t] for t in structure.cell_terms[empty] if t >= 0}
            warn_user(
                f"combinations of levels without rows in {', '.join(sorted(names))}: read type III "
                "tests with care, their hypotheses depend on which cells are empty",
                catchable(SpecificationWarning),
            )
        kept = self.deviance.cross.basis.kept
        contrasts = term_contrasts(structure, kept, kind)
        tests = [method.f_test(L) for L in contrasts.values()]
        F = np.array([test.statistic for test in tests], dtype=float)
        mean_sq = F / np.array([test.scaling for test in tests]) * self.pls.scale
        df = np.array([test.df_num for test in tests], dtype=int)
        return pd.DataFrame(
            {
                "sum_sq": mean_sq * df,
                "mean_sq": mean_sq,
                "df_num": df,
                "df_den": np.array([test.df_den for test in tests], dtype=float),
                "F": F,
                "p_value": np.array([test.p_value for test in tests], dtype=float),
            },
            index=list(contrasts),
        )
