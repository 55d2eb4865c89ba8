"""What the processor of this machine can do."""

import pytest

from autotune.devices import detect
from autotune.devices.detect import cpu_features, has_int8_products

X86 = """processor\t: 0
model name\t: A processor
flags\t\t: fpu sse2 avx2 fma avx512f {more} ssse3
bugs\t\t: spectre_v1
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm bf16\n"


@pytest.fixture
def cpuinfo(monkeypatch):
    """Sets what the system tells of the processor; None where it does not."""

    def tell(text):
        def read(path):
            if text is None:
                raise FileNotFoundError(path)
            return text

        monkeypatch.setattr(detect.Path, "read_text", read)
        monkeypatch.setattr(detect.platform, "machine", lambda: "x86_64")
        cpu_features.cache_clear()

    yield tell
    cpu_features.cache_clear()


def test_instructions_that_matter_are_listed(cpuinfo):
    cpuinfo(X86.format(more="avx512_bf16 amx_bf16"))
    assert cpu_features() == ("amx_bf16", "avx2", "avx512_bf16", "avx512f", "fma")


def test_those_of_arm_stand_in_another_line(cpuinfo):
    cpuinfo(ARM)
    assert cpu_features() == ("asimddp", "bf16", "i8mm")


@pytest.mark.parametrize(
    ("more", "able"), [("avx_vnni", True), ("avx512_vnni", True), ("avx512bw", False)]
)
def test_products_of_integers_need_instructions(cpuinfo, more, able):
    cpuinfo(X86.format(more=more))
    assert has_int8_products() is able


def test_a_system_that_tells_nothing_has_none(cpuinfo):
    cpuinfo(None)
    assert cpu_features() == ()
    assert not has_int8_products()
