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


def test_command_line_skips_a_finished_run_from_its_own_flags(run_copy):
    # The record of a run is a flagfile: from any folder it finds the same run.
    flags = trial_folder(run_copy) / "flags.txt"
    moved = flags.read_text().replace("shared_run", "elsewhere")
    (run_copy / "again.flags").write_text(moved)
    arguments = [
        "--flagfile=again.flags",
        f"--workdir={run_copy / 'runs'}",
        f"--export_dir={run_copy / 'saved_models'}",
    ]
    answer = subprocess.run(
        [sys.executable, "-m", "pmal_tf.run", *arguments],
        cwd=run_copy,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr.count("skipped") == len(STAGES)
    assert "| PMAL " in answer.stdout


def test_a_mistake_is_a_sentence_and_status_1(tmp_path):
    answer = subprocess.run(
        [sys.executable, "-m", "pmal_tf.tune", "--epsilon=0"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 1
    assert answer.stderr == (
        "Error: `epsilon` must lie in (0, 1]. Received: epsilon=0.0\n"
    )
