"""What is known of a device, asked for whole columns of layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.core.errors import AutotuneError, UsageError
from autotune.core.option_names import spell
from autotune.core.options import Style
from autotune.layers.cells import Cells, Faults, read_layers
from autotune.layers.options import PredictOptions
from autotune.layers.predict import KnownLayers, machine_options
from autotune.predictor.columns import EstimateColumns
from autotune.tuning.machines import nearest_machine

ANSWERED = ("dense_s", "latency_s", "low_s", "high_s", "ratio", "ratio_low", "ratio_high", "source")

Answers = Mapping[str, NDArray[Any]]


class KnownDevice:
    """Latencies of layers on the device of some options, in each dtype that is asked for.

    `style` is how reasons spell options.
    """

    def __init__(self, options: PredictOptions, *, style: Style) -> None:
        self._options, self._style = options, style
        self._known: dict[str | None, KnownLayers] = {}

    def answer(self, cells: Cells, refused: Faults | None = None) -> Answers:
        """What `ANSWERED` names, (n,) each, of columns of n cells.

        A row that cannot be answered, such as one that is `refused` already, has NaN and the reason
        in `source`.

        Raises:
            UsageError: nothing is known of the device, or it cannot be used.
            DeviceMissingError: the device is neither here nor known.
        """
        asked = read_layers(cells, refused or {})
        reasons: dict[int, AutotuneError] = {**asked.refused}
        parts = []
        for dtype, rows in asked.by_dtype():
            try:
                known = self.known(dtype)
            except UsageError as error:
                if dtype is None:
                    raise
                reasons |= dict.fromkeys(rows.tolist(), error)
            else:
                parts.append((rows, known.answer_columns(asked.layers.rows(rows))))
        found = EstimateColumns.merged(len(asked.layers), parts)
        return self._answers(found, {**found.refused, **reasons})

    def known(self, dtype: str | None) -> KnownLayers:
        """What is known in one dtype; None: the device's usual one.

        Raises:
            UsageError, DeviceMissingError: as `answer`.
        """
        if dtype not in self._known:
            options = self._options
            with nearest_machine(machine_options(options, dtype=dtype or options.dtype)) as machine:
                self._known[dtype] = KnownLayers(
                    machine, allow_extrapolation=options.allow_extrapolation
                )
        return self._known[dtype]

    def _answers(self, found: EstimateColumns, reasons: Mapping[int, AutotuneError]) -> Answers:
        source = found.source.astype(object)
        for row, error in reasons.items():
            source[row] = str(spell(error, self._style, PredictOptions))
        numbers = {name: getattr(found, name) for name in ANSWERED[1:-1]}
        return {"dense_s": found.latency_s / found.ratio, **numbers, "source": source}


def no_answer(answers: Answers) -> bool:
    """Whether no row was answered."""
    return bool(np.isnan(answers["latency_s"]).all())
