import decimal
import math
import sys
from decimal import Decimal

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import logsumexp
from sklearn.metrics.pairwise import cosine_distances
from tiny_export import CENTRE_SCORE

from pmal_tf.data.images import LabelledImages
from pmal_tf.results import scores
from pmal_tf.results.evaluate import computable, score_images
from pmal_tf.results.scores import registry
from pmal_tf.results.scores.class_mean import distance_to_means
from pmal_tf.results.scores.registry import all_scores, get_score, get_scores, scores_in
from pmal_tf.results.scores.score import LARGEST
from pmal_tf.runtime.errors import PmalError

ALL = pytest.mark.parametrize("score", all_scores().values(), ids=all_scores())


def outputs_of(logits, distance=None, embedding=None):
    """Makes a model's outputs of those that are given."""
    logits = np.array(logits)
    return {
        "logits": logits,
        "distance": np.zeros_like(logits) if distance is None else np.array(distance),
        "embedding": logits if embedding is None else np.array(embedding),
    }


def values(name, logits, distance=None):
    return get_score(name).values(outputs_of(logits, distance), {})


def random_outputs(num_classes, count=200, scale=3.0):
    generator = np.random.default_rng(num_classes)
    logits = generator.normal(0, scale, (count, num_classes))
    distance = generator.uniform(0, 2, (count, num_classes))
    embedding = generator.normal(size=(count, 16))
    outputs = outputs_of(logits, distance, embedding)
    return {name: array.astype(np.float32) for name, array in outputs.items()}


def statistics_of(score):
    """Fits a score's statistics, if it has any, to outputs of the same form."""
    if score.statistics is None:
        return lambda outputs: {}

    def fitted(outputs):
        labels = np.arange(len(outputs["logits"])) % outputs["logits"].shape[1]
        return score.statistics(outputs, labels)

    return fitted


def both_forms(score, outputs):
    """Returns the values by NumPy, and those of the graph."""
    statistics = statistics_of(score)(outputs)
    computed = tf.function(score.tensor)(as_tensors(outputs), as_tensors(statistics))
    return score.values(outputs, statistics), computed


def as_tensors(arrays):
    """Returns arrays as an exported graph has them: real numbers as float32."""
    return {
        name: tf.constant(array, tf.float32 if array.dtype.kind == "f" else None)
        for name, array in arrays.items()
    }


def test_scores_by_hand():
    distance = [[0.25, 1.5], [2.0, 0.5]]
    logits = [[0.0, math.log(3.0)], [-1.0, -1.0]]
    assert values("dr", logits, distance).tolist() == [0.25, 0.5]
    # Odds of 1 to 3, and of 1 to 1.
    np.testing.assert_allclose(values("msp", logits), [0.25, 0.5], rtol=1e-15)
    np.testing.assert_array_equal(values("mls", logits), [-math.log(3.0), 1.0])
    expected = [-math.log(4.0), 1.0 - math.log(2.0)]
    np.testing.assert_allclose(values("energy", logits), expected, rtol=1e-15)
    # Both classes have p (1 - p) = 3 / 16, and 1 / 4.
    expected = [2 * (3 / 16) ** 0.1, 2 * (1 / 4) ** 0.1]
    np.testing.assert_allclose(values("gen", logits), expected, rtol=1e-15)


def test_names_and_what_files_call_them():
    assert {s.name: s.field for s in all_scores().values() if s.name != s.field} == {
        "msp": "pr"
    }
    assert get_score("pr") is get_score("msp")
    assert [s.name for s in get_scores(["pr", "dr", "msp"])] == ["msp", "dr"]
    fields = ("mls", "is_unknown", "pr", "msp")
    assert [s.name for s in scores_in(fields)] == ["mls", "msp"]
    with pytest.raises(
        PmalError, match=r"one of class_mean, .*, relative_dr\. Received: 'max'"
    ):
        get_score("max")


@ALL
def test_scores_are_float64_whatever_comes_in(score):
    for dtype in (np.float16, np.float32, np.float64):
        outputs = {n: v.astype(dtype) for n, v in random_outputs(3).items()}
        computed, tensor = both_forms(score, outputs)
        assert computed.dtype == np.float64
        assert computed.shape == (200,)
        assert tensor.dtype == tf.float32
        assert tensor.shape == (200,)


@ALL
@pytest.mark.parametrize(("num_classes", "scale"), [(2, 3.0), (7, 0.01), (150, 30.0)])
def test_the_graph_computes_what_the_evaluation_does(score, num_classes, scale):
    computed, tensor = both_forms(score, random_outputs(num_classes, scale=scale))
    np.testing.assert_allclose(tensor, computed, rtol=2e-5, atol=1e-7)
    assert (computed >= score.low).all()
    assert (computed <= score.unreadable).all()
    assert score.low < score.high <= score.unreadable <= LARGEST
    assert set(score.needs) <= {"logits", "embedding", "distance"}
    assert score.is_distance <= (score.needs == ("distance",))


@ALL
@pytest.mark.parametrize("num_classes", [2, 5, 150])
def test_extreme_logits_give_finite_scores_that_end_with_the_unreadable(
    score, num_classes
):
    first = np.zeros(num_classes)
    first[0] = 1.0
    rows = [sign * 1e4 * first for sign in (1, -1)]
    rows += [np.full(num_classes, value) for value in (0.0, 1e4, -1e4, 3.0)]
    rows += [1e4 * (2 * first - 1), 1e4 * (1 - 2 * first), 3e38 * (2 * first - 1)]
    rows += [np.linspace(-1e4, 1e4, num_classes), np.full(num_classes, -3e38)]
    distance = np.resize([0.0, 2.0, 1.0], (len(rows), num_classes))
    outputs = outputs_of(np.float32(rows), distance.astype(np.float32))
    computed, tensor = both_forms(score, outputs)
    for result in (computed, tensor.numpy()):
        assert np.isfinite(result).all()
        assert (result >= score.low).all()
        assert (result <= score.unreadable).all()
    np.testing.assert_allclose(tensor, computed, rtol=2e-5, atol=1e-7)


@ALL
def test_an_unsure_and_distant_image_has_the_larger_score(score):
    if score.statistics:
        pytest.skip("depends on more than the image")
    distance = [[0.1, 1.9, 1.9], [0.3, 1.7, 1.7], [0.9, 1.1, 1.1]]
    # The last is uniform; all have the same mean.
    logits = [[8.0, -4.0, -4.0], [1.0, -0.5, -0.5], [0.0, 0.0, 0.0]]
    computed = score.values(outputs_of(logits, distance), {})
    assert (np.diff(computed) > 0).all()


@ALL
def test_every_score_belongs_to_its_own_image(score):
    outputs = random_outputs(5, count=20)
    before = {name: array.copy() for name, array in outputs.items()}
    statistics = statistics_of(score)(outputs)
    together = score.values(outputs, statistics)
    for name, array in before.items():  # The arguments are left alone.
        np.testing.assert_array_equal(outputs[name], array)
    for n in range(20):
        alone = {name: array[n : n + 1] for name, array in outputs.items()}
        np.testing.assert_allclose(
            score.values(alone, statistics), together[n : n + 1], rtol=1e-13
        )


def test_pr_is_one_minus_the_largest_softmax_probability():
    logits = np.random.default_rng(0).normal(0, 3, (500, 7))
    exponential = np.exp(logits)
    probability = exponential / exponential.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        values("pr", logits), 1.0 - probability.max(axis=1), rtol=0, atol=1e-15
    )
    # The share of the other classes where all are equal, or tie with the largest.
    assert values("pr", [[5.0] * 4]).tolist() == [0.75]
    assert values("pr", [[9.0, -800.0, 9.0]]).tolist() == [0.5]


@pytest.mark.parametrize("gap", [20.0, 40.0, 100.0, 700.0])
def test_pr_resolves_very_confident_images(gap):
    # 1 - p = e^-gap / (1 + e^-gap), which 1 - max p rounds to 0 from a gap of 37 on.
    pr = values("pr", [[gap, 0.0]])[0]
    assert pr == pytest.approx(math.exp(-gap) / (1 + math.exp(-gap)), rel=1e-12, abs=0)
    assert pr > 0
    gen = values("gen", [[gap, 0.0, 0.0], [gap + 1, 0.0, 0.0]])
    assert gen[0] > gen[1] > 0


@pytest.mark.parametrize("num_classes", [2, 10, 1000])
def test_energy_is_scipy_s_logsumexp(num_classes):
    logits = np.random.default_rng(0).normal(0, 20, (100, num_classes))
    expected = -logsumexp(logits, axis=1)
    np.testing.assert_allclose(values("energy", logits), expected, rtol=1e-12)
    # Temperature 1: moving all logits moves it as much.
    moved = values("energy", logits + 100.0)
    np.testing.assert_allclose(moved, expected - 100.0, rtol=1e-12)


def test_scores_with_distances_by_hand():
    logits, distance = [[2.0, -1.0], [-1.0, -2.0]], [[0.25, 0.5], [1.5, 0.0]]
    # 2 (1 - 0.25) against -1 (1 + 0.5); and -1 (1 + 1.5) against -2 (1 + 0).
    assert values("guided_mls", logits, distance).tolist() == [-1.5, 2.0]
    # log(e^2 + e^-1) (1 - 0.25) = 0.75 x 2.0485873515737; log(e^-1 + e^-2) (1 + 0).
    expected = [-1.536440513680292, 0.686738312481777]
    found = values("guided_energy", logits, distance)
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    # 0.25 - (0.5 + 0.75) / 2, and of two equal distances 0.
    three = [[0.5, 0.25, 0.75], [1.0, 1.0, 1.0]]
    found = values("relative_dr", np.zeros((2, 3)), three)
    np.testing.assert_allclose(found, [-0.375, 0.0], rtol=1e-13)
    # |z| = 5 and 13, nearest distances 0.25 and 1.5.
    outputs = outputs_of(logits, [[0.25, 0.5], [1.5, 1.75]], [[3.0, 4.0], [-5.0, 12.0]])
    assert get_score("norm_dr").values(outputs, {}).tolist() == [-3.75, 6.5]


@pytest.mark.parametrize("name", ["guided_mls", "guided_energy", "norm_dr"])
def test_farther_is_more_likely_unknown_whatever_the_logits_sign(name):
    for logit in (5.0, 0.5, -0.5, -5.0):
        far = outputs_of([[logit] * 3] * 9, np.linspace(0, 2, 27).reshape(9, 3))
        computed = get_score(name).values(far, {})
        assert (np.diff(computed) > 0).all(), logit


def test_guided_scores_equal_a_loop():
    outputs = random_outputs(5)
    names = ("guided_mls", "guided_energy", "norm_dr", "relative_dr")
    expected = {name: [] for name in names}
    for rows in zip(*outputs.values(), strict=True):
        logit, d, z = (row.astype(np.float64) for row in rows)
        expected["guided_mls"].append(-max(logit - np.abs(logit) * d))
        energy = logsumexp(logit)
        expected["guided_energy"].append(abs(energy) * d.min() - energy)
        expected["norm_dr"].append(-max(1 - d) * math.hypot(*z))
        own, *others = sorted(d)
        expected["relative_dr"].append(own - sum(others) / len(others))
    for name, wanted in expected.items():
        found = get_score(name).values(outputs, {})
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-14)


def test_the_distance_to_class_means():
    # The means are (2, 0) and (0, 3); (3, 4) has cosines 3/5 and 4/5, (-1, -1) has
    # none above -1 / sqrt(2), and nothing has no direction.
    embedding = [[1.0, 1.0], [3.0, -1.0], [0.0, 3.0]]
    score = get_score("class_mean")
    training = outputs_of(np.zeros((3, 2)), embedding=embedding)
    fitted = score.statistics(training, np.array([0, 0, 1]))
    np.testing.assert_array_equal(fitted["means"], np.eye(2))
    outputs = outputs_of(
        np.zeros((3, 2)), embedding=[[3.0, 4.0], [-1.0, -1.0], [0.0, 0.0]]
    )
    expected = [0.2, 1 + math.sqrt(0.5), 1.0]
    np.testing.assert_allclose(score.values(outputs, fitted), expected, rtol=1e-15)
    # And against scikit-learn's.
    outputs, label = random_outputs(5), np.arange(200) % 5
    means = [outputs["embedding"][label == k].mean(axis=0) for k in range(5)]
    wanted = cosine_distances(outputs["embedding"], means)
    fitted = score.statistics(outputs, label)
    np.testing.assert_allclose(distance_to_means(outputs, fitted), wanted, atol=1e-6)


def test_nearly_parallel_embeddings_are_told_apart_in_a_graph():
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(1, 64))
    embedding = mean + 1e-3 * rng.normal(size=(300, 64))
    score = get_score("class_mean")
    fitted = score.statistics({"embedding": mean}, np.zeros(1))
    outputs = outputs_of(np.zeros((300, 2)), embedding=embedding)
    exact = score.values(outputs, fitted)
    assert exact.max() < 1e-6
    found = score.tensor(as_tensors(outputs), as_tensors(fitted))
    np.testing.assert_allclose(found, exact, rtol=2e-3)


def gen_slowly(logits):
    """Computes G with 60 digits, class by class."""
    with decimal.localcontext() as context:
        context.prec = 60
        odds = [Decimal(float(logit)).exp() for logit in logits]
        p = sorted((one / sum(odds) for one in odds), reverse=True)
        gamma = Decimal(1) / 10
        return float(sum((q * (1 - q)) ** gamma for q in p[:100]))


@pytest.mark.parametrize("num_classes", [2, 3, 10, 100, 101, 150])
@pytest.mark.parametrize("scale", [0.1, 5.0, 30.0])
def test_gen_with_sixty_digits(num_classes, scale):
    logits = np.random.default_rng(0).normal(0, scale, (4, num_classes))
    expected = [gen_slowly(row) for row in logits]
    np.testing.assert_allclose(values("gen", logits), expected, rtol=1e-12)
    # Only the differences of logits count.
    np.testing.assert_allclose(values("gen", logits + 50.0), expected, rtol=1e-12)


def test_only_what_can_be_computed_is():
    outputs = outputs_of([[1.0, 2.0]])
    everything = tuple(all_scores().values())
    assert computable(everything, outputs) == everything
    without = [s.name for s in computable(everything, {"logits": outputs["logits"]})]
    assert without == ["energy", "gen", "mls", "msp"]
    outputs.pop("distance")
    more = {s.name for s in computable(everything, outputs)} - {*without}
    assert more == {"class_mean"}


def test_a_score_may_measure_against_the_training_images(monkeypatch):
    known = all_scores()
    monkeypatch.setattr(
        registry, "all_scores", lambda: {**known, CENTRE_SCORE.name: CENTRE_SCORE}
    )
    score = get_score("centre")
    training = outputs_of(
        np.zeros((4, 2)), embedding=[[0.0, 0.0], [2.0, 0.0], [9.0, 0.0], [9.0, 2.0]]
    )
    statistics = {"centre": score.statistics(training, np.array([0, 0, 1, 1]))}
    outputs = outputs_of(
        np.zeros((3, 2)), embedding=[[1.0, 0.0], [9.0, 4.0], [1.0, 2.0]]
    )
    images = LabelledImages(
        np.zeros((3, 1, 1, 3), np.uint8), np.array([0, 1, -1]), np.arange(3).astype(str)
    )
    scored = score_images(outputs, images, get_scores(["centre", "mls"]), statistics)
    assert list(scored.scores) == ["to_centre", "mls"]
    assert scored.scores["to_centre"].tolist() == [0.0, 9.0, 4.0]
    computed = score.tensor(as_tensors(outputs), as_tensors(statistics["centre"]))
    np.testing.assert_allclose(computed, [0.0, 9.0, 4.0], rtol=1e-6)


NEW_FILE = """
from pmal_tf.results.scores.score import Score

SCORE = Score(
    name="least", field="least", title="Least", meaning="the least logit",
    low=-1.0, high=1.0, needs=("logits",),
    values=lambda outputs, _: outputs["logits"].astype(float).min(axis=1),
    tensor=lambda outputs, _: NotImplemented,
)
"""


def test_a_new_score_is_a_file(tmp_path, monkeypatch):
    (tmp_path / "least.py").write_text(NEW_FILE)
    monkeypatch.setattr(scores, "__path__", [*scores.__path__, str(tmp_path)])
    all_scores.cache_clear()
    try:
        assert list(all_scores())[5:8] == ["guided_mls", "least", "mls"]
        assert values("least", [[1.0, 2.0]]).tolist() == [1.0]
    finally:
        sys.modules.pop(f"{scores.__name__}.least", None)
        monkeypatch.undo()
        all_scores.cache_clear()
    assert "least" not in all_scores()
