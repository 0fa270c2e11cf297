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
from tiny_export import IDS, export, serve_bytes

from pmal_tf import demo
from pmal_tf.methods.pmal.model import PMALModel
from pmal_tf.results.scores.registry import all_scores
from pmal_tf.runtime.errors import PmalError
from pmal_tf.serving.answer_html import (
    render_answer,
    render_error,
    render_images,
    render_model,
    scale_of,
)
from pmal_tf.serving.explain import Answerer, Explanation, WeighedPrototype
from pmal_tf.serving.exported import ExportedModel, Promise

HOSTILE = "<script>alert('1')</script>"


@pytest.fixture(scope="module")
def answerer(exported):
    return Answerer(exported)


@pytest.fixture
def jpeg():
    pixels = np.random.default_rng(2).integers(0, 256, (30, 50, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def an_explanation(**changes):
    image = np.zeros((8, 8, 3), np.uint8)
    return dataclasses.replace(
        Explanation(
            class_name=HOSTILE,
            is_unknown=False,
            score=0.25,
            probabilities={HOSTILE: 0.75, "dog": 0.25},
            nearest_class=HOSTILE,
            distance=0.25,
            nearest_prototype=HOSTILE,
            prototypes=(WeighedPrototype(image, HOSTILE, HOSTILE, 0.9),),
            preview=image,
            seen=image,
        ),
        **changes,
    )


@pytest.fixture
def facts(tmp_path):
    return ExportedModel(
        *(tmp_path, (HOSTILE, "dog"), "dr"),
        threshold=0.5,
        threshold_range=(0.0, 2.0),
        promise=Promise(0.05, 0.08, 162),
    )


def test_the_model_gets_the_file_s_own_bytes(answerer, loaded, jpeg):
    expected = {name: value[0] for name, value in serve_bytes(loaded, [jpeg]).items()}
    answer = answerer.explain(jpeg)
    assert answer.score == expected["unknown_score"]
    assert answer.class_name == expected["class_name"].decode()
    assert answer.is_unknown == expected["is_unknown"]
    assert answer.distance == expected["distance"].min()
    np.testing.assert_array_equal(
        list(answer.probabilities.values()), expected["probabilities"]
    )


def test_the_first_prototype_is_the_one_that_the_model_names(answerer, prototypes):
    images = np.random.default_rng(3).integers(0, 256, (8, 8, 8, 3)).astype(np.uint8)
    for image in [*images, *prototypes.image[prototypes.mask]]:
        answer = answerer.explain(tf.io.encode_png(image).numpy())
        np.testing.assert_array_equal(answer.seen, image)
        assert answer.prototypes[0].example_id == answer.nearest_prototype
        weights = [prototype.weight for prototype in answer.prototypes]
        assert weights == sorted(weights, reverse=True)
        assert sum(weights) == pytest.approx(1.0)
        for prototype in answer.prototypes:
            place = np.argwhere(prototypes.example_id == prototype.example_id)[0]
            np.testing.assert_array_equal(
                prototype.image, prototypes.image[tuple(place)]
            )
            assert prototype.class_name == answer.nearest_class
            class_names = answerer.exported.class_names
            assert class_names[place[0]] == answer.nearest_class


def test_with_the_nearest_prototype_all_weight_is_on_the_one_named(
    model, prototypes, tmp_path
):
    # The second prototypes of two classes are made long: the attention, which counts
    # lengths, would always name them, the cosine does not.
    nearest = PMALModel(model.network, 2, set_distance="nearest")
    nearest.refresh_prototypes(prototypes.image, prototypes.mask)
    bank = nearest.prototype_embeddings.numpy()
    bank[:2, 1] *= 10.0
    nearest.prototype_embeddings.assign(bank)
    export(nearest, prototypes, tmp_path / "1", 0.1)
    answerer = Answerer(tmp_path / "1")
    named = set()
    for image in prototypes.image[prototypes.mask]:
        answer = answerer.explain(tf.io.encode_png(image).numpy())
        first, *others = answer.prototypes
        assert first.example_id == answer.nearest_prototype
        assert first.weight == 1.0
        assert all(prototype.weight == 0.0 for prototype in others)
        named.add(first.example_id)
    # Each is the nearest to itself.
    assert named == set(IDS[IDS != ""])


def test_an_export_that_does_not_tell_its_distance_weighs_by_attention(
    exported, answerer, jpeg, tmp_path
):
    copy = tmp_path / "1"
    shutil.copytree(exported, copy)
    facts = json.loads((copy / "metadata.json").read_text())
    assert facts.pop("set_distance") == "attention"
    (copy / "metadata.json").write_text(json.dumps(facts))
    one, other = (a.explain(jpeg).prototypes for a in (answerer, Answerer(copy)))
    assert [p.weight for p in one] == [p.weight for p in other]
    (copy / "metadata.json").write_text(json.dumps({**facts, "set_distance": "none"}))
    with pytest.raises(PmalError, match="set_distance='none'"):
        Answerer(copy)


def test_without_stored_images_the_prototype_is_named(exported, tmp_path, jpeg):
    copy = tmp_path / "1"
    shutil.copytree(exported, copy)
    (copy / "assets.extra" / "prototypes.npz").unlink()
    answerer = Answerer(copy)
    answer = answerer.explain(jpeg)
    assert answer.prototypes == ()
    assert answer.nearest_prototype in render_answer(answer, answerer.exported)
    assert "checksum" in answerer.remark


@pytest.mark.parametrize(
    ("contents", "sentence"),
    [(b"", "empty"), (b"no image", "not a JPEG"), (None, "damaged")],
)
def test_an_unreadable_file_gets_a_sentence(
    answerer, jpeg, tmp_path, contents, sentence
):
    path = tmp_path / "a&b.jpg"
    path.write_bytes(jpeg[:200] if contents is None else contents)
    images, page = demo.answer_file(answerer, path)
    assert images == ""
    assert sentence in page
    assert "a&amp;b.jpg" in page
    assert "Traceback" not in page
    path.write_bytes(jpeg)
    images, page = demo.answer_file(answerer, path)
    assert images.count("data:image/png;base64,") == 2
    assert "pmal-verdict" in page


def test_what_is_not_ours_is_refused(exported, tmp_path):
    with pytest.raises(PmalError, match="which does not exist"):
        Answerer(tmp_path / "nowhere")
    module = tf.Module()
    module.f = tf.function(lambda x: x, input_signature=[tf.TensorSpec([None])])
    tf.saved_model.save(module, str(tmp_path / "other"))
    with pytest.raises(PmalError, match=r"metadata\.json"):
        Answerer(tmp_path / "other")
    copy = tmp_path / "1"
    shutil.copytree(exported, copy)
    metadata = json.loads((copy / "metadata.json").read_text())
    del metadata["image_size"]
    (copy / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(PmalError, match="image size"):
        Answerer(copy)


def test_names_are_escaped(facts):
    pages = (
        render_answer(an_explanation(), facts),
        render_answer(an_explanation(prototypes=()), facts),
        render_images(an_explanation(), HOSTILE),
        render_error(HOSTILE, HOSTILE),
        render_model(HOSTILE, facts),
    )
    for page in pages:
        assert "<script" not in page
        assert "&lt;script&gt;" in page


def test_known_and_unknown_differ_by_words_too(facts):
    known = render_answer(an_explanation(), facts)
    assert "0.25 is not above the threshold 0.5: known" in known
    assert "pmal-known" in known
    unknown = render_answer(an_explanation(is_unknown=True, score=0.75), facts)
    assert "0.75 is above the threshold 0.5: unknown" in unknown
    assert "pmal-unknown" in unknown


def test_what_a_model_does_not_say_is_left_out(facts):
    page = render_answer(an_explanation(), facts)
    for text in ("Nearest class", "at distance 0.25", "Nearest prototypes"):
        assert text in page
    no_prototypes = {"nearest_prototype": None, "prototypes": ()}
    page = render_answer(an_explanation(**no_prototypes), facts)
    assert "at distance 0.25" in page
    assert "rototype" not in page
    nothing = {**no_prototypes, "nearest_class": None, "distance": None}
    page = render_answer(an_explanation(**nothing), facts)
    assert "Nearest" not in page
    assert "None" not in page


@pytest.mark.parametrize("score", all_scores().values(), ids=all_scores())
def test_the_score_is_said_in_words(facts, score):
    limits = (score.low, score.high)
    facts = dataclasses.replace(facts, rule=score.field, threshold_range=limits)
    for page in (render_answer(an_explanation(), facts), render_model("x", facts)):
        assert f"{score.meaning} ({score.title})" in page
    unheard = dataclasses.replace(facts, rule=HOSTILE)
    page = render_model("x", unheard)
    assert "&lt;script&gt;" in page
    assert "<script" not in page


def test_most_classes_are_summed_up(facts):
    many = {f"class {i}": 0.05 for i in range(20)}
    page = render_answer(an_explanation(probabilities=many), facts)
    assert page.count('class="pmal-track"') == 10
    assert "10 other classes: 50.0 %" in page


def test_the_model_s_promise_is_told(facts):
    page = render_model("digits", facts)
    assert "at most 5.0 %" in page
    assert "set on 162 images" in page
    assert "up to 8.0 %" in page
    none = render_model("digits", dataclasses.replace(facts, promise=None))
    assert "chose the threshold" in none


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


def test_help_waits_for_neither_tensorflow_nor_gradio():
    code = (
        "import sys, runpy; sys.argv = ['demo', '--help']\n"
        "try: runpy.run_module('pmal_tf.demo', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'tensorflow', 'gradio'} & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "--saved_model" in ended.stdout


def test_the_page_takes_files_and_reports_nothing(exported):
    pytest.importorskip("gradio")
    # In a process of its own: Gradio leaves an event loop open.
    code = (
        "import sys\n"
        "from pmal_tf import demo\n"
        "from pmal_tf.serving.explain import Answerer\n"
        "page = demo.build_page(Answerer(sys.argv[1]))\n"
        "assert page.analytics_enabled is False\n"
        "kinds = [component['type'] for component in page.config['components']]\n"
        "# A component for images may encode them anew.\n"
        "assert 'file' in kinds and 'image' not in kinds, kinds\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(exported)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
