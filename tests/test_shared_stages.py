"""Stages that runs have in common are made once, and are the same files."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
from tiny_run import tiny

from pmal_tf.api import load_model
from pmal_tf.errors import PmalError
from pmal_tf.experiment import run_experiment
from pmal_tf.shared_files import SharedFiles, place_files
from pmal_tf.workdir import Marker

STAGES = ("pretrain", "mine", "optimize", "evaluate")


def point(folder, name, **changes):
    config = tiny(folder, epochs=1, control=False, stages=STAGES, share_stages=True)
    return dataclasses.replace(config, experiment=name, **changes)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    run_experiment(point(folder, "first"))
    return folder


def made(config):
    """Names of the stages that a run computed, not took."""
    shared = len(list((config.run_folder.parent / "shared").iterdir()))
    run_experiment(config)
    return len(list((config.run_folder.parent / "shared").iterdir())) - shared


def weights(config, stage):
    model = load_model(config.run_folder / "trial_0" / stage / "model.keras")
    return np.concatenate([weight.ravel() for weight in model.get_weights()])


def test_a_point_that_mines_otherwise_shares_what_came_before(first):
    config = point(first, "otherwise", epsilon=0.3)
    # Of its own it makes the mining and the optimisation.
    assert made(config) == 2
    for stage in ("pretrain_0", "pretrain_1"):
        theirs = weights(point(first, "first"), stage)
        np.testing.assert_array_equal(weights(config, stage), theirs)
    lines = (config.run_folder / "trial_0" / "metrics.jsonl").read_text().splitlines()
    stages = [json.loads(line)["stage"] for line in lines]
    assert sorted(stages) == ["optimize", "pretrain_0", "pretrain_1"]


def test_another_number_of_models_shares_those_it_has_too(first):
    # One more model, its embedding, the robustness of three, mining, optimisation.
    assert made(point(first, "three", num_models=3)) == 5


def test_the_same_point_is_made_once_and_counts_as_finished(first, started):
    config = point(first, "same")
    assert made(config) == 0
    started.clear()
    run_experiment(config)
    assert not started


def test_what_is_shared_gives_the_numbers_of_a_run_from_nothing(first, tmp_path):
    shared = point(first, "again", epsilon=0.3)
    run_experiment(shared)
    alone = point(tmp_path, "alone", epsilon=0.3, share_stages=False)
    run_experiment(alone)
    assert not (tmp_path / "runs" / "shared").exists()
    scores = [
        np.load(config.run_folder / "trial_0" / "scores.npz")["dr"]
        for config in (shared, alone)
    ]
    np.testing.assert_array_equal(*scores)


def test_another_seed_shares_nothing(first):
    # Two models, two embeddings, robustness, mining, optimisation.
    assert made(point(first, "seed", seed=1)) == 7


def test_a_damaged_shared_stage_is_made_anew(first):
    config = point(first, "to_spoil", seed=2)
    run_experiment(config)
    spoilt = 0
    marker = Marker.read(config.run_folder / "trial_0" / "pretrain_0", "pretrain")
    for entry in (first / "runs" / "shared").iterdir():
        done = entry / "done.json"
        if done.exists() and json.loads(done.read_text())["outputs"] == marker.outputs:
            os.unlink(entry / "model.keras")
            (entry / "model.keras").write_bytes(b"spoilt")
            spoilt += 1
    assert spoilt == 1
    again = point(first, "after_damage", seed=2)
    run_experiment(again)
    np.testing.assert_array_equal(
        weights(again, "pretrain_0"), weights(config, "pretrain_0")
    )


def test_a_stage_that_is_taken_counts_only_once_all_of_it_is_there(first, monkeypatch):
    class Killed(BaseException):
        pass

    def write(*_):
        raise Killed

    config = point(first, "killed_while_taking")
    with monkeypatch.context() as patch:
        patch.setattr(Marker, "write", write)
        with pytest.raises(Killed):
            run_experiment(config)
    folder = config.run_folder / "trial_0" / "pretrain_0"
    assert (folder / "model.keras").exists()
    assert not (folder / "done.json").exists()
    run_experiment(config)
    assert (config.run_folder / "trial_0" / "result.json").exists()


def test_damage_is_mended_by_making_it_anew(first):
    config = point(first, "mended", seed=3)
    run_experiment(config)
    path = config.run_folder / "trial_0" / "mining" / "embedding_1.npy"
    before = np.load(path)
    with path.open("r+b") as file:  # In place: what is kept is the same file.
        file.seek(-8, os.SEEK_END)
        file.write(bytes(8))
    with pytest.raises(PmalError, match="another checksum"):
        run_experiment(config)
    anew = dataclasses.replace(config, overwrite=True, stages=("mine",))
    run_experiment(anew)
    np.testing.assert_array_equal(np.load(path), before)


def test_models_of_another_start_are_not_shared(first, tmp_path):
    start = tmp_path / "start.keras"
    folder = point(first, "first").run_folder / "trial_0"
    # One seed's M^1, then its M^2.
    shutil.copy(folder / "pretrain_0" / "model.keras", start)
    begun = point(first, "begun", init_weights=str(start), stages=("pretrain",))
    run_experiment(begun)
    shutil.copy(folder / "pretrain_1" / "model.keras", start)
    again = dataclasses.replace(begun, experiment="begun_otherwise")
    run_experiment(again)
    assert not np.array_equal(
        weights(begun, "pretrain_0"), weights(again, "pretrain_0")
    )


def test_curves_come_with_a_stage(first):
    config = point(first, "with_curves", epsilon=0.5)
    run_experiment(config)
    curves = {p.name for p in (config.run_folder / "trial_0/tensorboard").iterdir()}
    assert {"pretrain_0", "pretrain_1", "mining", "optimize"} <= curves


def test_files_are_kept_once_under_what_they_are_made_from(tmp_path):
    shared, file = SharedFiles(tmp_path / "shared"), tmp_path / "file"
    file.write_text("one")
    shared.keep({"a": 1}, {"deep/name": file})
    file.unlink()
    file.write_text("two")
    shared.keep({"a": 1}, {"deep/name": file})
    assert (shared.find({"a": 1}) / "deep" / "name").read_text() == "one"
    assert shared.find({"a": 2}) is None
    assert not [p for p in (tmp_path / "shared").iterdir() if "writing" in p.name]
    renewing = SharedFiles(tmp_path / "shared", renew=True)
    assert renewing.find({"a": 1}) is None
    renewing.keep({"a": 1}, {"deep/name": file})
    assert (shared.find({"a": 1}) / "deep" / "name").read_text() == "two"


def test_nothing_is_kept_nor_found_without_a_folder(tmp_path):
    shared = SharedFiles(None)
    shared.keep({}, {"name": tmp_path / "missing"})
    assert shared.find({}) is None


def test_what_is_damaged_is_not_found_again(tmp_path):
    shared, file = SharedFiles(tmp_path / "shared"), tmp_path / "file"
    file.write_text("one")
    shared.keep({}, {"name": file})
    file.write_text("two")  # A link to the same file.
    assert shared.find({}) is None
    shared.keep({}, {"name": file})
    (shared.find({}) / "name").unlink()
    assert shared.find({}) is None


def test_links_fall_back_to_copies(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    shared, file = SharedFiles(tmp_path / "shared"), tmp_path / "file"
    file.write_text("one")
    shared.keep({}, {"name": file})
    place_files(shared.find({}), lambda name: tmp_path / "into" / name)
    assert (tmp_path / "into" / "name").read_text() == "one"
    assert not (tmp_path / "into" / "checksums.json").exists()
