import pytest

from autotune.core.errors import DeviceMissingError, UsageError
from autotune.core.layers import break_even_rank
from autotune.devices import detect, specs
from autotune.devices.alignment import aligned_ranks, coarse_grid
from autotune.devices.specs import device_file, find_device, known_devices
from autotune.devices.visible import Gpu

NUMBERS = {
    "peak_flops",
    "bandwidth_bytes_s",
    "alignment_bytes",
    "compute_units",
    "cache_bytes",
    "memory_bytes",
}


def test_every_number_has_a_source():
    for spec in known_devices().values():
        assert set(spec.sources) == NUMBERS
        assert all(spec.sources.values())


def test_the_sheets_are_plausible():
    """Orders of magnitude: a slipped digit would not pass."""
    for spec in known_devices().values():
        if spec.kind == "cuda":
            best = spec.peak_flops["fp16"]
            assert 10e12 < best < 5e15
            assert 1.5 < best / spec.peak_flops["fp32"] < 40
            assert 50 < best / spec.bandwidth_bytes_s < 600
            assert 0.1e12 < best / spec.compute_units < 20e12
            assert 3e6 < spec.cache_bytes < 0.01 * spec.memory_bytes


def test_a_users_own_device_is_one_file(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOTUNE_DEVICES", str(tmp_path))
    text = device_file("h200").replace('"h200-sxm"', '"mine"').replace('["h200"]', "[]")
    (tmp_path / "mine.toml").write_text(text)
    assert find_device("mine").bandwidth_bytes_s == 4.8e12
    assert "h200-sxm" in known_devices()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("4.8e12", "-1.0", "bandwidth_bytes_s must be in bytes/s, such as 696e9"),
        ("4.8e12", "inf", "bandwidth_bytes_s must be in bytes/s"),
        ("4.8e12", "true", "bandwidth_bytes_s must be in bytes/s, .* not True"),
        ("4.8e12", "4800", "bandwidth_bytes_s must be in bytes/s, .* not 4800"),
        ("bf16 = 989e12", "bf16 = 989.4", "peak_flops must be in FLOP/s, such as 312e12"),
        ("bf16 = 989e12", "int8 = 989e12", "peak_flops must give rates of fp32, fp16, bf16"),
        ("alignment_bytes = 16", "alignment_bytes = 0", "alignment_bytes must be in bytes"),
        ('driver_name = "', 'driver_name = "(', "driver_name must be a regular expression"),
        ('driver_name = "H200"', "driver_name = 200", "driver_name must be text"),
        ('title = "NVIDIA H200 SXM 141 GB"', "title = 200", "title must be text"),
        ('kind = "cuda"', 'kind = "npu"', "cpu or cuda"),
        ("compute_units = 132", "", "compute_units"),
        ("cache_bytes =", "cash_bytes =", "unknown key 'cash_bytes'"),
        ('title = "', "title = ", "mine.toml"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, monkeypatch, old, new, says):
    monkeypatch.setenv("AUTOTUNE_DEVICES", str(tmp_path))
    (tmp_path / "mine.toml").write_text(device_file("h200").replace(old, new, 1))
    with pytest.raises(UsageError, match=says) as error:
        known_devices()
    assert "mine.toml" in str(error.value)


def test_a_number_without_a_source_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOTUNE_DEVICES", str(tmp_path))
    head, _, tail = device_file("h200").partition("[sources]")
    lines = [line for line in tail.splitlines() if not line.startswith("cache_bytes")]
    (tmp_path / "mine.toml").write_text("\n".join([head, "[sources]", *lines]))
    with pytest.raises(UsageError, match="cache_bytes has no source"):
        known_devices()


def test_aliases_are_unambiguous():
    names = [a for spec in known_devices().values() for a in (spec.name, *spec.aliases)]
    assert len(names) == len(set(names))
    assert find_device("A100").name == "a100-sxm"


def test_an_unknown_device_suggests_near_names():
    with pytest.raises(UsageError, match=r"did you mean .*h200.*h20.toml"):
        find_device("h20")


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("a100 ", "a100-sxm"),
        ("A100-80GB", "a100-sxm"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm"),
        ("NVIDIA A10G", "a10g"),
        ("4090", "rtx-4090"),
        ("RTX 4090", "rtx-4090"),
        ("GeForce RTX 5090", "rtx-5090"),
        ("NVIDIA GeForce RTX 3090", "rtx-3090"),
        ("Tesla T4", "t4"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"),
        ("rtx_6000_ada", "rtx-6000-ada"),
        ("AMD Instinct MI300X", "mi300x"),
        ("Jetson AGX Orin", "jetson-orin"),
    ],
)
def test_names_that_people_type(given, name):
    assert find_device(given).name == name


@pytest.mark.parametrize("name", ["gpu", "CUDA"])
@pytest.mark.parametrize(
    ("visible", "says"), [((), "no NVIDIA GPU is visible here"), (("NVIDIA H200",), "NVIDIA H200")]
)
def test_a_gpu_must_be_named(monkeypatch, name, visible, says):
    gpus = tuple(Gpu(index=i, uuid=f"GPU-{i}", name=each) for i, each in enumerate(visible))
    monkeypatch.setattr(specs, "visible_gpus", lambda: gpus)
    with pytest.raises(
        UsageError, match=rf"{says}; name the GPU, such as h100: `autotune devices`"
    ) as error:
        find_device(name)
    assert "cpu" not in str(error.value)


def test_a_known_device_that_is_not_here(monkeypatch):
    monkeypatch.setattr(detect, "visible_gpus", tuple)
    with pytest.raises(DeviceMissingError, match="not on this machine") as caught:
        detect.require_device("h100")
    assert "which has cpu" in str(caught.value)
    assert "database" not in str(caught.value)  # no database helps a command that measures
    assert detect.require_device("cpu").spec.name == "cpu"


@pytest.mark.parametrize(
    ("reported", "name"),
    [
        ("NVIDIA H200", "h200-sxm"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GB200", "gb200"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000-server"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("Tesla T4", "t4"),
        ("Orin (nvgpu)", "jetson-orin"),
    ],
)
def test_drivers_names_are_recognised(monkeypatch, reported, name):
    gpu = Gpu(index=0, uuid="GPU-0", name=reported)
    monkeypatch.setattr(detect, "visible_gpus", lambda: (gpu,))
    found = [device.spec.name for device in detect.present_devices()]
    assert found == ["cpu", name]
    assert detect.require_device(name).reported_name == reported
    assert detect.require_device(name).gpu is gpu


def test_threads_are_checked(monkeypatch):
    monkeypatch.delenv("AUTOTUNE_THREADS", raising=False)
    assert detect.check_threads(None) == detect.cpu_threads()
    for wrong in (0, -1, detect.cpu_threads() + 1):
        with pytest.raises(UsageError, match=r"machine\.threads must be 1 to"):
            detect.check_threads(wrong)


@pytest.mark.parametrize(("name", "dtype", "step"), [("cpu", "fp32", 16), ("h200", "bf16", 8)])
def test_candidate_ranks_are_aligned_and_save(name, dtype, step):
    ranks = aligned_ranks(find_device(name), in_features=4096, out_features=1024, dtype=dtype)
    assert ranks[0] == step
    assert all(rank % step == 0 for rank in ranks)
    assert ranks[-1] <= break_even_rank(4096, 1024) < ranks[-1] + step


def test_a_rank_that_saves_nothing_is_no_candidate():
    assert (
        aligned_ranks(find_device("cpu"), in_features=256, out_features=256, dtype="fp32")[-1]
        == 112
    )


def test_a_tiny_layer_has_no_candidates():
    assert aligned_ranks(find_device("cpu"), in_features=16, out_features=16, dtype="fp32") == []


def test_a_thinned_grid_keeps_its_ends():
    grid = coarse_grid(list(range(8, 2000, 8)), 24)
    assert len(grid) <= 24
    assert (grid[0], grid[-1]) == (8, 1992)
    assert coarse_grid([8, 16], 24) == [8, 16]
