"""`autotune.LatencyPredictor`: frames in, seconds out, in scikit-learn's contract."""

import copy
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import estimator_checks, get_tags
from sklearn.utils.validation import check_is_fitted

import autotune
from autotune.core.errors import UsageError
from autotune.layers.answers import ANSWERED

pytestmark = pytest.mark.duration(40)
SIZES = [(m, k, n) for m in (64, 2048) for k in (1024, 4096, 5120) for n in (1024, 4096)]
# Passed without a fit: the other checks of scikit-learn give arrays, which are no frames.
PASSED = {
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_get_params_invariance",
    "check_mixin_order",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_set_params",
    "check_valid_tag_types",
}


def frame(*rows, columns=("tokens", "in_features", "out_features", "rank")):
    return pd.DataFrame(rows, columns=list(columns), index=[f"row {i}" for i in range(len(rows))])


def sizes(*ranks):
    return frame(*((*size, rank) for size in SIZES for rank in ranks))


def predictor(**given):
    return autotune.LatencyPredictor(**{"device": "a100", **given})


def causes(error):
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.EstimatorCheckFailedWarning")
def test_it_is_an_estimator_of_scikit_learn():
    """Every check passes, but for those that are refused as they give arrays."""
    results = estimator_checks.check_estimator(predictor(), on_fail=None, on_skip=None)
    assert {each["check_name"] for each in results if each["status"] == "passed"} >= PASSED
    for each in results:
        refused = any(
            "give a DataFrame with the columns" in text for text in causes(each["exception"])
        )
        assert each["status"] != "failed" or refused, each


def test_a_fit_keeps_what_checks_on_arrays_would_show():
    """The same again, row by row, in any order, and nothing that was given is changed."""
    known, asked = sizes(None, 256), sizes(None, 32, 128)
    seconds, before = 1.2 * predictor().predict(known), (known.copy(), asked.copy())
    model = predictor().fit(known, seconds)
    state = {*vars(model)}
    found = model.predict(asked)
    assert (known.equals(before[0]), asked.equals(before[1]), {*vars(model)}) == (True, True, state)
    assert model.fit(known, seconds).predict(asked) == pytest.approx(found, rel=1e-12)
    assert model.predict(asked.iloc[::-1])[::-1] == pytest.approx(found, rel=1e-9)
    rows = [model.predict(asked.iloc[[row]])[0] for row in range(len(asked))]
    assert rows == pytest.approx(found.tolist(), rel=1e-9)
    assert model.predict(asked.iloc[:0]).shape == (0,)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_fitted_one_can_be_copied(copied):
    """As programs that fit in several processes do."""
    known, asked = sizes(None, 256), sizes(128)
    model = predictor().fit(known, 1.2 * predictor().predict(known))
    found = model.predict_frame(asked)
    pd.testing.assert_frame_equal(copied(model).predict_frame(asked), found)


def test_what_it_is_given_stays_as_it_is():
    given = {"device": "a100", "dtype": "bf16", "database": "points.sqlite"}
    known = predictor(**given)
    assert {name: known.get_params()[name] for name in given} == given
    copy_of = clone(known).set_params(device="h200")
    assert (copy_of.device, copy_of.dtype, known.device) == ("h200", "bf16", "a100")
    with pytest.raises(ValueError, match="Invalid parameter 'devise'"):
        known.set_params(devise="h200")


def test_it_asks_for_no_fit():
    """`predict` works without; what only a fit has is not there before."""
    model = predictor()
    assert not get_tags(model).requires_fit
    check_is_fitted(model)
    with pytest.raises(NotFittedError):
        check_is_fitted(model, "n_points_")
    for name in ("feature_names_in_", "n_features_in_", "n_points_", "sources_"):
        assert not hasattr(model, name)


def test_layers_are_answered_like_by_the_command():
    """Without `fit`, under the index of the frame, with NaN and the reason where there is none."""
    asked = frame((2048, 4096, 4096, None), (2048, 4096, 4096, 1024), (2048, 4096, 4096, 97))
    found = predictor().predict_frame(asked)
    assert list(found.columns) == list(ANSWERED)
    assert found.index.equals(asked.index)
    alone = autotune.predict(device="a100", tokens=2048, shape="4096x4096", ranks=(1024,))
    for (_, row), estimate in zip(found.iterrows(), alone.estimates, strict=False):
        assert row["latency_s"] == pytest.approx(estimate.latency_s)
        assert row["ratio"] == pytest.approx(estimate.ratio)
        assert row["source"] == estimate.source
    assert found.iloc[2, :-1].isna().all()
    assert "a size of 97" in found["source"].iloc[2]
    seconds, (low, high) = predictor().predict(asked), predictor().predict_interval(asked)
    assert np.array_equal(seconds, found["latency_s"], equal_nan=True)
    assert (low[:2] < seconds[:2]).all() and (seconds[:2] < high[:2]).all()
    assert np.isnan([seconds[2], low[2], high[2]]).all()


def test_other_columns_and_missing_ranks_are_no_matter():
    asked = frame((2048, 4096, 4096, 1024)).assign(name="q_proj")
    whole = asked.astype({"rank": "Int64"})
    whole.loc["dense"] = [2048, 4096, 4096, pd.NA, "k_proj"]
    pair, dense = predictor().fit(whole).predict(whole)
    assert pair < dense
    assert predictor().predict(whole[["tokens", "in_features", "out_features"]])[0] == dense


def test_measured_layers_correct_the_others():
    """A board that is a fifth slower, whose pairs cost a tenth more; a fit starts anew."""
    known = sizes(None, 256)
    before = predictor().predict_frame(known)
    seconds = 1.2 * before["latency_s"] * np.where(known["rank"].isna(), 1.0, 1.1)
    model = predictor().fit(known, seconds)
    assert (model.n_points_, model.n_features_in_) == (24, 4)
    assert list(model.feature_names_in_) == ["tokens", "in_features", "out_features", "rank"]
    assert "24 points that were given: seconds corrected by" in model.sources_[-1]
    assert model.predict(known) == pytest.approx(seconds.to_numpy())
    assert set(model.predict_frame(known)["source"]) == {"measured"}
    assert model.score(known, seconds) == pytest.approx(1.0)
    other = frame((512, 2048, 3072, None), (512, 2048, 3072, 128))
    dense, pair = model.predict(other) / predictor().predict(other)
    assert dense == pytest.approx(1.2, rel=0.05)
    assert pair == pytest.approx(1.2 * 1.1, rel=0.05)
    again = model.fit(known, before["latency_s"].to_numpy())
    assert again is model
    assert model.predict(other) == pytest.approx(predictor().predict(other), rel=1e-3)
    assert model.fit().n_points_ == 0
    assert set(model.predict_frame(known)["source"]) <= {"imported", "predicted"}


def test_a_pair_alone_says_how_fast_the_device_is():
    """Its ratio is not known, so that of others stays."""
    pairs = sizes(256)
    before = predictor().predict_frame(pairs)
    model = predictor().fit(pairs, 1.3 * before["latency_s"])
    other = frame((512, 2048, 3072, None), (512, 2048, 3072, 128))
    found, was = model.predict_frame(other), predictor().predict_frame(other)
    assert found["latency_s"].to_numpy() == pytest.approx(1.3 * was["latency_s"], rel=0.05)
    assert found["ratio"].to_numpy() == pytest.approx(was["ratio"].to_numpy(), rel=1e-6)


def test_of_a_layer_that_was_timed_twice_the_median_counts():
    twice = frame(*[(2048, 4096, 4096, None)] * 3)
    assert predictor().fit(twice, [1.0, 2.0, 9.0]).predict(twice).tolist() == [2.0] * 3


def test_it_can_be_validated_on_held_out_layers():
    from sklearn.model_selection import cross_val_score

    known = sizes(None, 256)
    seconds = 1.5 * predictor().predict(known)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = cross_val_score(predictor(), known, seconds, cv=3)
    assert (scores > 0.98).all()
    assert predictor().score(known, seconds) < 0.9


@pytest.mark.parametrize(
    ("rows", "seconds", "problem"),
    [
        ([(2048, 4096, 4096, "x")], [1.0], r"row 'row 0': rank must be a whole number"),
        ([(2048, 4096, 4096, 8192)], [1.0], r"row 'row 0': .* ranks up to 4096"),
        ([(1, 32, 32, None), (2, 32, 32, None)], [1.0, 0.0], "row 'row 1': seconds must be above"),
        ([(1, 32, 32, None)], [float("nan")], "row 'row 0': seconds must be above 0"),
        ([(1, 32, 32, None)], [1.0, 2.0], "a number of seconds for each row of X: .*inconsistent"),
        ([(1, 32, 32, None)], ["fast"], "a number of seconds for each row of X: .*'fast'"),
        ([(1, 32, 32, None)], [[1.0, 2.0]], "a number of seconds for each row of X: .*1d array"),
    ],
)
def test_what_is_no_measured_layer_is_refused(rows, seconds, problem):
    with pytest.raises(UsageError, match=problem):
        predictor().fit(frame(*rows), seconds)


def test_what_is_no_frame_or_no_device_is_refused():
    with pytest.raises(UsageError, match="missing: out_features"):
        predictor().predict(pd.DataFrame({"tokens": [1], "in_features": [32]}))
    with pytest.raises(UsageError, match="got ndarray"):
        predictor().predict(np.ones((2, 4)))
    with pytest.raises(UsageError, match="give both"):
        predictor().fit(None, [1.0])
    with pytest.raises(UsageError, match=r"device.*nonsense"):
        predictor(device="nonsense").fit()
    with pytest.raises(UsageError, match="dtype must be one of"):
        predictor(dtype="int9").fit()


@pytest.mark.slow
def test_points_of_an_unseen_device_correct_its_donors():
    """As points of the database do (`Adaptation`)."""
    known = sizes(None)
    unseen = predictor(device="t4", allow_extrapolation=True)
    before = unseen.predict(known)
    unseen.fit(known, 1.4 * before)
    other = frame((512, 2048, 3072, None), (512, 2048, 3072, 128))
    ratio = unseen.predict(other) / clone(unseen).predict(other)
    assert ratio == pytest.approx([1.4, 1.4], rel=0.1)
    assert set(unseen.predict_frame(other)["source"]) == {"extrapolated"}
    assert clone(unseen).fit().predict(known) == pytest.approx(before)
