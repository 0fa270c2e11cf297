"""The method that CONTRIBUTING.md writes down is one, as it stands there."""

import importlib
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from quick_run import quick_stages
from tiny_run import tiny, trial_folder

from pmal_tf import estimator, methods
from pmal_tf.methods import registry
from pmal_tf.workflow.experiment import run_experiment
from pmal_tf.workflow.flags import all_settings, short_help

GUIDE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
NAME = "logit_norm_example"
SETTING = "logit_norm_temperature"


def example():
    (block,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    return block


def settings(folder, **changes):
    values = {"method": NAME, "compare": ("softmax",), "epochs": 1}
    return tiny(folder, **values, **changes)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run of the example, which is a method while the tests here last."""
    folder = tmp_path_factory.mktemp("example")
    (folder / "added").mkdir()
    (folder / "added" / f"{NAME}.py").write_text(example(), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patched:
        paths = [*methods.__path__, str(folder / "added")]
        patched.setattr(methods, "__path__", paths)
        importlib.invalidate_caches()
        registry.all_methods.cache_clear()
        try:
            yield folder, run_experiment(settings(folder))
        finally:
            registry.all_methods.cache_clear()
            sys.modules.pop(f"{methods.__name__}.{NAME}", None)
            vars(methods).pop(NAME, None)
    importlib.reload(estimator)  # Its classes have the parameters of all methods.


def test_the_example_is_one_short_file():
    assert len(example().splitlines()) < 60
    _, _, guide = GUIDE.partition("## Adding a method")
    assert set(re.findall(r"\w*logit_norm\w*\.py", guide)) == {f"{NAME}.py"}
    assert f"--method={NAME}" in guide


def test_its_results_stand_beside_softmax(made):
    folder, table = made
    trial = trial_folder(folder)
    result = json.loads((trial / "result.json").read_text())
    assert result["method"] == NAME
    assert set(result["models"]) == {NAME, "softmax"}
    for metrics in result["models"].values():
        numbers = [metrics["acc"]]
        for score in ("pr", "mls"):
            numbers += [v for v in metrics[score].values() if isinstance(v, float)]
        assert len(numbers) > 4
        assert np.isfinite(numbers).all()
    assert re.search(r"\| LogitNorm +\|", table)
    with np.load(trial / f"scores_{NAME}.npz") as scores:
        assert np.isfinite(scores["pr"]).all()
        assert len(scores["pr"]) == len(scores["example_id"])


def test_its_export_answers(made):
    model = tf.saved_model.load(made[0] / "saved_models" / "tiny" / "trial_0" / "1")
    images = np.zeros((2, 8, 8, 3), np.float32)
    answers = model.signatures["serving_default"](images=tf.constant(images))
    assert answers["class_name"].shape == (2,)
    assert np.isfinite(answers["unknown_score"]).all()
    assert not {"distance", "nearest_prototype"} & set(answers)


def test_its_setting_is_a_flag(made):
    assert SETTING in all_settings()
    assert f"--{SETTING}" in short_help()


def test_its_setting_remakes_what_depends_on_it(made, tmp_path, started):
    shutil.copytree(made[0], tmp_path, dirs_exist_ok=True)
    run_experiment(settings(tmp_path))
    assert started == []
    with quick_stages():
        run_experiment(settings(tmp_path, **{SETTING: 0.5}))
    assert started == [NAME, "evaluate", "export"]


def test_it_is_a_classifier_for_python(made):
    importlib.reload(estimator)
    parameters = {"epochs": 1, "width": 0.15, SETTING: 0.5}
    image, label = np.zeros((60, 8, 8, 3), np.uint8), np.arange(60) % 3
    image[np.arange(60), label] = 255
    classifier = estimator.OpenSetClassifier(method=NAME, **parameters)
    assert classifier.get_params()[SETTING] == 0.5
    assert set(classifier.fit(image, label).predict(image)) <= {-1, 0, 1, 2}
