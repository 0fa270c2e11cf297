"""What the documents say one can type, typed."""

import dataclasses
import importlib.util
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from pmal_tf.backbones.build import classifier_from
from pmal_tf.benchmark.settings import BenchmarkSettings
from pmal_tf.workflow.flags import all_settings

ROOT = Path(__file__).parent.parent
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "experiments" / "README.md",
        ROOT / "pmal_tf" / "mining" / "README.md",
    )
}
DOCUMENTS = "".join(PAGES.values())
# Folders of images and runs, not of the package; the package; a file to be added.
OF_RUNS = {
    *("optimize/", "control/", "arpl/", "unknown/", "train/", "tensorboard/"),
    *("pmal_tf/", "pmal_tf/methods/logit_norm_example.py"),
}


def blocks(language, page):
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.DOTALL)


def test_the_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) <= 150


def test_python_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    served, example = blocks("python", "README.md")
    code = [line for line in example.splitlines() if line.strip()]
    assert len(code) < 15
    names: dict = {}
    exec(compile(example, "README", "exec"), names)
    classifier, x, images = (names[n] for n in ("classifier", "x", "images"))
    # The threshold rejects 5 % of known images that training never saw, as calibrated
    # on them, and many more of the digits that are no class of the model's.
    assert (classifier.predict(x[1::2]) == -1).mean() <= 0.05
    assert (classifier.predict(images[~names["known"]]) == -1).mean() > 0.3
    # The same answer from a file, by what was just exported.
    Image.fromarray(x[1]).save("digit.jpg")
    served = served.replace("saved_models/folder_cpu/trial_0/1", "saved_models/mine/1")
    served = served.replace("photos/train/cat/1.jpg", "digit.jpg")
    exec(compile(served, "README", "exec"), {})
    assert re.search(r"b'([0-5]|unknown)'", capsys.readouterr().out)


def test_mining_example_runs(rng):
    import pmal_tf

    names: dict = {"pmal_tf": pmal_tf, "names": ["ant", "bee", "cat"]}
    for model in (0, 1):
        names[f"z_{model}"] = rng.normal(size=(60, 8))
        names[f"kernel_{model}"] = rng.normal(size=(8, 3))
        names[f"bias_{model}"] = np.zeros(3)
    names["class_index"] = np.arange(60) % 3
    names["example_id"] = np.arange(60).astype(str)
    (example,) = blocks("python", "pmal_tf/mining/README.md")
    exec(compile(example, "README", "exec"), names)
    assert names["result"].robustness.shape == (60,)
    assert [len(chosen) for chosen in names["mined"].selection] == [10, 10, 10]


def test_start_from_a_model_of_ones_own_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = blocks("python", "experiments/README.md")
    assert example.count('pooling="avg"') == 1
    # The published weights would be downloaded.
    example = example.replace('pooling="avg"', 'pooling="avg", weights=None')
    exec(compile(example, "README", "exec"), {})
    start = keras.models.load_model("start.keras")
    classifier = classifier_from(start, (224, 224, 3), num_classes=4)
    assert classifier.output.shape == (None, 4)


def test_nothing_is_left_to_be_filled_in():
    assert not re.findall(r"^[A-Z_]{6,}$|TODO|FIXME|XXX", DOCUMENTS, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    """Files, and headings as GitHub names them."""
    text = re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL)
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        name, _, anchor = link.partition("#")
        file = (ROOT / page).parent / name if name else ROOT / page
        assert file.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            words = {re.sub(r"[^\w\- ]", "", h).lower() for h in headings}
            assert anchor in {w.replace(" ", "-") for w in words}, link


def test_every_path_that_the_documents_name_exists():
    for path in re.findall(r"(?:experiments|tests|\.ci)/[\w./]+\w", DOCUMENTS):
        assert (ROOT / path).exists(), path
    named = re.findall(r"`((?:\w+/)*\w+\.py|(?:\w+/)+)(?:: (\w+))?`", DOCUMENTS)
    assert len(named) > 40
    for path, name in named:
        elsewhere = ("tests/", "experiments/", "runs/", "saved_models/")
        if path.startswith(elsewhere) or path in OF_RUNS:
            continue
        file = ROOT / "pmal_tf" / path
        assert file.exists(), path
        assert not name or re.search(rf"^(def|class) {name}\b", file.read_text(), re.M)


def test_every_command_that_the_documents_name_exists(defined_flags):
    modules = set(re.findall(r"python -m (pmal_tf[\w.]*\w)", DOCUMENTS))
    assert len(modules) > 8
    for module in modules:
        assert importlib.util.find_spec(module), module
    known = {*all_settings(), "help", "helpfull", "flagfile", "name"}
    known |= {field.name for field in dataclasses.fields(BenchmarkSettings)}
    for path in (ROOT / "pmal_tf").rglob("*.py"):
        declared = r"(?:DEFINE_\w+\(|add_argument\(|define\(\"\w+\",)\s*\"(?:--)?(\w+)"
        known |= set(re.findall(declared, path.read_text()))
    named = set(re.findall(r"(?<![\w-])--(\w+)", DOCUMENTS))
    assert len(named) > 60
    strange = {name for name in named if name.removeprefix("no") not in known}
    # TensorBoard's, uv's, and that of the method that is to be added.
    assert strange == {"logdir", "resolution", "logit_norm_temperature"}


# What only others include, and recipes, tell where they are from.
TOLD = [
    path
    for path in sorted((ROOT / "experiments").rglob("*.flags"))
    if "common" not in path.stem and path.parent.name != "recipes"
]


@pytest.mark.parametrize("path", TOLD, ids=lambda path: path.stem)
def test_flagfiles_tell_command_time_and_result(path):
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    text = "\n".join(head)
    command = "tune" if path.parent.name == "tune" else "run"
    told = path.relative_to(ROOT).as_posix()
    assert f"#   python -m pmal_tf.{command} --flagfile={told}" in text
    # A number says of how many trials it is; what was not measured says so.
    assert re.search(r"^# result: +(not measured\b|n = \d+ trials?\b)", text, re.M)
    if command == "run":
        for word in ("hardware", "time", "paper"):
            assert re.search(rf"^# {word}: +\S", text, re.MULTILINE), word
