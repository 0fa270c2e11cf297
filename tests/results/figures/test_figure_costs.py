import pytest

from pmal_tf.results.figures.benchmark_costs import draw_benchmark_costs
from pmal_tf.runtime.errors import PmalError


def entry(name="a", ours=1.0, reference=2.0, unit="ratio", file="b"):
    sides = {"ours": ours, "reference": reference}
    return {"name": name, "value": 1.0, "unit": unit, **sides, "file": file}


def texts(picture):
    (axes,) = picture.figure.axes
    return {text.get_text() for text in (*axes.texts, *axes.get_yticklabels())}


def test_both_sides_are_shown_with_the_unit_that_the_file_knows():
    pairs = entry("slow", 2.9617, 2.468, "ms"), entry("fast", 706127.6, 2341.6)
    picture = draw_benchmark_costs(pairs)
    assert {"2.96 / 2.47 ms", "706,128 / 2,342"} <= texts(picture)
    assert picture.caption.startswith("2 pairs")


def test_a_name_of_two_files_stands_with_its_file():
    new = entry("gain", ours=3.0, file="new")
    shown = texts(draw_benchmark_costs([entry("gain", file="old"), entry("size"), new]))
    assert {"gain (old)", "gain (new)", "size"} <= shown


@pytest.mark.parametrize("missing", [None, 0, -1.0, float("nan"), float("inf")])
def test_entries_without_two_positive_numbers_are_left_out(missing):
    odd = entry("odd", reference=missing)
    picture = draw_benchmark_costs([entry(), odd])
    assert picture.caption.startswith("1 pair, ")
    assert "odd" not in texts(picture)
    with pytest.raises(PmalError, match=r"needs measurements with a reference.* in b$"):
        draw_benchmark_costs([odd])


@pytest.mark.parametrize(
    "ratios", [[1.0], [0.98], [0.5, 3.0], [0.7, 2732.0], [1e-9, 1e9]]
)
def test_the_axis_holds_all_points_and_a_few_marks(ratios):
    pairs = [entry(str(r), ours=r, reference=1.0) for r in ratios]
    (axes,) = draw_benchmark_costs(pairs).figure.axes
    low, high = axes.get_xlim()
    assert low < min(*ratios, 1.0)
    assert high > max(*ratios, 1.0)
    marks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert 1 <= len(marks) <= 10
    assert axes.xaxis.get_major_formatter()(0.5) == "0.5"
