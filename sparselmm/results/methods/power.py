"""Power by simulation, and its table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sparselmm.base.arguments import (
    check_choice,
    check_count,
    check_level,
    check_list,
    check_mapping,
    check_number,
    check_progress,
    check_text,
)
from sparselmm.base.exceptions import ArgumentError, DataError
from sparselmm.base.memory import available_memory, need_memory
from sparselmm.base.progress import progress_bar
from sparselmm.base.seeds import Seed, seed_sequence, stream
from sparselmm.base.types import FloatArray, IntArray
from sparselmm.base.workers import Workers, check_workers
from sparselmm.design.subsets import Groups
from sparselmm.inference.resampling import bootstrap
from sparselmm.inference.resampling.power import (
    LikelihoodRatioTest,
    PValues,
    Scenario,
    WaldTest,
    columns_of,
    cycled,
)
from sparselmm.inference.resampling.simulate import DRAWN
from sparselmm.likelihood.engine import of_design
from sparselmm.likelihood.many.responses import ResponseFitter
from sparselmm.results.methods.base import ResultsBase, from_rows
from sparselmm.results.tables.bootstrap import OnReplicates, labelled
from sparselmm.results.tables.power import PowerResults

DESIGN_COPIES = 4
"""Copies of the columns of a design that are alive while its cross-products are formed."""

LARGE = 100_000
"""Rows and random effects from which the machine is asked how many responses it can hold."""


def run_all(
    maker: Any, seed: np.random.SeedSequence, n: int, workers: Workers, progress: bool | None
) -> FloatArray:
    """Numbers of all replicates, (n, c)."""
    parts = []
    with progress_bar(n, 0, "power", progress) as bar:
        for values, failure in bootstrap.run(maker, seed, 0, n, maker.task, workers):
            parts.append(values.reshape(len(failure), -1))
            bar.update(len(failure))
    return np.concatenate(parts)


class PowerMethods(ResultsBase):
    """Part of :class:`sparselmm.MixedLMResults`."""

    @from_rows
    def power(
        self, effect: Mapping[str, float], n_groups: int | Sequence[int] | None = None,
        *, by: str | None = None, test: str | Callable[[Any], Any] = "wald", n_sim: int = 1000,
        alpha: float = 0.05, seed: Seed = None, n_jobs: int = 1, progress: bool | None = None,
        client: Any = None,
    ) -> PowerResults:  # fmt: skip
        """Power of tests of fixed effects, by simulation from this fit.

        Parameters
        ----------
        effect : mapping of str to float
            True value of every coefficient that is tested; the other fixed effects and the
            variances are those of the fit. Zero gives the size of the test.
        n_groups : int or sequence of int, optional
            Numbers of groups to try. The present groups are copied in turn, with their rows and
            whatever is nested in them; crossed factors keep their levels. Default: the rows of
            the fit.
        by : str, optional
            Grouping factor that ``n_groups`` counts; needed when there are several.
        test : {"wald", "lr"} or callable
            "wald": each coefficient alone, normal distribution. "lr": all together by the
            likelihood ratio. A function of :class:`MixedLMResults` returns p-values (a number,
            sequence, dict or Series), for example of a t test; much slower.
        n_sim : int
            Simulated responses per number of groups.
        alpha : float
            Level of the test.
        seed, n_jobs, progress, client
            As of :meth:`bootstrap`.

        Returns
        -------
        PowerResults

        Raises
        ------
        DataError
            When a coefficient or a factor is unknown, or an argument is wrong.

        References
        ----------
        Green, P. and MacLeod, C. J. (2016). SIMR: an R package for power analysis of generalized
        linear mixed models by simulation. *Methods in Ecology and Evolution* 7(4), 493-498.

        Clopper, C. J. and Pearson, E. S. (1934). The use of confidence or fiducial limits
        illustrated in the case of the binomial. *Biometrika* 26(4), 404-413.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> fit.power({"Days": 5.0}, n_groups=[9, 18], n_sim=200, seed=1).table.power.tolist()
        [0.645, 0.915]
        """
        self._check_plain("power")
        n_sim, progress = check_count(n_sim, "n_sim"), check_progress(progress)
        workers = check_workers(n_jobs, client)
        alpha = check_level(alpha, "alpha", "the level of the test")
        if not callable(test) or isinstance(test, type):
            test = check_choice(test, "test", ("wald", "lr"))
        names, columns = self._effects(effect)
        sizes = _sizes(n_groups)
        if by is not None:
            self._groups(check_text(by, "by"))
        root = seed_sequence(seed)
        need_memory(
            16.0 * n_sim * len(sizes) * len(names), f"n_sim={n_sim:,}", "simulate fewer responses"
        )
        rows = []
        for i, size in enumerate(sizes):
            scenario = self._scenario(effect, columns, size, by)
            maker, tested = self._p_values(scenario, names, columns, test)
            own = root if len(sizes) == 1 else stream(root, i)
            p = run_all(maker, own, n_sim, workers, progress)
            rows += [(size, name, p[:, j]) for j, name in enumerate(tested)]
        return PowerResults(dict(effect), rows, alpha)

    def _effects(self, effect: Mapping[str, float]) -> tuple[list[str], IntArray]:
        check_mapping(effect, "effect", "{'Days': 5.0}")
        names = [str(name) for name in effect]
        known = self.built.layout.x_names
        if not names:
            raise DataError(f"effect names no fixed effect; there are {list(known)}")
        for name, value in effect.items():
            check_choice(name, "effect", known, "fixed effect")
            check_number(value, f"effect[{name!r}]")
        dropped = set(names) & set(self._est.dropped)
        if dropped:
            raise DataError(f"the columns {sorted(dropped)} were dropped as dependent")
        return names, columns_of(names, known)

    def _scenario(
        self, effect: Mapping[str, float], columns: IntArray, size: Any, by: str | None
    ) -> Scenario:
        """The model to simulate from."""
        beta = self._est.beta.copy()
        beta[columns] = [float(value) for value in effect.values()]
        design, deviance = self.built.design, self.deviance
        rows = None
        if size is not None:
            groups, _ = self._groups(by)
            self._check_size(size, groups.n_rows(size))
            draw = cycled(size, len(groups))
            design, rows = groups.design(draw), groups.drawn(draw)
            deviance = of_design(design, deviance)
        return Scenario(design, deviance, self.pls.theta, self.pls.sigma, beta, rows)

    def _check_size(self, size: int, n: int) -> None:
        """Refuse a design too large to be made and simulated from."""
        design = self.built.design
        columns = design.p + 3 + sum(term.k + 2 for term in design.terms)
        effects = sum(term.k for term in design.terms)
        need_memory(
            8.0 * n * DESIGN_COPIES * columns + bootstrap.FEW * DRAWN * n * (1.0 + effects),
            f"n_groups={size:,} is a design of {n:,} rows, which", "try fewer groups",
        )  # fmt: skip

    def _p_values(
        self, scenario: Scenario, names: list[str], columns: IntArray, test: Any
    ) -> tuple[Any, list[str]]:
        """What makes p-values of replicates, and what they are of."""
        if test == "wald":
            wald = WaldTest(scenario, columns)
            return PValues(scenario.simulator, wald, _task(wald.fitter)), names
        if test == "lr":
            ratio = LikelihoodRatioTest(scenario, columns)
            return PValues(scenario.simulator, ratio, _task(*ratio.fitters)), [", ".join(names)]
        tested, seen = labelled(test(self), "test")
        if ((seen < 0) | (seen > 1)).any():
            raise ArgumentError(f"test must return p-values, from 0 to 1, got {seen} of the fit")
        fitter = ResponseFitter(scenario.design, scenario.deviance, start=scenario.theta)
        reduced = OnReplicates(self, test, tested, scenario.rows)
        maker = bootstrap.ParametricReplicates(scenario.simulator, fitter, reduced, len(tested))
        return maker, list(tested)

    def _groups(self, by: str | None) -> tuple[Groups, str]:
        """Rows by the level of a grouping factor, and its name."""
        design = self.built.design
        factors = {":".join(t.levels.names): t for t in design.terms if t.codes is not None}
        if by is not None:
            check_text(by, "by")
        if any(t.root is not None and by == ":".join(t.levels.names) for t in design.terms):
            raise DataError(
                f"the levels of {by!r} have a known covariance; groups that are drawn or copied "
                "must be independent"
            )
        grouping = design.groups
        if grouping is not None and by in (None, grouping.name):
            return Groups(design, grouping.codes), grouping.name
        if by is None and len(factors) == 1:
            by = next(iter(factors))
        if by is None:
            raise DataError(
                "several grouping factors: say by which one groups are drawn, by=... one of "
                f"{sorted(factors)}"
            )
        by = check_choice(by, "by", sorted(factors), "grouping factor")
        codes = factors[by].codes
        assert codes is not None
        return Groups(design, codes), by


def _sizes(n_groups: Any) -> list[int | None]:
    """Numbers of groups to try; None for the rows of the fit."""
    if n_groups is None:
        return [None]
    several = hasattr(n_groups, "__len__")
    wanted = "a positive integer or a list of them"
    sizes = check_list(n_groups, "n_groups", wanted) if several else [n_groups]
    if not sizes:
        raise DataError(
            "n_groups is empty; give a number of groups, or None for the rows of the fit"
        )
    return [check_count(size, "n_groups") for size in sizes]


def _task(*fitters: ResponseFitter) -> int:
    """Replicates per task."""
    stacked = all(fitter.batch is not None for fitter in fitters)
    if not stacked:
        return bootstrap.FEW
    n = max(fitter.deviance.cross.n + fitter.deviance.cross.q for fitter in fitters)
    fit = int(available_memory() / 2 // (DRAWN * n)) if n > LARGE else bootstrap.STACK
    return max(bootstrap.FEW, min(fit, bootstrap.STACK))
