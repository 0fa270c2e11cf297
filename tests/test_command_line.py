"""The command line, and the export, each in a process of its own."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from tiny_run import STAGES, tiny, trial_folder

from pmal_tf.workflow.experiment import open_trial

SERVE_ALONE = """
import sys
sys.modules["pmal_tf"] = sys.modules["keras"] = sys.modules["tf_keras"] = None
import numpy as np
import tensorflow as tf
folder, inputs, outputs = sys.argv[1:]
model = tf.saved_model.load(folder)
images = tf.constant(np.load(inputs), tf.float32)
answers = model.signatures["serving_default"](images=images)
np.savez(outputs, **{name: value.numpy() for name, value in answers.items()})
"""


def test_export_answers_alike_without_pmal_tf_and_keras(finished, tmp_path):
    folder = finished[0]
    np.save(tmp_path / "images.npy", open_trial(tiny(folder), 0).images.test.image)
    export = folder / "saved_models" / "tiny" / "trial_0" / "1"
    arguments = [export, tmp_path / "images.npy", tmp_path / "answers.npz"]
    subprocess.run(
        [sys.executable, "-c", SERVE_ALONE, *map(str, arguments)],
        check=True,
        cwd=tmp_path,
        capture_output=True,
    )
    with (
        np.load(tmp_path / "answers.npz") as answers,
        np.load(trial_folder(folder) / "scores.npz") as scores,
    ):
        np.testing.assert_allclose(answers["unknown_score"], scores["dr"], atol=1e-5)
        np.testing.assert_allclose(
            1.0 - answers["probabilities"].max(axis=1), scores["pr"], atol=1e-5
        )
        calibration = trial_folder(folder) / "calibration.json"
        rules = json.loads(calibration.read_text())["rules"]
        rejected = answers["is_unknown"][scores["is_unknown"]].mean()
        assert rejected == pytest.approx(rules["dr"]["unknown_rejected"], abs=0.01)


def command(arguments, folder):
    return subprocess.run(
        [sys.executable, "-m", "pmal_tf.run", *arguments],
        cwd=folder,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )


def test_command_line_skips_a_finished_run_from_its_own_flags(run_copy):
    # The record of a run is a flagfile: from any folder it finds the same run.
    flags = trial_folder(run_copy) / "flags.txt"
    moved = flags.read_text().replace("finished0", "elsewhere")
    (run_copy / "again.flags").write_text(moved)
    arguments = [
        "--flagfile=again.flags",
        f"--workdir={run_copy / 'runs'}",
        f"--export_dir={run_copy / 'saved_models'}",
    ]
    answer = command(arguments, run_copy)
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr.count("skipped") == len(STAGES)
    assert "| PMAL " in answer.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--dataset=cifar11"],
            "Error: `dataset` must be one of cifar10",
        ),
        (["--datset=mnist"], "Error: Unknown command line flag 'datset'"),
        (["--protocol=arpl2"], "Error: `protocol` must be one of"),
        (["--trials=0,x"], "Error: `trials` must list values of type int"),
        (["--epsilon=0"], "Error: `epsilon` must lie in (0, 1]"),
        (["--prototypes_per_class=0"], "Error: `prototypes_per_class` must lie in"),
        (["--num_models=1"], "Error: `num_models` must lie in [2, inf)"),
        (["--flagfile=absent.flags"], "Error: `--flagfile` must name a readable file"),
        (["train"], "Unexpected arguments: train"),
    ],
)
def test_mistakes_on_the_command_line_are_sentences(tmp_path, arguments, sentence):
    answer = command(arguments, tmp_path)
    assert answer.returncode == 1
    assert sentence in answer.stdout + answer.stderr
    assert "Traceback" not in answer.stderr
    assert not list(tmp_path.iterdir())


def test_missing_dataset_is_a_sentence_on_the_command_line(tmp_path):
    answer = command(["--dataset=mnist", f"--data_dir={tmp_path}"], tmp_path)
    assert answer.returncode == 1
    assert "pmal_tf.data.prepare --dataset=mnist" in answer.stderr
    assert "Traceback" not in answer.stderr
