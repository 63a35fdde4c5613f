"""The rows of the fit with what it says of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from sparselmm.base.arguments import check_flag, wrong_type
from sparselmm.base.exceptions import DataError
from sparselmm.design import BuiltDesign
from sparselmm.design.spec import as_frame, is_table
from sparselmm.design.validate import aligned
from sparselmm.inference.diagnostics.leverage import leverage
from sparselmm.inference.estimates import Estimates
from sparselmm.results.methods.base import ResultsBase
from sparselmm.results.methods.residuals import RowResults
from sparselmm.results.methods.streaming import Columns, row_columns, streamed_rows, write_parquet


class AugmentResults(RowResults):
    """The rows of a fit with independent errors, with their leverage."""

    def augment(self, data: Any = None, *, to: Any = None, influence: bool = True) -> Any:
        """The data with fitted values, residuals and influence, in broom.mixed's column names.

        Parameters
        ----------
        data : DataFrame or another container of rows, optional
            The data of the fit, when they were not given as a data frame or are wanted with other
            columns. Rows that did not enter the fit are left out. A model that did not keep its
            rows needs them here, and reads them in partitions.
        to : path, optional
            A Parquet file to write the rows to.
        influence : bool
            Whether leverage and Cook's distance are wanted, which cost most.

        Returns
        -------
        DataFrame (n, ...), iterator of DataFrame, or path
            The columns of the data, then ``.fitted`` (random effects included), ``.resid``,
            ``.hat``, ``.cooksd``, ``.fixed`` (fixed effects and offset alone), ``.mu`` (the same
            as ``.fitted``), ``.offset``, ``.sqrtXwt`` and ``.sqrtrwt`` (roots of the weights),
            ``.weights`` and ``.wtres`` (residual times the root of its weight). Frames of
            ``chunk_rows`` rows at most from a model that did not keep its rows. The path of the
            file, when there is one to write.

        Raises
        ------
        DataError
            When the number of rows does not match, or a level is unseen.
        FileError
            When ``to`` cannot be written.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> fit.augment().loc[0, ["Reaction", ".fitted", ".fixed"]].astype(float).round(1).tolist()
        [249.6, 253.7, 251.4]
        """
        influence = check_flag(influence, "influence")

        def columns(est: Estimates) -> Columns:
            if not influence:
                return row_columns(est, None)
            kept = est is self._est
            own = self._leverage if kept else leverage(est.deviance, est.design, est.pls.theta)
            return row_columns(est, own)

        return augmented(self, data, to, columns)


def augmented(
    results: ResultsBase, data: Any, to: Any, columns: Callable[[Estimates], Columns]
) -> Any:
    """The rows with columns that the fit tells of them; see :meth:`AugmentResults.augment`."""
    streamed = results.built.streamed
    if streamed is not None:
        frames = streamed_rows(results._est, streamed, data, columns)
        return frames if to is None else write_parquet(frames, to)
    results._need_rows("augment")
    out = _data_of_fit(results.built, data).assign(**columns(results._est))
    return out if to is None else write_parquet([out], to)


def _data_of_fit(built: BuiltDesign, data: Any) -> pd.DataFrame:
    """The rows of the fit with their columns: those it was given, or ``data``."""
    n = built.design.n
    if data is None:
        if built.frame is not None:
            return built.frame
        design = built.design
        values = {design.y_name: design.y}
        values |= {name: design.X[:, j] for j, name in enumerate(design.x_names)}
        return pd.DataFrame(values, index=built.row_labels)
    if not is_table(data):
        raise wrong_type("data", "a DataFrame with the rows of the fit", data)
    frame = as_frame(data)
    if len(frame) != n and built.kept is not None and len(frame) == len(built.kept):
        frame = frame.loc[built.kept]
    if len(frame) == n:
        given = isinstance(data, pd.DataFrame)
        against = "the rows of the fit"
        return aligned(frame, built.row_labels, "data", against) if given else frame
    before = f" ({len(built.kept)} before rows were left out)" if built.kept is not None else ""
    raise DataError(f"data has {len(frame)} rows, the fit used {n}{before}")
