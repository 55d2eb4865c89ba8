"""A tuning of a tiny random Llama on this processor, in seconds: plain pairs in fp32 alone."""

import autotune
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
