"""Training that was cut short: what goes on, and what is never mixed."""

import json
import re
import signal
from pathlib import Path

import pytest
from quick_run import quick_stages
from tiny_run import tiny, trial_folder

from pmal_tf.runtime.errors import TrainingDivergedError
from pmal_tf.runtime.signals import Interrupted
from pmal_tf.training.checkpoints import list_checkpoints
from pmal_tf.workflow.experiment import run_experiment


@pytest.fixture(autouse=True)
def _quick_end():
    with quick_stages(trains=True):
        yield


def small(folder, **changes):
    """Three epochs of eight steps."""
    few = {"train_images_per_class": 20, "compare": ("softmax",)}
    return tiny(folder, **few, **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Prototypes of classifiers as they were drawn, and what training makes of them."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch, quick_stages(trains=True):
        fit = "pmal_tf.methods.classifier_stage.fit_classifier"
        patch.setattr(fit, lambda *_, **__: None)
        return folder, run_experiment(small(folder))


@pytest.fixture
def killed(monkeypatch):
    """Runs an experiment that is killed when a stage's function is called."""
    monkeypatch.setattr("pmal_tf.training.checkpoints._LEAST_SECONDS", 0.0)

    def run(config, where):
        def leave(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(where, leave)
            with pytest.raises(KeyboardInterrupt):
                run_experiment(config)

    return run


def epochs_of(folder, stage):
    lines = (trial_folder(folder) / "metrics.jsonl").read_text().splitlines()
    return [x["epoch"] for line in lines if (x := json.loads(line))["stage"] == stage]


def test_checkpoints_made_from_other_prototypes_are_not_resumed(run_copy, killed):
    """Killed in `optimize`, then mined anew: the same as never having been killed."""
    killed(small(run_copy, margin=0.3), "pmal_tf.methods.trial.save_trained")
    store = run_copy / "runs" / "store"
    (making,) = store.glob("optimize-*.making")
    assert list_checkpoints(making / "optimize")
    run_experiment(small(run_copy, margin=0.3, prototypes_per_class=2))
    assert epochs_of(run_copy, "optimize") == [1, 2, 3]
    # Those of the first settings are still there, and serve.
    assert list_checkpoints(making / "optimize")
    run_experiment(small(run_copy, margin=0.3))
    assert not making.exists()


def test_a_kill_after_the_model_is_saved_does_not_train_again(
    run_copy, killed, monkeypatch
):
    config = small(run_copy, margin=0.3)
    killed(config, "pmal_tf.workflow.engine.checksum")
    monkeypatch.setattr(
        "pmal_tf.methods.pmal.optimize_stage.fit_pmal",
        lambda *_, **__: pytest.fail("it is trained again"),
    )
    assert "| PMAL " in run_experiment(config)


def test_a_signal_while_overwriting_keeps_the_checkpoint_and_what_there_was(
    run_copy, started, monkeypatch
):
    monkeypatch.setattr("pmal_tf.training.checkpoints._LEAST_SECONDS", 0.0)
    config = small(run_copy, overwrite=True, stages=("optimize",))
    with monkeypatch.context() as patched:
        patched.setattr("pmal_tf.runtime.signals.requested", lambda: signal.SIGTERM)
        with pytest.raises(Interrupted, match=r"A checkpoint of .* is kept") as stop:
            run_experiment(config)
    folder = Path(re.search("A checkpoint of (.*) is kept", str(stop.value))[1])
    assert list_checkpoints(folder)
    run_experiment(small(run_copy))  # What was finished stands.
    assert started == []
    steps = []
    monkeypatch.setattr(
        "pmal_tf.training.fit.train",
        lambda *_, first_step, **__: steps.append(first_step),
    )
    run_experiment(config)
    assert steps[0] > 0


def test_divergence_names_stage_and_step_and_keeps_what_was_made(run_copy, started):
    changed = small(run_copy, prototype_weight=1e38, margin=2.0)
    with pytest.raises(TrainingDivergedError, match=r"stage optimize: .* step \d+ of"):
        run_experiment(changed.changed(stages=("optimize",)))
    assert started == []
    assert (trial_folder(run_copy) / "pretrain_0" / "model.keras").exists()


def test_records_tell_of_the_settings_that_were_taken(run_copy, killed):
    killed(small(run_copy, margin=0.3), "pmal_tf.methods.trial.save_trained")
    config = trial_folder(run_copy) / "config.json"
    assert json.loads(config.read_text())["margin"] == 0.3
    run_experiment(small(run_copy))
    assert json.loads(config.read_text())["margin"] == 0.5


def test_records_of_other_settings_do_not_get_into_a_result(run_copy, killed):
    cut_short = small(run_copy, margin=0.3)
    killed(cut_short, "pmal_tf.methods.trial.save_trained")
    run_experiment(small(run_copy, margin=0.4))
    other = (trial_folder(run_copy) / "metrics.jsonl").read_text().splitlines()
    run_experiment(cut_short)
    lines = (trial_folder(run_copy) / "metrics.jsonl").read_text().splitlines()
    of_other = {line for line in other if '"stage": "optimize"' in line}
    assert of_other
    assert not of_other & set(lines)
