"""A tuning of a tiny random Llama on this processor, in seconds: plain pairs in fp32 alone."""

import autotune
from autotune.compress.calibration_plan import CalibrationPlan
from autotune.tuning.options import MethodOptions
from autotune.tuning.request import TuneRequest
from tests.conftest import LLAMA
from tests.damage import save_model


def small_home(home):
    """The folder with the model and the text that `tune_small` reads."""
    save_model(home / "dense")
    (home / "text.txt").write_text((LLAMA / "heldout.txt").read_text()[:20_000])
    return home


def tune_small(home, name, **given):
    """Tune into `home / name` on one thread; `given` are the budget and what else differs."""
    usual = {
        "database": home / "latency.sqlite",
        "batch_size": 2,
        "isl": 16,
        "calibration": home / "text.txt",
        "calibration_samples": 8,
        "trials": 0,
        "sensitivity_rounds": 0,
        "precision": "native",
        "factors": "plain",
        "references": False,
        "other_shapes": False,
        "threads": 1,
        "device": "cpu",
    }
    return autotune.tune(home / "dense", output=home / name, **(usual | given))


def small_request(model, output, **given):
    """A request of plain pairs in fp32 with little to calibrate; `given` are the other parts."""
    calibration = CalibrationPlan(
        calibration=str(LLAMA / "heldout.txt"),
        statistics_samples=8,
        search_samples=8,
        heldout_samples=8,
    )
    method = MethodOptions(precision="native", factors="plain")
    files = {"model": str(model), "output": output}
    return TuneRequest(calibration=calibration, method=method, **files, **given)
