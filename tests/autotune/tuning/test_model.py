"""Whether a model can run a workload, said in words for every caller."""

from types import SimpleNamespace

import pytest
from torch import nn

from autotune.compress.tasks import TASKS
from autotune.core.errors import UsageError
from autotune.core.option_names import spell
from autotune.core.types import Workload
from autotune.tuning.model import check_workload
from autotune.tuning.request import TuneRequest


def loaded(task, **config):
    """As much of a loaded model as is looked at."""
    model = nn.Module()
    model.config = SimpleNamespace(**config)
    return SimpleNamespace(task=task, kind=TASKS[task], model=model)


CODE = loaded("causal-lm", max_position_embeddings=64)
EMBEDDING = loaded("embedding")


@pytest.mark.parametrize(
    ("model", "workload", "library", "command_line"),
    [
        (
            EMBEDDING,
            Workload(output_length=4),
            "workload.phase request asks for decode steps, which a model of the task embedding",
            "--phase request asks for decode steps",
        ),
        (
            CODE,
            Workload(sequence_length=63, output_length=2),
            "workload.sequence_length 63 and 2 decode steps (workload.output_length) need 65 pos",
            "--isl 63 and 2 decode steps (--osl) need 65 positions; the model has 64",
        ),
    ],
)
def test_a_workload_that_the_model_cannot_run_is_refused(model, workload, library, command_line):
    with pytest.raises(UsageError) as caught:
        check_workload(workload, model)
    assert str(caught.value).startswith(library)
    assert str(spell(caught.value, "cli", TuneRequest)).startswith(command_line)
