"""Spaces of a sweep: what may be varied, over what."""

import pytest

from pmal_tf.runtime.errors import PmalError
from pmal_tf.workflow.config import Config
from pmal_tf.workflow.tuning.search import build_oracle, hyperparameters
from pmal_tf.workflow.tuning.sweep import (
    TABLE_5,
    TUNERS,
    Parameter,
    Sweep,
    parse_space,
)


def sweep(*space, tuner="axes", config=None, **changes):
    parsed = parse_space(space or ["epsilon=0.3,0.7"])
    return Sweep(config or Config(), parsed, tuner, **changes)


def test_the_default_space_is_table_5():
    by_default = sweep(*TABLE_5)
    assert {parameter.name: parameter.values for parameter in by_default.space} == {
        "prototypes_per_class": (1, 5, 10, 20, 30),
        "epsilon": (0.1, 0.3, 0.5, 0.7, 0.9),
        "num_models": (2, 3, 4, 5, 6),
        "margin": (0.1, 0.3, 0.5, 0.8, 1.0),
        "prototype_weight": (0.5, 0.8, 1.0),
    }
    # Table 5 has 20 values; the paper's own settings are among each row of it.
    assert len(by_default.listed_points()) == 23 - 4


def test_values_ranges_and_words_are_read():
    space = parse_space(["epsilon=0.3..0.9", "quality=probability, none"])
    assert space[0] == Parameter("epsilon", low=0.3, high=0.9)
    assert space[1] == Parameter("quality", ("probability", "none"))
    assert [str(parameter) for parameter in space] == [
        "epsilon=0.3..0.9",
        "quality=probability,none",
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("epsilon=0.3..1.5", r"`epsilon` must lie in \(0, 1\].*epsilon=1.5"),
        ("epsilon=0", r"`epsilon` must lie in \(0, 1\]"),
        ("epsilon=0.9..0.3", "from its low to its high end"),
        ("epsilon=", "list values of epsilon, each once"),
        ("epsilon=0.3,0.3", "list values of epsilon, each once"),
        ("prototypes_per_class=2.5", "values of type int. Received: '2.5'"),
        ("epsilon=nan..1", r"`epsilon` must lie in"),
        ("quality=best", "`quality` must be one of"),
        ("quality=none..robustness", "ranges of numbers; list the values of quality"),
        ("dataset=mnist,digits", "must begin with the name of a setting"),
        ("seed=1,2", "must begin with the name of a setting"),
        ("typo=1", "must begin with the name of a setting"),
    ],
)
def test_what_cannot_be_varied_is_told(text, sentence):
    with pytest.raises(PmalError, match=sentence):
        parse_space([text])


def test_a_setting_is_varied_once():
    with pytest.raises(PmalError, match="at least one setting, each once"):
        parse_space(["epsilon=0.3", "epsilon=0.5"])
    with pytest.raises(PmalError, match="at least one setting, each once"):
        parse_space([])


def test_points_on_axes_differ_in_one_setting():
    along_axes = sweep("prototypes_per_class=1,10", "epsilon=0.3,0.7,0.9")
    assert along_axes.listed_points() == [
        {"prototypes_per_class": 1, "epsilon": 0.7},
        {"prototypes_per_class": 10, "epsilon": 0.7},
        {"prototypes_per_class": 10, "epsilon": 0.3},
        {"prototypes_per_class": 10, "epsilon": 0.9},
    ]


def test_a_grid_has_all_combinations():
    grid = sweep("prototypes_per_class=1,10", "epsilon=0.3,0.7", tuner="grid")
    assert grid.listed_points() == [
        {"prototypes_per_class": t, "epsilon": e} for t in (1, 10) for e in (0.3, 0.7)
    ]


@pytest.mark.parametrize(
    ("tuner", "text", "sentence"),
    [
        ("axes", "epsilon=0.3..0.9", "--tuner=axes visits listed values"),
        ("grid", "epsilon=0.3..0.9", "--tuner=grid visits listed values"),
        ("hyperband", "epochs=1,2", "chooses the epochs itself"),
    ],
)
def test_a_space_that_a_sweep_cannot_visit_is_refused(tuner, text, sentence):
    with pytest.raises(PmalError, match=sentence):
        sweep(text, tuner=tuner)


@pytest.mark.parametrize("tuner", TUNERS)
def test_every_oracle_visits_points_of_the_space(tuner, tmp_path):
    texts = ("prototypes_per_class=1,5", "epsilon=0.3,0.7")
    config = Config(epochs=4, seed=1)
    oracle = build_oracle(sweep(*texts, tuner=tuner, config=config, max_points=3))
    oracle._set_project_dir(str(tmp_path), "tuner")
    trial = oracle.create_trial("tuner0")
    values = trial.hyperparameters.values
    assert values["prototypes_per_class"] in (1, 5)
    assert values["epsilon"] in (0.3, 0.7)


def test_ranges_become_numbers_of_their_type():
    texts = ("prototypes_per_class=2..9", "epsilon=0.3..0.9")
    hp = hyperparameters(sweep(*texts, tuner="random"))
    by_name = {parameter.name: parameter for parameter in hp.space}
    assert type(by_name["prototypes_per_class"].random_sample(0)) is int
    assert 0.3 <= by_name["epsilon"].random_sample(0) <= 0.9


def test_another_sweep_has_another_folder():
    others = [
        sweep("epsilon=0.3,0.9"),
        sweep(config=Config(experiment="digits", dataset="mnist")),
        sweep(config=Config(seed=1)),
        sweep(config=Config(trials=(1,))),
        sweep(tuner="grid"),
        sweep(rule="mls"),
        sweep(config=Config(epsilon=0.5)),
    ]
    folders = {str(each.folder) for each in [sweep(), *others]}
    assert len(folders) == 1 + len(others)
    # What is varied does not matter, nor what never changes a result.
    grids = [
        sweep(tuner="grid", config=config)
        for config in (Config(), Config(epsilon=0.5), Config(tensorboard=False))
    ]
    assert len({each.folder for each in grids}) == 1


def test_a_point_is_a_run_on_held_out_classes():
    config = sweep().config_of({"epsilon": 0.3}, epochs=7)
    assert (config.epsilon, config.epochs) == (0.3, 7)
    # No plus sign: TensorBoard's projector would not find the run.
    assert config.experiment == "epsilon-0.3__epochs-7"
    assert config.tuning_held_out
    assert config.compare == ()
    assert config.store_dir == str(sweep().config.store_folder)
    assert "export" not in config.stages
