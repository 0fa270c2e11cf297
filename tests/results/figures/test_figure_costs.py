import json

import numpy as np
import pytest

from pmal_tf.results.figures.benchmark_costs import (
    _limits,
    _ticks,
    draw_benchmark_costs,
)
from pmal_tf.runtime.errors import PmalError


def entry(name="a", ours=1.0, reference=2.0, unit="ratio"):
    return {
        **{"name": name, "value": 1.0, "unit": unit},
        **{"ours": ours, "reference": reference},
    }


def written(path, *entries):
    path.write_text(json.dumps(entries))
    return path


def texts(picture):
    (axes,) = picture.figure.axes
    return {text.get_text() for text in (*axes.texts, *axes.get_yticklabels())}


def test_both_sides_are_told_with_the_unit_that_the_file_knows(tmp_path):
    pairs = entry("slow", 2.9617, 2.468, "ms"), entry("fast", 706127.6, 2341.6)
    picture = draw_benchmark_costs([written(tmp_path / "b", *pairs)])
    assert {"2.96 / 2.47 ms", "706,128 / 2,342"} <= texts(picture)
    assert picture.caption.startswith("2 pairs")


def test_a_name_of_two_files_is_told_with_its_file(tmp_path):
    old = written(tmp_path / "old.json", entry("gain"), entry("memory"))
    new = written(tmp_path / "new.json", entry("gain", ours=3.0))
    shown = texts(draw_benchmark_costs([old, new]))
    assert {"gain (old)", "gain (new)", "memory"} <= shown


@pytest.mark.parametrize("missing", [None, 0, -1.0, float("nan"), float("inf")])
def test_entries_without_two_positive_numbers_are_left_out(tmp_path, missing):
    odd = entry("odd", reference=missing)
    picture = draw_benchmark_costs([written(tmp_path / "b.json", entry(), odd)])
    assert picture.caption.startswith("1 pair, ")
    assert "odd" not in texts(picture)
    with pytest.raises(PmalError, match="needs measurements with a reference"):
        draw_benchmark_costs([written(tmp_path / "b.json", odd)])


@pytest.mark.parametrize("content", ["{", '{"name": "a"}', "[1]", "7"])
def test_files_of_something_else_are_told(tmp_path, content):
    path = tmp_path / "strange.json"
    path.write_text(content)
    with pytest.raises(PmalError, match=r"--json=FILE has written\. Received: .*stran"):
        draw_benchmark_costs([path])


@pytest.mark.parametrize(
    "share", [[1.0], [0.98, 1.03], [0.5, 3.0], [0.7, 2732.0], [1e-9, 1e9], [400.0]]
)
def test_the_axis_holds_all_points_and_a_few_marks_with_1_among_them(share):
    low, high = _limits(np.array(share))
    assert low < min(*share, 1.0)
    assert high > max(*share, 1.0)
    ticks = _ticks(low, high)
    assert 1.0 in ticks
    assert all(low <= tick <= high for tick in ticks)
    assert len(ticks) <= 9
