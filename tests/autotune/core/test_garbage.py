"""The search for garbage is paused, and goes on as it was."""

import gc

import pytest

from autotune.core.garbage import collection_paused


@pytest.mark.parametrize("enabled", [True, False])
def test_collection_is_paused_and_then_as_before(enabled):
    was = gc.isenabled()
    try:
        gc.enable() if enabled else gc.disable()
        with pytest.raises(ZeroDivisionError), collection_paused():
            assert not gc.isenabled()
            _ = 1 / 0
        assert gc.isenabled() == enabled
    finally:
        gc.enable() if was else gc.disable()
