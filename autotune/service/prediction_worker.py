"""The process that predicts: JSON questions on stdin, JSON answers on stdout.

Its first line is `{"database": ADDRESS, "threads": N}`. Each question has a time limit, after which
the kernel ends the process, whatever it computes.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from autotune.core.child_errors import error_json
from autotune.core.errors import AutotuneError, MeasurementError
from autotune.service.latencies import Latencies
from autotune.service.prediction_records import Question
from autotune.service.predictions import Predictions

DATA_BYTES = 1 << 30
_MEMORY = "the prediction needs too much memory; ask for fewer layers at a time"


def main() -> None:
    """Answer until stdin ends; only messages may reach stdout."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_DATA, (DATA_BYTES, DATA_BYTES))
    with suppress(OSError):  # the kernel ends this process before the server
        Path("/proc/self/oom_score_adj").write_text("500")
    start = json.loads(sys.stdin.readline())
    with Latencies(start["database"]) as latencies:
        predictions = Predictions(latencies, threads=start["threads"])
        for line in sys.stdin:
            print(json.dumps(_answer(predictions, json.loads(line))), file=out, flush=True)


def _answer(predictions: Predictions, message: dict[str, Any]) -> dict[str, Any]:
    signal.alarm(message["seconds"])
    try:
        found = predictions.answer(Question.from_json(message["question"]))
        return {"answer": found.to_json(), "resident_bytes": resident_bytes()}
    except AutotuneError as error:
        return {"error": error_json(error), "resident_bytes": resident_bytes()}
    except MemoryError:
        return {"error": error_json(MeasurementError(_MEMORY)), "resident_bytes": DATA_BYTES}
    finally:
        signal.alarm(0)


def resident_bytes() -> int:
    """Memory that this process occupies; its peak where the kernel does not say."""
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
