import pytest

from autotune.devices import detect
from autotune.devices.alignment import aligned_ranks, coarse_grid
from autotune.devices.specs import find_device, known_devices
from autotune.errors import DeviceMissingError, UsageError
from autotune.types import break_even_rank


def test_every_number_has_a_source():
    for spec in known_devices().values():
        assert {"peak_flops", "bandwidth_bytes_s", "alignment_bytes"} <= set(spec.sources)
        assert all(spec.sources.values())


def test_aliases_are_unambiguous():
    names = [a for spec in known_devices().values() for a in (spec.name, *spec.aliases)]
    assert len(names) == len(set(names))
    assert find_device("A100").name == "a100-sxm"


def test_an_unknown_device_suggests_near_names():
    with pytest.raises(UsageError, match=r"did you mean .*h200.*TOML"):
        find_device("h20")


def test_a_known_device_that_is_not_here(monkeypatch):
    monkeypatch.setattr(detect, "gpu_names", lambda: ())
    with pytest.raises(DeviceMissingError, match="not on this machine"):
        detect.require_device("h100")
    assert detect.require_device("cpu").spec.name == "cpu"


@pytest.mark.parametrize(
    ("reported", "name"),
    [
        ("NVIDIA H200", "h200-sxm"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
    ],
)
def test_drivers_names_are_recognised(monkeypatch, reported, name):
    monkeypatch.setattr(detect, "gpu_names", lambda: (reported,))
    assert detect.require_device(name).reported_name == reported


def test_threads_are_checked():
    assert detect.check_threads(None) == detect.cpu_threads()
    for wrong in (0, -1, detect.cpu_threads() + 1):
        with pytest.raises(UsageError, match="--threads"):
            detect.check_threads(wrong)


@pytest.mark.parametrize(("name", "dtype", "step"), [("cpu", "fp32", 16), ("h200", "bf16", 8)])
def test_candidate_ranks_are_aligned_and_save(name, dtype, step):
    ranks = aligned_ranks(find_device(name), 4096, 1024, dtype)
    assert ranks[0] == step
    assert all(rank % step == 0 for rank in ranks)
    assert ranks[-1] <= break_even_rank(4096, 1024) < ranks[-1] + step


def test_a_rank_that_saves_nothing_is_no_candidate():
    assert aligned_ranks(find_device("cpu"), 256, 256, "fp32")[-1] == 112


def test_a_tiny_layer_has_no_candidates():
    assert aligned_ranks(find_device("cpu"), 16, 16, "fp32") == []


def test_a_thinned_grid_keeps_its_ends():
    grid = coarse_grid(list(range(8, 2000, 8)), 24)
    assert len(grid) <= 24
    assert (grid[0], grid[-1]) == (8, 1992)
    assert coarse_grid([8, 16], 24) == [8, 16]
