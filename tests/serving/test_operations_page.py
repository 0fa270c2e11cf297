"""What the page on serving says one can ask, asked."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import requests
import tensorflow as tf
from google.protobuf import text_format
from PIL import Image
from tensorflow_serving.apis import prediction_service_pb2_grpc
from tensorflow_serving.config import model_server_config_pb2
from tf_serving import URL, poster, predict, stub_class
from tiny_export import CLASSES, serve_bytes

import pmal_tf
from pmal_tf.mining.distances import SET_DISTANCES, SetDistance
from pmal_tf.results.calibration import rate_interval
from pmal_tf.serving import exported as exports
from pmal_tf.serving import image_bytes, signatures
from pmal_tf.workflow.config import Config
from pmal_tf.workflow.flags import all_settings

PAGE = (Path(__file__).parents[2] / "saved_models" / "README.md").read_text()
TENSOR = re.compile(r"`(\w+)` (float32|int64|string|bool) \[([^\]]+)\]")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def rows_of(heading):
    """Returns the cells of the table whose first column has a heading."""
    table = re.search(
        rf"^\| {heading} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE
    )
    return [
        [cell.strip() for cell in row.strip("|").split(" | ")]
        for row in table[1].splitlines()
    ]


@pytest.fixture(scope="module")
def place(exported, tmp_path_factory):
    """A folder like the repository's root, with a served model and a photo."""
    folder = tmp_path_factory.mktemp("root")
    (folder / "saved_models" / "cifar10").mkdir(parents=True)
    (folder / "saved_models" / "cifar10" / "trial_0").symlink_to(exported.parent)
    pixels = np.random.default_rng(1).integers(0, 256, size=(30, 40, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(folder / "cat.jpg")
    return folder


@pytest.fixture(scope="module")
def expected(place, loaded):
    """What the model itself says of the photo."""
    return serve_bytes(loaded, [(place / "cat.jpg").read_bytes()])


def run(code, place, monkeypatch, **names):
    monkeypatch.chdir(place)
    exec(compile(code, "saved_models/README.md", "exec"), names)
    return names


def test_rest_example(place, expected, loaded, monkeypatch, capsys):
    (code,) = (block for block in blocks("python") if "import requests" in block)
    monkeypatch.setattr(requests, "post", poster(loaded.signatures))
    names = run(code, place, monkeypatch)
    (answer,) = names["answers"]
    assert set(answer) == set(expected)
    assert answer["class_name"] == expected["class_name"][0].decode()
    assert answer["error"] == ""
    np.testing.assert_allclose(answer["distance"], expected["distance"][0], atol=1e-6)
    # By columns; the threshold is the client's.
    outputs = names["outputs"]
    assert set(outputs) == set(expected) - {"error"}
    # TensorFlow and Pillow decode a JPEG's colours a little differently.
    np.testing.assert_allclose(outputs["distance"], expected["distance"], atol=0.01)
    assert outputs["is_unknown"] == [outputs["unknown_score"][0] > 0.3] == [False]
    assert capsys.readouterr().out.endswith(f"{outputs['class_name']} [False]\n")
    columns = {"images": [names["pixels"]] * 2, "threshold": [0.0, 2.0]}
    both = names["ask"](signature_name="serving_images_threshold", inputs=columns)
    assert both["outputs"]["is_unknown"] == [True, False]
    # Past the end of the threshold's range.
    columns = {"images": [names["pixels"]], "threshold": [2.1]}
    with pytest.raises(ValueError, match="`threshold` must lie between 0 and 2"):
        names["ask"](signature_name="serving_images_threshold", inputs=columns)


def test_curl_example_sends_what_the_server_takes(place, expected, loaded):
    urls = re.findall(r"curl (?:-d @- )?(http[^\s`]+)", PAGE)
    assert len(urls) == 3
    assert all(map(URL.fullmatch, urls))
    (command,) = blocks("sh")
    command, count = re.subn(r"curl -d @- (\S+)", "cat", command)
    assert count == 1
    sent = subprocess.run(
        ["sh", "-c", command], cwd=place, check=True, capture_output=True
    )
    # The response that is shown has the form of the real one.
    (shown,) = json.loads(blocks("json")[0])["predictions"]
    (real,) = predict(loaded.signatures, json.loads(sent.stdout))["predictions"]
    assert {name: type(value) for name, value in shown.items()} == {
        name: type(value) for name, value in real.items()
    }
    assert shown["unknown_score"] == min(shown["distance"])
    assert sum(shown["probabilities"]) == pytest.approx(1)
    assert real["class_id"] == expected["class_id"][0]


def test_grpc_example(place, loaded, expected, monkeypatch, capsys):
    (code,) = (block for block in blocks("python") if "import grpc" in block)
    sent = []
    stub = stub_class(loaded.signatures, sent)
    monkeypatch.setattr(prediction_service_pb2_grpc, "PredictionServiceStub", stub)
    names = run(code, place, monkeypatch)
    names["channel"].close()
    assert set(names["outputs"]) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(names["outputs"][name], value)
    assert expected["class_name"][0].decode() in capsys.readouterr().out
    # The label of the version, as the page sets it.
    assert "`request.model_spec.version_label`" in PAGE
    names["request"].model_spec.version_label = "canary"
    names["stub"].Predict(names["request"], timeout=30)
    assert sent[-1].model_spec.version_label == "canary"


def tensors(cell, sizes):
    """Returns the names, types and shapes that a table's cell tells."""
    return {
        name: (tf.as_dtype(dtype), [sizes.get(side) for side in shape.split(", ")])
        for name, dtype, shape in TENSOR.findall(cell)
    }


def test_signatures_are_those_of_the_table(loaded):
    embed = loaded.signatures["embed"].structured_outputs["embedding"]
    sizes = {"3": 3, "K": len(CLASSES), "D": embed.shape[-1]}
    answers = {}
    for name, _, _ in rows_of("output"):
        answers |= tensors(name, sizes)
    found = {}
    for names, inputs, outputs in rows_of("signature"):
        out = tensors(outputs, sizes) | (answers if "answers" in outputs else {})
        if "--export_xla" in names:
            names = re.sub("`--export_xla`", "", names)
            assert re.findall(r"`(\w+)`", names) == ["serving_images_xla"]
            continue
        found |= {
            name: (tensors(inputs, sizes), out)
            for name in re.findall(r"`(\w+)`", names)
        }

    def form(specs):
        return {name: (x.dtype, x.shape.as_list()) for name, x in specs.items()}

    assert found == {
        name: (
            form(signature.structured_input_signature[1]),
            form(signature.structured_outputs),
        )
        for name, signature in loaded.signatures.items()
    }


def test_unreadable_images_are_answered_as_the_table_says(loaded):
    body = {"signature_name": "serving_bytes", "instances": [{"b64": "QUJD"}]}
    (answer,) = predict(loaded.signatures, body)["predictions"]
    assert answer.pop("error")
    for name, _, value in rows_of("output"):
        (key,) = TENSOR.match(name).groups()[:1]
        if value == "1 / K":
            wanted = pytest.approx(1 / len(CLASSES))
        else:
            wanted = json.loads(re.match("`(.*?)`", value)[1])
        got = answer.pop(key)
        assert (got if isinstance(got, list) else [got]) == [wanted] * np.size(got), key
    assert not answer
    pixels = np.full((1, 8, 8, 3), np.nan, np.float32)
    embedding = loaded.signatures["embed"](images=tf.constant(pixels))["embedding"]
    assert not embedding.numpy().any()


def test_every_file_of_a_version_is_told(exported):
    version = exported
    found = re.findall(r"`([\w./*]+)`", " ".join(cells[0] for cells in rows_of("file")))
    for pattern in found:
        assert list(version.glob(pattern.rstrip("/"))), pattern
    for path in version.rglob("*"):
        name = str(path.relative_to(version))
        if path.is_file():
            assert any(
                Path(name).match(pattern) or name.startswith(pattern)
                for pattern in found
            ), name
    with np.load(version / "assets.extra" / "prototypes.npz") as arrays:
        (cell,) = (row[1] for row in rows_of("file") if "prototypes.npz" in row[0])
        assert set(re.findall(r"`(\w+)`", cell)) == set(arrays)
    facts = json.loads((version / "metadata.json").read_text())
    assert {"class_names", "threshold_range"} <= set(facts)
    assert "tensorflow" in facts["versions"]


def test_models_config_is_one():
    (text,) = blocks("proto")
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert (model.name, model.model_platform) == ("cifar10", "tensorflow")
    # Where the container finds the mounted folder.
    assert f":{model.base_path}" in PAGE
    served = list(model.model_version_policy.specific.versions)
    assert dict(model.version_labels) == {"stable": 2, "canary": 3}
    assert set(model.version_labels.values()) == set(served)
    assert "/labels/canary:predict" in PAGE


def test_distance_on_a_device_is_the_model_s(place, model, monkeypatch, capsys):
    (code,) = (block for block in blocks("python") if "tf.lite" in block)
    with pytest.warns(UserWarning, match="Interpreter"):
        names = run(code, place, monkeypatch)

    def compare(z, embedded, mask):
        got = [names["distance"](z, k) for k in range(len(CLASSES))]
        centred = not np.isscalar(names["origin"])
        wanted = SetDistance(names["set_distance"], names["sharpness"], centred)
        np.testing.assert_allclose(
            got, wanted(z[None], embedded, mask)[0][0], atol=1e-6
        )
        return got

    z, mask = names["z"], model.prototype_mask.numpy()
    assert names["set_distance"] == "attention"
    least = min(compare(z, model.prototype_embeddings, mask))
    assert float(capsys.readouterr().out) == pytest.approx(least, abs=1e-6)
    # An untrained network's prototypes are too alike to tell how they are weighed.
    embedded = np.random.default_rng(2).normal(size=model.prototype_embeddings.shape)
    names["prototypes"] = embedded[mask]
    z = np.random.default_rng(3).normal(size=len(z))
    attended = compare(z, embedded, mask)
    names["sharpness"] = 10.0
    sharper = compare(z, embedded, mask)
    assert not np.allclose(sharper, attended)
    names["origin"] = names["prototypes"].mean(axis=0)
    assert not np.allclose(compare(z, embedded, mask), sharper)
    names["origin"], names["set_distance"] = 0.0, "nearest"
    assert not np.allclose(compare(z, embedded, mask), attended)
    for names["set_distance"] in SET_DISTANCES:
        assert names["distance"](np.zeros_like(z), 0) == 1


def test_threshold_example(place, monkeypatch):
    (code,) = (block for block in blocks("python") if "conformal" in block)
    scores = np.random.default_rng(3).uniform(size=19)
    names = run(code, place, monkeypatch, scores=scores)
    assert names["threshold"] == scores.max()
    with pytest.raises(pmal_tf.PmalError, match="at least 19"):
        run(code, place, monkeypatch, scores=scores[1:])


def test_numbers_are_the_code_s():
    rate = Config().evaluation.reject_rate
    low, high = rate_interval(1000, rate)
    assert f"a rate of {100 * low:.1f} to {100 * high:.1f} %" in PAGE
    assert f"`--reject_rate` ({100 * rate:g} %)" in PAGE
    assert f"{image_bytes.MAX_PIXELS:,} pixels" in PAGE
    assert f"{image_bytes.MAX_BYTES // 2**20} MiB" in PAGE
    assert f"At most {signatures._MOST_AT_A_TIME} images" in PAGE


def test_names_that_the_page_has_servers_pass_over(tmp_path):
    (withdrawn,) = re.findall(r"`mv 3 (\w+)`", PAGE)
    (writing,) = re.findall(r"written to `(\w+)<n>`", PAGE)
    for name in (f"{writing}4", "2", withdrawn, "10"):
        (tmp_path / name).mkdir()
    assert [path.name for path in exports.versions(tmp_path)] == ["2", "10"]


def test_flags_of_the_page_are_flags():
    server = {
        *("enable_batching", "batching_parameters_file", "model_config_file"),
        *("model_config_file_poll_wait_seconds", "xla_cpu_compilation_enabled"),
        "allow_version_labels_for_unavailable_models",
    }
    predict = {"saved_model", "format"}
    found = set(re.findall(r"--(\w+)", PAGE))
    assert found - server - predict <= set(all_settings())
    assert server <= found
