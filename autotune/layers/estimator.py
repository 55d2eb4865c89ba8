"""Latencies of layers in data frames, in scikit-learn's contract: `autotune.LatencyPredictor`.

The contract that sources of latencies inside of this package keep is another one:
`autotune.predictor.base.LatencyPredictor`.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_consistent_length, column_or_1d

from autotune.core.errors import UsageError
from autotune.core.layers import LayerShape
from autotune.core.types import Address
from autotune.layers.answers import ANSWERED, KnownDevice
from autotune.layers.cells import ASKED, NEEDED, Cells, read_layers
from autotune.layers.options import PredictOptions, from_keywords, named_as_keywords

if TYPE_CHECKING:
    from sklearn.utils import Tags

Array = NDArray[np.float64]
Seconds = Sequence[float] | Array | pd.Series


class LatencyPredictor(RegressorMixin, BaseEstimator):
    """scikit-learn regressor: layers in a DataFrame to seconds on a device.

    Frames have the columns tokens, in_features, out_features and rank (missing for the dense
    layer), and optionally dtype and form; other columns are ignored. It predicts without `fit`,
    from what is known of the device, and then reads that anew each time.

    Args:
        device, backend, dtype, threads, database, allow_extrapolation: As options of
            `autotune predict` (docs/options.md); `database` of None is the user's own.

    Attributes:
        feature_names_in_: Columns of the fitted frame that count; none without one.
        n_features_in_: Their number.
        n_points_: How many layers `fit` was given seconds of.
        sources_: What the answers come from, in words, and what the points changed.
    """

    def __init__(
        self,
        *,
        device: str = "cpu",
        backend: str | None = None,
        dtype: str | None = None,
        threads: int | None = None,
        database: Address | None = None,
        allow_extrapolation: bool = False,
    ) -> None:
        self.device = device
        self.backend = backend
        self.dtype = dtype
        self.threads = threads
        self.database = database
        self.allow_extrapolation = allow_extrapolation

    def fit(
        self,
        X: pd.DataFrame | None = None,  # noqa: N803 (scikit-learn's name)
        y: Seconds | None = None,
    ) -> LatencyPredictor:
        """Load what is known of the device, and correct it by seconds `y` of the layers of `X`.

        Layers that were given are answered as they were measured, the median of several. Give dense
        layers beside their pairs: ratios are learned from these.

        Raises:
            UsageError: nothing is known of the device, a column is missing, a row is no layer, or
                seconds that are not above zero.
            DeviceMissingError: the device is neither here nor known.
        """
        known, points = self._load(), _points(X, y)
        with named_as_keywords(PredictOptions):
            for dtype, seen in points.items():
                known.known(dtype).learn(seen)
            sources = [known.known(dtype).sources for dtype in points or (None,)]
        columns = [] if X is None else [*_cells(X)]
        self.feature_names_in_ = np.array(columns, dtype=object)
        self.n_features_in_ = len(columns)
        self.n_points_ = sum(map(len, points.values()))
        self.sources_ = tuple(dict.fromkeys(text for each in sources for text in each))
        self.known_ = known
        return self

    def predict(self, X: pd.DataFrame) -> Array:  # noqa: N803
        """Predict seconds, (n,); NaN where a row has no answer (`predict_frame` says why).

        Raises:
            UsageError, DeviceMissingError: as `fit`.
        """
        seconds: Array = self._answer(X)["latency_s"]
        return seconds

    def predict_interval(self, X: pd.DataFrame) -> tuple[Array, Array]:  # noqa: N803
        """Low and high seconds, (n,) each, at 90 %; NaN where a row has no answer.

        Raises:
            UsageError, DeviceMissingError: as `fit`.
        """
        found = self._answer(X)
        return found["low_s"], found["high_s"]

    def predict_frame(self, X: pd.DataFrame) -> pd.DataFrame:  # noqa: N803
        """Seconds, ratio to the dense layer, both intervals and the source of every row.

        The columns are those of `autotune predict --shapes`, under the index of X. A row without an
        answer has NaN and the reason in `source`.

        Raises:
            UsageError, DeviceMissingError: as `fit`.
        """
        found = self._answer(X)
        return pd.DataFrame({name: found[name] for name in ANSWERED}, index=X.index)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "known_")

    def __sklearn_tags__(self) -> Tags:
        tags: Tags = super().__sklearn_tags__()  # type: ignore[no-untyped-call]
        tags.requires_fit = False
        tags.target_tags.required = False
        tags.input_tags.string = tags.input_tags.allow_nan = True
        return tags

    def _answer(self, X: pd.DataFrame) -> Mapping[str, NDArray[Any]]:  # noqa: N803
        known = self.known_ if self.__sklearn_is_fitted__() else self._load()
        with named_as_keywords(PredictOptions):
            return known.answer(_cells(X))

    def _load(self) -> KnownDevice:
        params = self.get_params()  # type: ignore[no-untyped-call]
        given = {name: value for name, value in params.items() if value is not None}
        with named_as_keywords(PredictOptions):
            options = from_keywords(PredictOptions, given, of="LatencyPredictor")
        return KnownDevice(options, style="flat")


def _cells(frame: pd.DataFrame) -> Cells:
    """The columns of a frame that count."""
    rule = f"give a DataFrame with the columns {', '.join(NEEDED)}, and rank, dtype, form if wanted"
    if not isinstance(frame, pd.DataFrame):
        raise UsageError(f"{rule}; got {type(frame).__name__}")
    missing = [name for name in NEEDED if name not in frame.columns]
    if missing:
        raise UsageError(f"{rule}; missing: {', '.join(missing)}")
    return {name: frame[name].tolist() for name in ASKED if name in frame.columns}


def _points(
    frame: pd.DataFrame | None, y: Seconds | None
) -> dict[str | None, dict[LayerShape, float]]:
    """Seconds of each layer by the dtype that it asks for."""
    if y is None:
        return {}
    if frame is None:
        raise UsageError("y are seconds of the rows of X: give both")
    asked, seconds = read_layers(_cells(frame), {}), _seconds(y, frame)
    for row in sorted(asked.refused)[:1]:
        raise UsageError(f"row {frame.index[row]!r}: {asked.refused[row]}")
    found = {}
    for dtype, rows in asked.by_dtype():
        times: dict[LayerShape, list[float]] = {}
        for row in rows.tolist():
            times.setdefault(asked.layers.shape(row), []).append(float(seconds[row]))
        found[dtype] = {shape: statistics.median(each) for shape, each in times.items()}
    return found


def _seconds(y: Seconds, frame: pd.DataFrame) -> Array:
    try:
        found: Array = column_or_1d(y, dtype=np.float64)
        check_consistent_length(frame, found)
    except (TypeError, ValueError) as error:
        raise UsageError(f"y must be a number of seconds for each row of X: {error}") from error
    for row in np.flatnonzero(~(np.isfinite(found) & (found > 0)))[:1].tolist():
        raise UsageError(f"row {frame.index[row]!r}: seconds must be above 0, got {found[row]}")
    return found
