import pytest

from autotune.core.errors import UsageError
from autotune.core.types import Budget, Fingerprint, Workload, digest, from_mapping


def test_unknown_and_missing_keys_are_errors():
    good = {"batch_size": 1, "sequence_length": 2}
    assert from_mapping(Workload, good) == Workload(**good)
    with pytest.raises(UsageError, match="unknown key 'colour'"):
        from_mapping(Workload, {**good, "colour": 1})
    with pytest.raises(UsageError, match="device"):
        from_mapping(Fingerprint, {"backend": "b"})


def test_a_budget_needs_a_limit():
    with pytest.raises(UsageError, match="no budget"):
        Budget()
    assert set(Budget(latency="0.8x", flops="2G").limits()) == {"latency", "flops"}


@pytest.mark.parametrize("value", [0, -1, True, 1.5, 1 << 30])
def test_a_workload_has_whole_positive_sizes(value):
    with pytest.raises(UsageError, match="batch_size"):
        Workload(batch_size=value)


def test_fingerprints_differ_in_every_field():
    base = {"device": "cpu", "device_name": "x", "backend": "b", "dtype": "fp32", "threads": 2}
    ids = {Fingerprint(**base).id}
    for key in base:
        ids.add(Fingerprint(**{**base, key: 3 if key == "threads" else "other"}).id)
    ids.add(Fingerprint(**base, versions={"onnxruntime": "1"}).id)
    ids.add(Fingerprint(**base, settings={"spin": "0"}).id)
    assert len(ids) == len(base) + 3


def test_digest_ignores_key_order_and_refuses_nan():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    with pytest.raises(ValueError, match=r"NaN|JSON"):
        digest({"a": float("nan")})
