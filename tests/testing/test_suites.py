"""A suite fails an implementation that breaks its contract."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BROKEN = Path(__file__).parent / "broken"
FAILS = {
    "backend": {"test_copies_are_those_that_a_call_runs"},
    "predictor": {
        "test_an_unknown_shape_is_refused",
        "test_asked_twice_it_answers_the_same",
        "test_order_and_preparation_change_nothing",
    },
    "allocator": {"test_every_budget_holds", "test_the_model_is_left_as_it_was"},
    "metric": {
        "test_roots_are_lower_triangular_and_fp64",
        "test_full_rank_is_exact_and_errors_fall",
        "test_the_same_statistics_give_the_same_roots",
        "test_sites_with_one_input_share_the_right_root",
    },
    "factorizer": {
        "test_full_rank_is_exact",
        "test_it_is_deterministic",
        "test_the_layer_is_left_as_it_was",
    },
    "precision": {
        "test_forms_spell_its_name",
        "test_rounding_keeps_shape_dtype_and_weight",
        "test_rounding_twice_changes_nothing_more",
    },
    "store": {
        "test_an_error_takes_the_transaction_back",
        "test_a_refused_row_is_one_of_our_errors",
        "test_a_statement_that_fails_is_one_of_our_errors",
    },
    "executor": {
        "test_abilities_are_some_of_what_is_asked_for",
        "test_every_task_has_one_outcome",
        "test_a_task_that_fails_costs_no_other",
        "test_a_device_that_is_not_reached_is_refused_at_once",
    },
    "task": {
        "test_the_loss_is_a_sum",
        "test_curvature_signals_have_the_curvature_of_the_loss",
        "test_the_figure_is_monotone_in_the_mean_loss",
    },
    "factors": {
        "test_errors_fall_with_the_rank",
        "test_a_plan_has_the_factors_of_every_site",
        "test_the_same_plan_has_the_same_factors",
    },
    "judge_pool": {
        "test_every_plan_has_one_answer",
        "test_a_judge_that_dies_loses_no_plan",
        "test_a_closed_judge_answers_nothing",
    },
    "hardware": {"test_the_same_settings_are_the_same_device"},
    "latency_source": {
        "test_it_knows_what_it_can_price",
        "test_every_known_shape_has_one_price",
        "test_prices_do_not_depend_on_what_is_asked_together",
        "test_nothing_costs_nothing",
    },
    "task_runner": {"test_a_task_that_fails_costs_no_other"},
    "machine": {
        "test_its_latencies_have_one_fingerprint",
        "test_only_what_is_missing_is_measured",
        "test_networks_are_timed_with_the_dense_one_first",
        "test_only_predictions_have_sources",
    },
    "builder": {
        "test_what_is_built_is_reused",
        "test_the_key_names_the_cache_entry",
        "test_a_build_that_fails_leaves_nothing_behind",
    },
}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """All broken implementations under their suites, in one run."""
    folder = tmp_path_factory.mktemp("broken")
    for name in FAILS:
        shutil.copyfile(BROKEN / f"{name}.py", folder / f"test_{name}.py")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-rfE",
        "--tb=line",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1, done.stdout
    return done.stdout


def test_every_broken_implementation_is_tried():
    assert {path.stem for path in BROKEN.glob("[!_]*.py")} == set(FAILS)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FAILS))
def test_a_broken_contract_is_found(name, report):
    lines = [line for line in report.splitlines() if line.startswith("FAILED")]
    found = {
        line.split("::")[2].partition("[")[0].split()[0]
        for line in lines
        if f"test_{name}.py" in line
    }
    assert FAILS[name] <= found, report[-3000:]


@pytest.mark.slow
def test_a_suite_without_its_fixture_says_which(tmp_path):
    (tmp_path / "test_nothing.py").write_text(
        "from autotune.testing.suites.store import StoreSuite\n"
        "class TestNothing(StoreSuite):\n    pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "give a fixture named open_store" in done.stdout
