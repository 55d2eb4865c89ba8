"""Codes in bytes: what is packed comes back, and takes the bytes that are counted."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autotune.compress.integer_weights import LAYOUTS

names = st.sampled_from(sorted(LAYOUTS))


def codes_of(layout, rows, columns, *, seed=0):
    half = 2 ** (layout.bits - 1)
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(-half + (layout.bits == 8), half, (rows, columns), generator=draw)


@given(names, st.integers(1, 9), st.integers(1, 100), st.integers(0, 2**31))
def test_what_is_packed_comes_back(name, rows, columns, seed):
    layout = LAYOUTS[name]
    codes = codes_of(layout, rows, columns, seed=seed)
    stored = layout.pack(codes)
    assert stored.ndim == 1
    assert torch.equal(layout.unpack(stored, rows)[:, :columns], codes.to(torch.int8))


@given(names, st.integers(1, 9), st.integers(1, 100))
def test_stored_bytes_are_those_of_the_tensors(name, rows, columns):
    layout = LAYOUTS[name]
    codes, scales = layout.empty(rows, columns, device=None)
    assert codes.shape == layout.pack(codes_of(layout, rows, columns)).shape
    assert layout.stored_bytes(rows, columns) == codes.nbytes + scales.nbytes


@pytest.mark.parametrize("name", sorted(LAYOUTS))
@pytest.mark.parametrize("columns", [64, 45])
def test_values_are_codes_times_the_scale_of_their_block(name, columns):
    layout, rows = LAYOUTS[name], 5
    codes = codes_of(layout, rows, columns)
    scales = torch.arange(1.0, rows * layout.blocks(columns) + 1)
    found = layout.values(layout.pack(codes), scales, columns=columns, dtype=torch.float64)
    for row in range(rows):
        for column in range(columns):
            block = 0 if layout.block is None else column // layout.block
            step = row * layout.blocks(columns) + block + 1
            assert found[row, column] == codes[row, column] * step


def test_half_a_byte_for_each_weight_of_4_bits():
    assert LAYOUTS["int4-weight-only"].stored_bytes(10, 64) == 10 * 64 / 2 + 10 * 2 * 4
