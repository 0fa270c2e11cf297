"""M^1, had it been trained for as long as all of PMAL."""

import json

import pytest
from tiny_run import tiny, trial_folder

from pmal_tf.methods.classifier_stage import classifier_stage
from pmal_tf.methods.registry import get_method
from pmal_tf.methods.softmax_long import stretched
from pmal_tf.runtime.errors import PmalError
from pmal_tf.training.recipe import Recipe
from pmal_tf.workflow.experiment import open_trial, run_experiment


def test_it_has_the_epochs_of_all_stages():
    assert stretched(Recipe(epochs=8), 0).epochs == 24
    assert stretched(Recipe(epochs=8, optimize_epochs=3), 0).epochs == 19
    assert stretched(Recipe(epochs=8, optimize_epochs=3), 5).epochs == 5


def test_the_drops_of_the_rate_move_apart_and_nothing_else_changes():
    recipe = Recipe(optimize_epochs=300, optimize_learning_rate=0.001)
    assert stretched(recipe, 0) == Recipe(epochs=1500, drop_every=300)
    # As many drops, each after the same share of the steps.
    short, long = Recipe(), stretched(Recipe(), 0)
    for share in (0.1, 0.3, 0.7, 0.99):
        rates = [
            float(each.build_schedule(10)(int(share * each.epochs * 10)))
            for each in (short, long)
        ]
        assert rates[0] == pytest.approx(rates[1])


def test_it_differs_from_softmax_by_length_only(tmp_path):
    config = tiny(tmp_path, method="softmax_long", compare=("softmax",))
    trial = open_trial(config, 0)
    (stage,) = get_method("softmax_long").stages(trial, config.methods["softmax_long"])
    usual = classifier_stage(trial, 0)
    assert (stage.name, stage.kind) == ("softmax_long", "softmax_long")
    assert stage.inputs == usual.inputs
    differ = {n for n, value in stage.reads.items() if usual.reads[n] != value}
    assert (differ, stage.reads["epochs"]) == ({"epochs", "drop_every"}, 9)


def test_of_one_length_it_is_softmax_itself(tmp_path):
    options = {"method": "softmax_long", "compare": ("softmax",), "epochs": 2}
    options["stages"] = ("pretrain", "softmax_long", "evaluate")
    table = run_experiment(tiny(tmp_path, long_epochs=2, **options))
    assert "| softmax (long) " in table
    models = json.loads((trial_folder(tmp_path) / "result.json").read_text())["models"]
    assert models["softmax_long"] == models["softmax"]


def test_a_length_within_the_warmup_is_an_error(tmp_path):
    options = {"method": "softmax_long", "compare": (), "warmup_epochs": 2}
    with pytest.raises(PmalError, match=r"`warmup_epochs` must be less.*epochs=1"):
        run_experiment(tiny(tmp_path, long_epochs=1, **options))
