"""The demo page: what it says of an image, and that it says it safely."""

import dataclasses
import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tiny_export import IDS, serve_bytes

from pmal_tf import demo
from pmal_tf.results.scores.registry import all_scores
from pmal_tf.runtime.errors import PmalError
from pmal_tf.serving.client import Answer
from pmal_tf.serving.exported import ExportedModel, Promise
from pmal_tf.serving.page import (
    Answerer,
    Prototype,
    describe_model,
    scale_of,
    show_answer,
)


@pytest.fixture(scope="module")
def answerer(exported):
    return Answerer(exported)


@pytest.fixture(scope="module")
def jpeg():
    pixels = np.random.default_rng(2).integers(0, 256, (30, 50, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def photo(jpeg, tmp_path):
    (tmp_path / "a&b.jpg").write_bytes(jpeg)
    return tmp_path / "a&b.jpg"


ANSWER = Answer(
    class_id=1,
    class_name="cat",
    is_unknown=False,
    unknown_score=0.25,
    threshold=0.5,
    probabilities={"dog": 0.251, "cat": 0.749},
    distance={"dog": 0.5, "cat": 0.25},
    nearest_prototype="train_1",
)
PROTOTYPE = Prototype(np.zeros((8, 8, 3), np.uint8), "train_1", 0.9)


@pytest.fixture
def facts(tmp_path):
    return ExportedModel(
        folder=tmp_path,
        title="digits",
        class_names=("dog", "cat"),
        image_size=8,
        rule="dr",
        threshold=0.5,
        threshold_range=(0.0, 2.0),
        promise=Promise(0.05, 0.08, 162),
    )


def show(facts, prototypes=(PROTOTYPE,), **changes):
    return show_answer(dataclasses.replace(ANSWER, **changes), facts, prototypes)


def test_the_model_gets_the_file_s_own_bytes(answerer, loaded, jpeg, photo):
    expected = {name: value[0] for name, value in serve_bytes(loaded, [jpeg]).items()}
    shown = answerer.show(photo)
    assert shown["score"]["value"] == expected["unknown_score"]
    assert shown["verdict"]["value"] == expected["class_name"].decode()
    assert shown["note"]["label"] == ("Known", "Unknown")[int(expected["is_unknown"])]
    assert f"distance {expected['distance'].min():.4g}." in shown["note"]["value"]
    np.testing.assert_array_equal(
        list(shown["likeliest"]["value"].values()), expected["probabilities"]
    )
    (preview, _), (seen, caption) = shown["images"]["value"]
    assert (preview.shape, seen.shape) == ((30, 30, 3), (8, 8, 3))
    assert "8 x 8 pixels" in caption


def weighed(answerer, image):
    (answer,) = answerer.model.answer([tf.io.encode_png(image).numpy()])
    return answer, answerer.prototypes(tf.constant(image), answer)


def test_the_first_prototype_is_the_one_that_the_model_names(answerer, prototypes):
    images = np.random.default_rng(3).integers(0, 256, (8, 8, 8, 3)).astype(np.uint8)
    for image in [*images, *prototypes.image[prototypes.mask]]:
        answer, found = weighed(answerer, image)
        assert found[0].example_id == answer.nearest_prototype
        weights = [prototype.weight for prototype in found]
        assert weights == sorted(weights, reverse=True)
        assert sum(weights) == pytest.approx(1.0)
        for prototype in found:
            (place,) = np.argwhere(prototypes.example_id == prototype.example_id)
            np.testing.assert_array_equal(
                prototype.image, prototypes.image[tuple(place)]
            )
            distance = list(answer.distance.values())
            assert place[0] == np.argmin(distance)


def test_with_the_nearest_prototype_all_weight_is_on_the_one_named(nearest, prototypes):
    answerer = Answerer(nearest[1])
    named = set()
    for image in prototypes.image[prototypes.mask]:
        answer, found = weighed(answerer, image)
        first, *others = show_answer(answer, answerer.exported, found)["prototypes"][
            "value"
        ]
        assert first[1] == f"{answer.nearest_prototype}, weight 100.0 %"
        assert all(caption.endswith("weight 0.0 %") for _, caption in others)
        named.add(answer.nearest_prototype)
    # Each is the nearest to itself.
    assert named == set(IDS[IDS != ""])


def test_without_stored_images_the_prototype_is_named(exported, tmp_path, photo):
    copy = tmp_path / "1"
    shutil.copytree(exported, copy)
    (copy / "assets.extra" / "prototypes.npz").unlink()
    answerer = Answerer(copy)
    shown = answerer.show(photo)
    assert "prototypes" not in shown
    assert "Nearest prototype: train_" in shown["note"]["value"]
    assert "checksum" in answerer.remark


@pytest.mark.parametrize(
    ("contents", "sentence"),
    [(b"", "empty"), (b"no image", "not a JPEG"), (None, "damaged")],
)
def test_an_unreadable_file_gets_a_sentence(answerer, jpeg, photo, contents, sentence):
    photo.write_bytes(jpeg[:200] if contents is None else contents)
    shown = answerer.show(photo)
    assert set(shown) == {"verdict", "note"}
    assert shown["note"]["label"] == "No answer for a&b.jpg"
    assert sentence in shown["note"]["value"]


def test_what_is_not_ours_is_refused(exported, tmp_path):
    with pytest.raises(PmalError, match="which does not exist"):
        Answerer(tmp_path / "nowhere")
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(PmalError, match=r"metadata\.json"):
        Answerer(tmp_path)
    facts = json.loads((exported / "metadata.json").read_text())
    facts["set_distance"] = "median"
    (tmp_path / "metadata.json").write_text(json.dumps(facts))
    with pytest.raises(PmalError, match=r"one of attention, nearest\. .*'median'"):
        Answerer(tmp_path)


def test_known_and_unknown_differ_by_words_too(facts):
    known, unknown = show(facts), show(facts, is_unknown=True, unknown_score=0.75)
    assert "the score 0.25 is not above the threshold 0.5." in known["note"]["value"]
    assert known["note"]["value"].startswith("One of the known classes")
    assert "the score 0.75 is above the threshold 0.5." in unknown["note"]["value"]
    assert unknown["note"]["value"].startswith("Like none of the known classes")
    assert known["verdict"]["color"] != unknown["verdict"]["color"]
    label = unknown["likeliest"]["label"]
    assert label == f"{known['likeliest']['label']}, were it one of the known classes"
    for shown in (known, unknown):
        assert shown["threshold"]["value"] == 0.5
        for name in ("minimum", "maximum", "step"):
            assert shown["score"][name] == shown["threshold"][name]


def test_what_a_model_does_not_say_is_left_out(facts):
    shown = show(facts)
    assert "Nearest class: cat, at distance 0.25." in shown["note"]["value"]
    assert shown["classes"]["value"] == {
        "headers": ["class", "probability", "distance"],
        "data": [["cat", "74.9 %", "0.25"], ["dog", "25.1 %", "0.5"]],
    }
    ((_, caption),) = shown["prototypes"]["value"]
    assert caption == "train_1, weight 90.0 %"
    assert "the class cat" in shown["prototypes"]["label"]
    shown = show(facts, (), nearest_prototype=None)
    assert "Nearest class" in shown["note"]["value"]
    assert "rototype" not in str(shown)
    shown = show(facts, (), nearest_prototype=None, distance=None)
    assert "Nearest" not in str(shown)
    assert "None" not in str(shown)
    assert shown["classes"]["value"]["data"] == [["cat", "74.9 %"], ["dog", "25.1 %"]]


@pytest.mark.parametrize("score", all_scores().values(), ids=all_scores())
def test_the_score_is_said_in_words(facts, score):
    limits = (score.low, score.high)
    facts = dataclasses.replace(facts, rule=score.field, threshold_range=limits)
    for shown in (show(facts), describe_model(facts)):
        assert f"{score.meaning} ({score.title})" in str(shown)
    unheard = dataclasses.replace(facts, rule="other")
    assert describe_model(unheard)[1][1].endswith("above 0.5: other")


def test_the_model_and_its_promise_are_told(facts):
    (classes, rule, promise) = describe_model(facts)
    assert classes == ["2 known classes", "dog, cat"]
    assert "unknown where the score is above 0.5" in rule[1]
    for text in ("at most 5.0 %", "set on 162 images", "up to 8.0 %"):
        assert text in promise[1]
    many = tuple(f"class {n}" for n in range(60))
    facts = dataclasses.replace(facts, promise=None, class_names=many)
    (classes, _, promise) = describe_model(facts)
    assert classes[1].endswith("class 49 and 10 more")
    assert "chose the threshold" in promise[1]


@pytest.mark.parametrize("score", [0.0, 0.01, 0.05, 0.3, 2.0])
def test_the_scale_holds_score_and_threshold(score):
    low, high = scale_of(score, 0.05, (0.0, 2.0))
    assert low == 0.0
    assert max(score, 0.05) <= high <= 2.0
    low, high = scale_of(score, 0.0, (0.0, 2.0))
    assert low <= score <= high
    assert low < high


@pytest.mark.parametrize("score", [-30.0, -3.3, 0.0, 12.0])
def test_the_scale_of_logits_has_the_threshold_in_its_middle(score):
    low, high = scale_of(score, -3.3, (-3.4e38, 3.4e38))
    assert low <= score <= high
    assert (low + high) / 2 == pytest.approx(-3.3)


def test_without_gradio_the_way_out_is_told(answerer, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    with pytest.raises(PmalError, match=r"pip install -e '\.\[demo\]'"):
        demo.build_page(answerer)


def test_help_waits_for_nothing_and_the_page_takes_files(exported):
    # In a process of its own: Gradio leaves an event loop open.
    code = """
import importlib.util, runpy, sys

folder, sys.argv = sys.argv[1], ["demo", "--help"]
try:
    runpy.run_module("pmal_tf.demo", run_name="__main__")
except SystemExit:
    pass
assert not {"tensorflow", "gradio"} & set(sys.modules)
if importlib.util.find_spec("gradio") is None:
    sys.exit()
from pmal_tf import demo
from pmal_tf.serving.page import Answerer

page = demo.build_page(Answerer(folder))
assert page.analytics_enabled is False
kinds = [component["type"] for component in page.config["components"]]
# A component for images may encode them anew.
assert "file" in kinds and "image" not in kinds, kinds
# All that is said is text: no HTML that names could be taken for.
assert "html" not in kinds and kinds.count("markdown") == 1, kinds
"""
    ended = subprocess.run(
        [sys.executable, "-c", code, str(exported)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "--saved_model" in ended.stdout
