import itertools
import json

import pytest

from pmal_tf.benchmark import measurement
from pmal_tf.benchmark.measurement import (
    Measurement,
    Rates,
    compare,
    measure_rate,
    speedup,
    time_in_turn,
    write_measurements,
)


def test_a_rate_is_items_over_seconds(monkeypatch):
    # A clock that goes on by half a second each time it is read.
    ticks = itertools.count(0.0, 0.5)
    monkeypatch.setattr(measurement.time, "perf_counter", lambda: next(ticks))
    calls = []

    def work():
        calls.append(None)
        return 10

    rates = measure_rate(work, repetitions=2, seconds=1.0)
    # Two calls take a second; one call before is not timed.
    assert rates.values == (20.0, 20.0)
    assert len(calls) == 1 + 2 * 2


def test_work_is_done_at_least_once():
    assert measure_rate(lambda: 3, repetitions=1, seconds=0.0).values[0] > 0


def test_rates_are_told_by_median_number_and_range():
    rates = Rates((300.0, 1000.0, 200.0))
    assert rates.median == 300.0
    assert str(rates) == "300 (n = 3, 200 to 1,000)"


def test_the_file_is_a_list_of_names_values_and_references(tmp_path):
    path = tmp_path / "new" / "input.json"
    write_measurements(
        path, [compare("a", 6.0, 3.0), Measurement("peak_memory", 5.0, "MiB")]
    )
    first, second = json.loads(path.read_text())
    assert first == {
        "name": "a",
        "value": 2.0,
        "unit": "ratio",
        "ours": 6.0,
        "reference": 3.0,
    }
    assert (second["ours"], second["reference"]) == (None, None)
    assert second["value"] == pytest.approx(5.0)


def test_work_is_timed_in_turn(monkeypatch):
    calls = []
    ticks = iter([0.0, 1.0, 1.0, 3.0, 3.0, 4.5, 4.5, 8.0])
    monkeypatch.setattr(measurement.time, "perf_counter", lambda: next(ticks))
    ours, other = time_in_turn(
        lambda: calls.append("ours"), lambda: calls.append("other"), repetitions=2
    )
    assert calls == ["ours", "other"] * 2
    assert (ours.values, other.values) == ((1.0, 1.5), (2.0, 3.5))
    assert str(ours) == "1.25 (n = 2, 1 to 1.5)"
    assert speedup("fast", ours.median, other.median).value == 2.75 / 1.25
