"""The model card says what it was given, and nothing it was not."""

import pytest

from pmal_tf.results.scores.registry import all_scores
from pmal_tf.serving import extra_files

LEAST = {
    "class_names": ["cat", "dog"],
    "signatures": ["serving_bytes", "serving_default"],
    "rule": "dr",
    "threshold": 0.25,
    "threshold_range": [0.0, 2.0],
    "prototypes": 5,
    "image_size": 32,
    "versions": {"python": "3.11.7", "tensorflow": "2.21.0"},
}


RATES = {"known_rejected": 0.043, "unknown_rejected": 0.61}
RUN = {
    **LEAST,
    "experiment": "photos",
    "method": "PMAL",
    "dataset": "folder",
    "protocol": "folder",
    "trial": 0,
    "unknown_classes": ["fox"],
    "unknown_is_estimate": True,
    "results": {"acc": 0.987, "dr": {"auroc": 0.912, "oscr": 0.9}},
    "calibration": {
        "reject_rate": 0.05,
        "rate_interval_90": [0.03, 0.07],
        "source": "withheld",
        "calibration_images": 300,
        "measured_images": 100,
        "unknown_images": 50,
        "rules": {"dr": RATES},
    },
    "flags": "--dataset=folder\n",
    "git_commit": "abc123",
}


def render_model_card(facts):
    """Renders a card, whose paragraphs go over as many lines as they like."""
    return " ".join(extra_files.render_model_card(facts).split())


def test_an_export_from_python_promises_nothing():
    card = render_model_card(LEAST)
    assert "`cat`, `dog`" in card
    assert "**0.25**" in card
    assert "nothing is promised" in card
    assert "The score is DR (distance to the nearest class, from 0 to 2)." in card
    assert "one of 5 training images" in card
    for word in ("AUROC", "builds it again", "None", "commit", "Trained by"):
        assert word not in card


def test_a_run_s_card_tells_promise_measurement_and_flags():
    card = render_model_card(RUN)
    for text in (
        *("# photos", "300 images", "withheld", "at most 5.0 %", "3.0 % and 7.0 %"),
        *("100 other images of the known classes: 4.3 %", "Of 50 images of unknown"),
        *("61.0 %", "98.7 %", "AUROC 91.2 %", "`fox`", "estimates", "abc123"),
        *("again: ``` --dataset=folder ```", "tensorflow 2.21.0", "Trained by PMAL."),
    ):
        assert text in card, text


def test_without_unknown_images_rejection_was_not_measured():
    calibration = {
        **RUN["calibration"],
        "unknown_images": 0,
        "rules": {"dr": {"known_rejected": None, "unknown_rejected": None}},
    }
    results = {"acc": 0.9, "dr": None}
    card = render_model_card({**RUN, "calibration": calibration, "results": results})
    assert "rejection was not measured" in card
    for word in ("None", "AUROC", "other images of the known"):
        assert word not in card


@pytest.mark.parametrize("score", all_scores().values(), ids=all_scores())
def test_the_score_is_told_with_the_scale_that_it_has(score):
    facts = {**LEAST, "rule": score.field, "threshold_range": [score.low, score.high]}
    card = render_model_card(facts)
    assert f"The score is {score.title} ({score.meaning}" in card
    ends = f", from {score.low:g} to {score.high:g}"
    assert (ends in card) == (score.low >= -2.0 and score.high <= 2.0)


def test_a_model_without_prototypes_has_none_in_its_card():
    card = render_model_card({n: v for n, v in LEAST.items() if n != "prototypes"})
    assert "prototype" not in card


def test_many_classes_are_not_all_listed():
    names = [f"class {n}" for n in range(60)]
    card = render_model_card({**LEAST, "class_names": names})
    assert "`class 49` and 10 more." in card
    assert "class 50`" not in card
