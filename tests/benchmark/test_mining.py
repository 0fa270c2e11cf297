import time

import matplotlib.image
import numpy as np
import pytest
from scipy.spatial.distance import cdist
from topology_oracle import oracle_bound, oracle_exponent

from pmal_tf.benchmark import mining
from pmal_tf.benchmark.measurement import time_in_turn
from pmal_tf.benchmark.mining import (
    ScipyRoute,
    check_agreement,
    fit_power,
    matrix_products,
    measure_growth,
    random_spaces,
    square_roots,
)
from pmal_tf.benchmark.settings import BenchmarkSettings
from pmal_tf.mining.robustness import Robustness
from pmal_tf.runtime.errors import PmalError

BESIDE = {
    "scipy": {"scipy_speedup", "scipy_in_place_speedup", "memory_fraction"},
    "matmul": {"matmul_time_ratio"},
    "sqrt": {"sqrt_time_ratio"},
}
ALWAYS = {"seconds", "pairs_per_second", "gflops", "peak_memory_mib"}


def run(**given):
    return mining.run(BenchmarkSettings(**given))


def fake_robustness(change):
    """Robustness by scipy, changed; quick, as nothing is compiled."""

    def topology_robustness(embeddings, kernels, topology, **_):
        spaces = mining.Spaces(tuple(embeddings), tuple(kernels))
        exponent = change(ScipyRoute(spaces, topology).in_place())
        return Robustness(exponent=exponent, robustness=np.exp(-exponent))

    return topology_robustness


@pytest.fixture
def quick(monkeypatch):
    """Leaves out what compiles."""
    robustness = fake_robustness(lambda exponent: exponent)
    monkeypatch.setattr(mining, "topology_robustness", robustness)
    monkeypatch.setattr(mining, "matrix_products", lambda *_: lambda: None)
    monkeypatch.setattr(mining, "square_roots", lambda *_: lambda: None)


def test_ours_is_measured_beside_every_reference():
    text, measurements = run(n=300, k=3, repetitions=2)
    found = {each.name: each for each in measurements}
    assert set(found) == ALWAYS.union(*BESIDE.values())
    for name in ("matmul_time_ratio", "sqrt_time_ratio", "memory_fraction"):
        assert found[name].value == found[name].ours / found[name].reference > 0
    for name, label in (
        ("scipy_speedup", "as one writes it"),
        ("scipy_in_place_speedup", "all in place"),
    ):
        fast = found[name]
        assert fast.value == fast.reference / fast.ours > 0
        assert fast.note.startswith("times as fast as scipy's cdist")
        assert label in fast.note
        assert f"| {name} " in text
    # Two float64 matrices of 300 x 300, and little else.
    assert 1.3 < found["memory_fraction"].reference < 20
    rate = found["pairs_per_second"].value
    assert rate == pytest.approx(300 * 299 / 2 / found["seconds"].value)
    # Per pair 2 (2 K + 5) + 4 operations.
    assert found["gflops"].value == pytest.approx(26 * rate / 1e9)
    assert found["memory_fraction"].ours == found["peak_memory_mib"].value > 0
    assert "Hardware: " in text
    assert "(n = 8, " in text  # Our calls beside four references.


@pytest.mark.usefixtures("quick")
def test_growth_is_measured_and_drawn(tmp_path):
    plot = tmp_path / "new" / "growth.png"
    text, measurements = run(n=128, k=3, repetitions=1, references=(), plot=str(plot))
    names = {each.name for each in measurements}
    assert names == ALWAYS | {"exponent_of_n", "exponent_of_k"}
    assert "from 16 to 128." in text
    assert "from 3 to 48." in text
    image = matplotlib.image.imread(plot)
    assert image.shape[0] > 300
    assert len(np.unique(image.reshape(-1, image.shape[2]), axis=0)) > 2
    assert [path.name for path in plot.parent.iterdir()] == ["growth.png"]


def test_growth_is_the_power_that_times_were_made_with():
    # The median of three is meant, not their mean.
    times = {size: [3e-6 * size**1.75, 0.0, 1e9] for size in (10, 20, 40, 80, 500)}
    exponent, factor = fit_power(times)
    assert exponent == pytest.approx(1.75)
    assert factor == pytest.approx(3e-6)


def test_classes_that_the_budget_has_no_room_for_are_left_out():
    def at_most_12(embeddings, kernels):
        if kernels[0].shape[1] > 12:
            raise PmalError("too many classes")

    measurements, (of_samples, of_classes) = measure_growth(64, 3, at_most_12)
    assert "from 8 to 64." in of_samples
    assert "from 3 to 12. No more than 12: too many classes." in of_classes
    assert [each.name for each in measurements] == ["exponent_of_n", "exponent_of_k"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"plot": "growth.txt"}, r"\.png, \.svg, \.pdf file. Received: .*growth.txt"),
        ({"plot": "growth.png", "n": 15}, "`n` must be at least 16, to see growth"),
        ({"scaling": True, "n": 15}, "`n` must be at least 16, to see growth"),
    ],
)
def test_growth_that_cannot_be_shown_is_an_error(given, message):
    with pytest.raises(PmalError, match=message):
        run(**given)


@pytest.mark.usefixtures("quick")
def test_scipy_is_left_out_where_it_does_not_fit(monkeypatch):
    # Four matrices of 300 x 300 x 8 bytes are three quarters of this, or a bit more.
    enough = 4 * 300**2 * 8 * 4 // 3
    monkeypatch.setattr(mining, "available_memory", lambda: enough)
    options = {"n": 300, "k": 3, "repetitions": 1, "references": ("scipy",)}
    assert {each.name for each in run(**options)[1]} == ALWAYS | BESIDE["scipy"]
    monkeypatch.setattr(mining, "available_memory", lambda: enough - 1)
    text, measurements = run(**options)
    assert {each.name for each in measurements} == ALWAYS
    assert "Not measured beside scipy: two float64 matrices of 300 x 300" in text


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("references", [(), ("scipy",), ("sqrt", "matmul")])
def test_the_references_that_are_asked_for_are_measured(references):
    text, measurements = run(n=100, repetitions=3, references=references)
    names = {each.name for each in measurements}
    assert names == ALWAYS.union(*(BESIDE[word] for word in references))
    times = len([name for name in names if name.endswith(("speedup", "time_ratio"))])
    assert f"(n = {3 * max(times, 1)}, " in text


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("topology", ["correlation", "chord", "rms", "literal"])
@pytest.mark.parametrize("factor", [1.01, 0.99, np.nan])
def test_a_result_that_is_not_scipy_s_is_an_error(factor, topology, monkeypatch):
    def change(exponent):
        return exponent * np.where(np.arange(len(exponent)) == 7, factor, 1.0)

    monkeypatch.setattr(mining, "topology_robustness", fake_robustness(change))
    with pytest.raises(PmalError, match=r"must be scipy's within .* sample 7"):
        run(n=300, k=3, repetitions=1, topology=topology)


def test_exponents_agree_within_their_bounds():
    expected, bound = np.array([2.0, 0.0]), np.array([5e-5, 3e-5])
    difference = check_agreement(np.array([2 + 4.9e-5, 2.9e-5]), expected, bound)
    assert difference == pytest.approx(2.45e-5)
    for off in ([5.1e-5, 0.0], [0.0, 3.1e-5]):
        with pytest.raises(PmalError, match="must be scipy's"):
            check_agreement(expected + off, expected, bound)


@pytest.mark.parametrize("topology", ["correlation", "chord", "rms", "literal"])
def test_scipy_s_route_is_equation_7(topology):
    spaces = random_spaces(40, 3)
    distances = []
    for z, w in zip(spaces.embeddings, spaces.kernels, strict=True):
        centred = np.float64(w) - np.float64(w).mean(axis=1, keepdims=True)
        distances.append(cdist(z, z, "mahalanobis", VI=centred @ centred.T))
    expected = oracle_exponent(*distances, topology)
    route = ScipyRoute(spaces, topology)
    # With new matrices, and with those that the other variant, or the same, has used.
    for variant in (route.in_place, route.as_written, route.as_written, route.in_place):
        np.testing.assert_allclose(variant(), expected, rtol=1e-9)
    np.testing.assert_allclose(
        route.tolerance(expected),
        oracle_bound(expected, distances, topology),
        rtol=0.1,  # Of other samples, and of both spaces' mean.
    )


def test_matrix_products_are_those_of_all_rows(monkeypatch):
    monkeypatch.setattr(mining, "_BLOCK_ROWS", 16)
    spaces = random_spaces(40, 3)
    sums = np.concatenate(matrix_products(spaces, "float64")()).reshape(2, 40)
    points = spaces.centred_logits("float64")
    expected = [(own @ own.T).sum(axis=1) for own in points]
    np.testing.assert_allclose(sums, expected, atol=1e-9)


def test_square_roots_are_taken_and_their_time_grows_with_their_number(monkeypatch):
    # Of this process, whatever else the machine does.
    monkeypatch.setattr(time, "perf_counter", time.process_time)
    a_round = 4 * 1024 * 1024

    def expected(rounds):
        # Of numbers spread evenly over 1 to 2, each time moved by 1/4.
        numbers = np.linspace(1, 2, 1001)
        means = [np.sqrt(numbers + shift / 4).mean() for shift in range(4 * rounds)]
        return a_round * np.sum(means) / 4

    few, many = (square_roots(rounds * a_round, "float32") for rounds in (16, 128))
    assert few() == pytest.approx(expected(16), rel=1e-3)
    assert many() == pytest.approx(expected(128), rel=1e-3)
    brief, long = (min(own) for own in time_in_turn(few, many, repetitions=5))
    assert 4 < long / brief < 16


@pytest.mark.parametrize("count", [1, 300 * 301, 20_000 * 20_001, 115_846 * 115_847])
def test_hardly_more_square_roots_are_taken_than_asked_for(count):
    rounds, rows = mining._rounds(count)
    taken = rounds * rows * 4 * 1024
    assert rows <= 1024
    assert count <= taken < 1.002 * count + 4 * 1024
