import time

import numpy as np
import pytest

from pmal_tf.benchmark import memory
from pmal_tf.benchmark.memory import peak_extra_memory
from pmal_tf.runtime.errors import PmalError

MIB = 2**20


@pytest.fixture(params=["by the kernel", "by looking"])
def meter(request, monkeypatch, tmp_path):
    if request.param == "by looking":
        refused = tmp_path / "no" / "clear_refs"
        monkeypatch.setattr(memory, "_CLEAR_PEAK", refused)
    elif not memory._reset_peak():
        pytest.skip("this kernel does not let its peak be set back")


@pytest.mark.usefixtures("meter")
def test_memory_that_is_taken_for_a_while_is_seen():
    def work():
        for _ in range(2):  # Given back in between: not 128.
            taken = np.ones(64 * MIB, np.uint8)
            time.sleep(0.05)
            del taken
        return "done"

    result, peak = peak_extra_memory(work)
    assert result == "done"
    assert peak == pytest.approx(64 * MIB, rel=0.2)
    assert peak_extra_memory(lambda: None)[1] < 8 * MIB


@pytest.mark.usefixtures("meter")
def test_memory_that_was_freed_before_counts_when_it_is_taken_again():
    # Pieces small enough for the allocator to keep them, and of many pages: one that
    # lands between two in use then takes new pages all the same, but for its ends.
    def take():
        return [b"." * (64 * 1024 - 64) for _ in range(1024)]

    pieces = take()
    del pieces
    _, peak = peak_extra_memory(take)
    assert peak == pytest.approx(64 * MIB, rel=0.2)


def test_memory_is_measured_on_linux_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_PROCESS", tmp_path)
    with pytest.raises(PmalError, match="which Linux has"):
        peak_extra_memory(lambda: None)
