import re

import pytest

from pmal_tf.benchmark import measurement
from pmal_tf.benchmark.measurement import (
    Measurement,
    compare,
    render,
    single,
    spread,
    time_in_turn,
    times_as_fast,
)


@pytest.fixture
def clock(monkeypatch):
    """A clock that work moves on."""
    now = [0.0]
    monkeypatch.setattr(measurement.time, "perf_counter", lambda: now[0])
    return now


def worker(clock, seconds, calls, name):
    def work():
        calls.append(name)
        clock[0] += seconds[min(calls.count(name), len(seconds)) - 1]

    return work


def test_work_is_timed_in_turn(clock):
    calls = []
    works = [
        worker(clock, [1.0, 1.5], calls, "ours"),
        worker(clock, [2.0, 3.5], calls, "other"),
    ]
    ours, other = time_in_turn(*works, repetitions=2)
    assert calls == ["ours", "other"] * 2
    assert (ours, other) == ([1.0, 1.5], [2.0, 3.5])
    fast = compare("fast", ours, other, figure=times_as_fast)
    assert fast.value == pytest.approx(2.75 / 1.25)


def test_short_work_is_repeated_for_as_long_as_is_asked_for(clock):
    calls = []
    work = worker(clock, [0.5], calls, "short")
    assert time_in_turn(work, repetitions=2, least_seconds=1.2) == [[0.5, 0.5]]
    assert len(calls) == 2 * 3


def test_a_spread_says_median_number_and_range():
    assert spread([300.0, 1000.0, 200.0]) == "300 (n = 3, 200 to 1,000)"
    assert spread([1.0, 1.5]) == "1.25 (n = 2, 1 to 1.5)"
    assert spread([7.0]) == "7"


def test_figures_compare_medians_and_the_table_says_how_often(monkeypatch):
    monkeypatch.setattr(measurement, "hardware", lambda: "here")
    found = compare("fast", [6.0, 9.0, 1.0], [3.0, 2.0, 3.0], sides="ms", note="why")
    assert (found.value, found.ours, found.reference) == (2.0, 6.0, 3.0)
    figures = [
        found,
        single("rate", [1.0, 4.0], "images/s"),
        Measurement("peak", 5.0, "MiB"),
        Measurement("extra", 1.0, "ms", 3.0, 2.0),
    ]
    text = render("A title.", figures, ["A note."])
    assert text.startswith("A title.\nHardware: here.\n\n| figure ")
    assert text.endswith("\nA note.\n")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| ")
    ]
    assert rows[2:] == [
        ["fast", "2 ratio", "6 (n = 3, 1 to 9) ms", "3 (n = 3, 2 to 3) ms", "why"],
        ["rate", "2.5 images/s", "2.5 (n = 2, 1 to 4) images/s", "", ""],
        ["peak", "5 MiB", "", "", ""],
        ["extra", "1 ms", "3 s", "2 s", ""],
    ]


def test_the_hardware_is_named():
    assert re.fullmatch(r"\d+ cores, \S.*; no GPU", measurement.hardware())
