"""Lite models give nearly the same embeddings, and say how nearly."""

import json

import pytest

from pmal_tf.serving.exported import EXTRA, is_intact
from pmal_tf.serving.tflite import convert


@pytest.mark.parametrize(("kind", "most"), [("float16", 1e-3), ("int8", 0.1)])
def test_lite_models_and_what_they_cost(exported, kind, most):
    assert is_intact(exported)
    entry = json.loads((exported / "metadata.json").read_text())["tflite"][kind]
    path = exported / entry["file"]
    assert path.parent.name == EXTRA
    assert path.stat().st_size == entry["bytes"]
    assert entry["images"] == 40
    # Below what rounding would allow, it was not rounded at all.
    assert 1e-8 < entry["largest_distance_error"] < most
    assert abs(entry["auroc_loss"]) < 0.2
    assert entry["text"] in " ".join((exported / "model_card.md").read_text().split())
    assert f"AUROC (DR) is {100 * entry['auroc']:.2f} %" in entry["text"]
    assert set(entry) == {
        *("file", "bytes", "images", "auroc", "auroc_loss", "text"),
        "largest_distance_error",
    }


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
