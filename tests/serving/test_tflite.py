"""Lite models give nearly the same embeddings, and say how nearly."""

import numpy as np
import pytest
from tiny_export import export

from pmal_tf.data.images import LabelledImages
from pmal_tf.serving.tflite import KINDS, convert
from pmal_tf.serving.versions import EXTRA, is_intact


@pytest.fixture(scope="module")
def test_images(rng_of_module):
    image = rng_of_module.integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)
    label = np.where(np.arange(40) < 25, np.arange(40) % 3, -1).astype(np.int32)
    return LabelledImages(image, label, np.arange(40).astype(str))


@pytest.fixture(scope="module")
def rng_of_module():
    return np.random.default_rng(3)


def test_lite_models_and_what_they_cost(model, prototypes, test_images, tmp_path):
    facts, scorer = {}, model.scorer(prototypes)

    def add(folder):
        for kind in KINDS:
            facts[kind] = convert(scorer, kind, folder, test_images.image, test_images)
        return {"tflite": facts}

    export(model, prototypes, tmp_path / "1", 0.5, add=add)
    assert is_intact(tmp_path / "1")
    card = (tmp_path / "1" / "model_card.md").read_text()
    for kind, most in (("float16", 1e-3), ("int8", 0.1)):
        entry = facts[kind]
        path = tmp_path / "1" / entry["file"]
        assert path.parent.name == EXTRA
        assert path.stat().st_size == entry["bytes"]
        assert entry["images"] == 40
        # Below what rounding would allow, it was not rounded at all.
        assert 1e-8 < entry["largest_distance_error"] < most
        assert abs(entry["auroc_loss"]) < 0.2
        assert entry["text"] in card
        assert f"AUROC (DR) is {100 * entry['auroc']:.2f} %" in entry["text"]
        assert set(entry) == {
            *("file", "bytes", "images", "auroc", "auroc_loss", "text"),
            "largest_distance_error",
        }


def test_with_distances_the_rule_does_not_matter(
    model, prototypes, test_images, tmp_path
):
    (tmp_path / EXTRA).mkdir()
    made = (model.scorer(prototypes), "float16", tmp_path, test_images.image)
    one, other = (convert(*made, test_images, rule=rule) for rule in ("", "mls"))
    assert one == other


def test_without_unknown_images_there_is_no_auroc(
    model, prototypes, test_images, tmp_path
):
    (tmp_path / EXTRA).mkdir()
    known = test_images.take(~test_images.is_unknown)
    scorer = model.scorer(prototypes)
    entry = convert(scorer, "float16", tmp_path, known.image, known)
    assert entry["auroc"] is None
    assert entry["auroc_loss"] is None
    assert "AUROC" not in entry["text"]
