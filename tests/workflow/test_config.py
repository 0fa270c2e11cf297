import dataclasses
import inspect
from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver

from pmal_tf.data.class_lists import protocols_of
from pmal_tf.results.collect.paper import CELLS, PAPER_PMAL
from pmal_tf.runtime.errors import PmalError
from pmal_tf.workflow.config import Config
from pmal_tf.workflow.experiment import open_trial, plan
from pmal_tf.workflow.flags import (
    all_settings,
    parse_arguments,
    short_help,
    to_flags,
)

FOLDER = Path(__file__).parents[2] / "experiments"
FLAGFILES = sorted(FOLDER.glob("*.flags"))


def pairs(table):
    """Gives each name with each of its values."""
    return [(name, value) for name, values in table.items() for value in values]


OUT_OF_BOUNDS = {
    "epsilon": [0.0, -0.1, 1.0001, float("nan")],
    "prototypes_per_class": [0],
    "num_models": [1],
    "epochs": [0],
    "batch_size": [0],
    "drop_every": [0],
    "seed": [-1],
    "train_images_per_class": [-1],
    "width": [0.0],
    "dropout": [-0.1, 1.0],
    "learning_rate": [0.0, float("nan"), float("inf")],
    "momentum": [-0.1, 1.0],
    "weight_decay": [-1e-9],
    "margin": [-0.1, 2.1],
    "prototype_weight": [-1.0],
    "reject_rate": [0.0, 1.0],
    "trials": [(-1,), (0, -1)],
    "dataset": ["imagenet"],
    "protocol": ["cac"],
    "image_size": [-1],
    "rand_augment": [-1],
    "rand_augment_magnitude": [31],
    "max_unreadable": [-1],
    "known_classes": [(1, 2)],
    "augment": ["maybe"],
    "crop": ["centre"],
    "backbone": ["vgg16"],
    "optimizer": ["lion"],
    "schedule": ["linear"],
    "precision": ["float16"],
    "jit": ["yes"],
    "topology": ["max"],
    "topology_anchors": [-1],
    "quality": ["sharpness"],
    "diversity": ["greedy"],
    "candidate_rule": ["exact"],
    "embedding_precision": ["float16"],
    "mining_dtype": ["float16"],
    "mining_memory_mb": [0],
    "prototype_mode": ["both"],
    "init": ["zeros"],
}


@pytest.mark.parametrize(("name", "value"), pairs(OUT_OF_BOUNDS))
def test_a_value_out_of_bounds_is_an_error_that_names_it(name, value):
    with pytest.raises(PmalError, match=rf"`{name}` must .* Received: {name}="):
        Config(**{name: value})


ON_THE_EDGE = {
    "epsilon": [1.0, 1e-6],
    "prototypes_per_class": [1],
    "num_models": [2],
    "epochs": [1],
    "batch_size": [1],
    "drop_every": [1],
    "seed": [0],
    "train_images_per_class": [0],
    "width": [1e-3],
    "dropout": [0.0, 0.99],
    "momentum": [0.0, 0.99],
    "weight_decay": [0.0],
    "margin": [0.0, 2.0],
    "prototype_weight": [0.0],
    "reject_rate": [0.001, 0.999],
    "trials": [(4, 0)],
    "stages": [("mine",)],
    "protocol": ["neal"],
    "known_classes": [()],
    "rand_augment_magnitude": [30],
}


@pytest.mark.parametrize(("name", "value"), pairs(ON_THE_EDGE))
def test_a_value_on_the_edge_of_its_bounds_is_kept(name, value):
    assert getattr(Config(**{name: value}), name) == value


OF_A_WRONG_TYPE = {
    "epochs": [1.5, True],
    "prototypes_per_class": [2.5],
    "trials": [(0.5,)],
    "overwrite": [1],
    "workdir": [None],
    "learning_rate": ["0.1"],
}


@pytest.mark.parametrize(("name", "value"), pairs(OF_A_WRONG_TYPE))
def test_a_value_of_a_wrong_type_is_an_error(name, value):
    with pytest.raises(PmalError, match=f"`{name}` must"):
        Config(**{name: value})


@pytest.mark.parametrize(
    ("name", "values", "least"),
    [
        ("trials", (), "at least one value"),
        ("trials", (0, 1, 0), "at least one value"),
        ("held_out_classes", ("cat", "cat"), "values"),
        ("stages", ("mine", "mine"), "values"),
    ],
)
def test_an_empty_list_or_a_duplicate_is_an_error(name, values, least):
    with pytest.raises(PmalError, match=f"`{name}` must list {least}, each once"):
        Config(**{name: values})


@pytest.mark.parametrize(
    "name", ["..", ".", "a/b", "../a", "a\\b", "a b", "a\n", "-", "x:y", "*"]
)
def test_an_experiment_that_is_not_a_plain_folder_name_is_an_error(name):
    with pytest.raises(PmalError, match="`experiment` must be a plain folder name"):
        Config(experiment=name)


@pytest.mark.parametrize("name", ["a", "cifar10_cpu", "v1.2+x-y", ".hidden"])
def test_a_plain_experiment_name_is_kept(name):
    assert Config(experiment=name).experiment == name


def test_without_a_name_the_experiment_is_called_like_the_dataset():
    assert Config(dataset="cifar10").experiment == "cifar10"


def test_the_run_folder_is_the_experiment_in_the_workdir():
    config = Config(workdir="some/where", experiment="mine")
    assert config.run_folder.as_posix() == "some/where/mine"


def read_by(**values):
    """What each stage of a trial reads, by its name."""
    config = Config(**values)
    stages = plan(config, open_trial(config, 0))
    return {
        stage.name: {**stage.reads, **dict.fromkeys(stage.needs)} for stage in stages
    }


def test_stages_read_what_they_depend_on_and_nothing_else():
    read = {name: set(reads) for name, reads in read_by().items()}
    training = {"seed", "trial", "epochs", "width", "augment", "precision"}
    assert training <= read["pretrain_0"]
    # Which images these are is told by their fingerprint, not by settings.
    assert not {"dataset", "protocol", "num_models", "tensorboard"} & read["pretrain_0"]
    assert read["embedding_1"] == {"embedding_precision", "model", "pretrain_1"}
    assert read["robustness"] >= {"topology", "topology_anchors", "mining_dtype"}
    mining = {"epsilon", "prototypes_per_class", "quality", "diversity"}
    assert mining | {"candidate_rule", "robustness"} <= read["mining"]
    assert not {"margin", "mining_memory_mb"} & read["mining"]
    optimisation = {
        *("margin", "prototype_weight", "set_distance", "prototype_mode", "init"),
        *("attention_sharpness", "centre_embeddings"),
        *("prototype_gradient", "prototype_every", "prototype_slice"),
    }
    assert optimisation | {"pretrain_0", "mining"} <= read["optimize"]
    assert not mining & read["optimize"]
    everything = {"dataset", "protocol", "method", "compare", "scores", "reject_rate"}
    assert everything | mining | optimisation <= read["evaluate"]
    assert {"rule", "export_xla", "tflite"} <= read["export"]
    assert "keep_versions" not in read["export"]


def test_the_control_reads_what_m1_does_and_m1():
    read = read_by(compare=("softmax", "control"))
    first = {n: v for n, v in read["pretrain_0"].items() if n != "embedding_dropout"}
    assert read["control"] == {**first, "pretrain_0": None}


@pytest.mark.parametrize(("backbone", "rate"), [("oscri", 0.2), ("resnet50", 0)])
def test_a_backbones_own_dropout_is_the_same_as_its_number(backbone, rate):
    own = Config(backbone=backbone)
    assert own.result_settings()["dropout"] == rate
    assert f"--dropout={rate}" in to_flags(own)
    assert read_by(backbone=backbone) == read_by(backbone=backbone, dropout=rate)
    # Another backbone does not keep it.
    assert own.changed(backbone="wrn_40_4").dropout == 0


def test_settings_that_never_change_a_result_are_known():
    never = {n for n, field in all_settings().items() if not field.metadata["result"]}
    assert never == {
        *("experiment", "data_dir", "cache_dir", "keep_versions", "max_unreadable"),
        *("mining_memory_mb", "trials", "stages", "workdir", "store_dir"),
        *("export_dir", "overwrite", "tensorboard"),
        # Several devices add up in another order, which bits are not a result.
        *("strategy", "worker_timeout_seconds", "deterministic"),
        *("steps_per_execution", "checkpoint_minutes"),
    }


def test_settings_cannot_be_changed_afterwards():
    config = Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.epochs = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.recipe.epochs = 1


CONFIGS = [
    Config(),
    Config(
        experiment="other",
        dataset="cifar10",
        data_dir="a folder/with spaces",
        cache_dir="cache",
        image_size=48,
        known_classes=("with space", "with, comma", 'with "quotes"', "猫"),
        held_out_classes=("dog",),
        unknown_dataset="imagenet_a:test",
        max_unreadable=3,
        protocol="neal",
        trials=(3, 0),
        stages=("export", "mine"),
        seed=7,
        workdir="w",
        export_dir="e",
        overwrite=True,
        tensorboard=False,
        train_images_per_class=5,
        augment="off",
        rand_augment=2,
        rand_augment_magnitude=18,
        crop="random_resized",
        cutout=3,
        shift=2,
        shift_fill="reflect",
        flip="alternating",
        backbone="resnet50",
        width=1 / 3,
        dropout=0.1 + 0.2,
        epochs=9,
        batch_size=2,
        optimizer="sgd",
        learning_rate=1e-30,
        momentum=0.5,
        nesterov=True,
        weight_decay=0.0,
        offset_rate=64.0,
        weight_average=0.9,
        optimize_epochs=3,
        optimize_learning_rate=1e-31,
        decoupled_weight_decay=True,
        schedule="cosine",
        drop_every=9,
        precision="mixed_bfloat16",
        jit="off",
        num_models=3,
        epsilon=1.0,
        prototypes_per_class=1,
        quality="mc_dropout",
        diversity="kmeans",
        candidate_rule="literal",
        topology="literal",
        topology_anchors=1024,
        embedding_precision="mixed_bfloat16",
        mining_dtype="float64",
        mining_memory_mb=64,
        margin=2.0,
        prototype_weight=0.25,
        prototype_mode="inference",
        prototype_gradient=False,
        init="scratch",
        compare=("softmax", "control"),
        reject_rate=0.01,
        deterministic=True,
        init_weights="start.keras",
        label_smoothing=0.1,
        restarts=3,
        warmup_epochs=1,
        steps_per_execution=5,
        checkpoint_minutes=0.5,
        strategy="mirrored",
        sync_batch_norm=False,
        worker_timeout_seconds=7,
        prototype_every=4,
        calibration_fraction=0.25,
        set_distance="nearest",
        attention_sharpness=10.0,
        centre_embeddings=True,
        tuning_held_out=True,
        store_dir="elsewhere",
        scores=("energy",),
        mining_repeats=2,
        rule="mls",
        export_xla=True,
        tflite=("int8", "float16"),
        keep_versions=3,
    ),
]


def test_the_round_trip_below_moves_every_setting_that_has_an_alternative():
    default, other = (config.values() for config in CONFIGS)
    unmoved = {name for name in default if default[name] == other[name]}
    # Another method has other settings, each mode of prototypes its own, and each kind
    # of decay.
    assert unmoved == {"method", "prototype_slice", "decay_kernels_only"}


@pytest.mark.parametrize("config", CONFIGS)
def test_the_flags_of_a_config_are_a_flagfile_of_it(config, parse, tmp_path):
    file = tmp_path / "flags.txt"
    file.write_text(to_flags(config))
    assert parse(f"--flagfile={file}") == config


def test_images_are_withheld_of_folders_alone():
    assert Config().calibration_fraction == 0.0
    assert Config(dataset="folder").calibration_fraction == 0.1
    assert Config(dataset="folder", calibration_fraction=0.0).calibration_fraction == 0


@pytest.mark.parametrize("fraction", [-0.5, 0.6, -2.0])
def test_a_calibration_fraction_is_a_share_or_minus_one(fraction):
    with pytest.raises(PmalError, match="`calibration_fraction` must"):
        Config(calibration_fraction=fraction)


def test_no_arguments_give_the_defaults(parse):
    assert parse() == Config()


def test_one_parse_leaves_nothing_for_the_next(parse):
    assert parse("--epochs=3", "--trials=1,2").trials == (1, 2)
    assert parse() == Config()


def test_list_flags_may_have_spaces_after_the_commas(parse):
    config = parse("--trials=0, 2", "--stages=mine, export")
    assert config.trials == (0, 2)
    assert config.stages == ("mine", "export")


def test_a_list_item_of_a_wrong_type_is_an_error_that_names_the_flag(parse):
    with pytest.raises(PmalError, match=r"`trials` must list, .* int.*'x'"):
        parse("--trials=0,x")


def test_an_unknown_flag_or_a_wrong_type_is_an_absl_error(parse):
    with pytest.raises(flags.Error, match="epochz"):
        parse("--epochz=3")
    with pytest.raises(flags.Error, match="epochs"):
        parse("--epochs=three")


def test_flag_values_are_validated(parse):
    with pytest.raises(PmalError, match="`epsilon` must lie in"):
        parse("--epsilon=0")


def test_arguments_that_are_not_flags_are_returned(defined_flags):
    with flagsaver.flagsaver():
        remaining = parse_arguments(["program", "image.png", "--epochs=2"])
    assert remaining == ["program", "image.png"]


def test_mining_from_python_has_the_defaults_of_the_flags():
    from pmal_tf.mining.robustness import topology_robustness
    from pmal_tf.mining.settings import MiningSettings

    for name, value in vars(MiningSettings()).items():
        assert getattr(Config(), name) == value, name
    defaults = inspect.signature(topology_robustness).parameters
    assert defaults["memory_mb"].default == Config().mining_memory_mb
    assert defaults["dtype"].default == Config().mining_dtype
    assert defaults["topology"].default == Config().topology


def test_allowed_names_are_those_that_exist():
    """Settings may not import what loads TensorFlow, so nothing else ties the lists."""
    from pmal_tf.data.class_lists import all_protocols
    from pmal_tf.mining.distances import SET_DISTANCES
    from pmal_tf.mining.filters import FILTERS
    from pmal_tf.mining.qualities import QUALITIES
    from pmal_tf.mining.topologies import TOPOLOGIES

    existing = {
        "protocol": all_protocols(),
        "quality": QUALITIES,
        "diversity": FILTERS,
        "topology": TOPOLOGIES,
        "set_distance": SET_DISTANCES,
    }
    for name, names in existing.items():
        assert set(all_settings()[name].metadata["allowed"]) == set(names), name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "nosuch"}, r"method must be one of arpl, .*Received: 'nosuch'"),
        ({"compare": ("softmax", "nosuch")}, "method must be one of .*'nosuch'"),
        ({"compare": ("pmal",)}, "other methods than the run's own"),
        ({"scores": ("nosuch",)}, "`scores` must be one of class_mean, dr"),
        ({"rule": "nosuch"}, "`rule` must be one of"),
        ({"epochz": 3}, "no such setting. Received: epochz"),
        ({"radius_weight": 0.2}, "a setting of the method arpl.*--compare=arpl"),
        ({"method": "arpl", "epsilon": 0.5}, "a setting of the method pmal"),
        ({"prototype_every": 3}, "an effect with prototype_mode=inference alone"),
        ({"prototype_slice": 3}, "an effect with prototype_mode=bank alone"),
    ],
)
def test_what_does_not_exist_or_belongs_elsewhere_is_told(values, message):
    with pytest.raises(PmalError, match=message):
        Config(**values)


def test_settings_of_a_method_in_use_are_taken():
    assert Config(method="arpl", radius_weight=0.2).radius_weight == 0.2
    config = Config(compare=("arpl",), radius_weight=0.2, epsilon=0.5)
    assert (config.radius_weight, config.epsilon) == (0.2, 0.5)
    # Results of the run's own method do not depend on them.
    read = config.result_settings()
    assert (read["epsilon"], read["arpl.radius_weight"]) == (0.5, 0.2)
    assert "radius_weight" not in read


def test_a_flagfile_may_hold_settings_of_methods_that_are_not_in_use(parse, tmp_path):
    file = tmp_path / "mine.flags"
    file.write_text("--epsilon=0.5\n--epochs=3\n")
    config = parse(f"--flagfile={file}", "--method=arpl")
    assert (config.method, config.epochs) == ("arpl", 3)
    with pytest.raises(PmalError, match="`epsilon` is a setting of the method pmal"):
        parse(f"--flagfile={file}", "--method=arpl", "--epsilon=0.5")


def test_the_rule_is_the_method_s_own_score_by_default():
    assert Config().rule == "dr"
    assert Config(method="arpl").rule == "mls"
    assert Config(rule="msp").rule == Config(rule="pr").rule == "pr"
    assert [s.field for s in Config(rule="energy").scores] == [
        *("dr", "pr", "mls", "class_mean", "energy")
    ]


def test_the_short_help_names_what_matters_most():
    text = short_help()
    count = text.count("\n  --")
    assert 18 <= count <= 32, count
    assert "--method [pmal]" in text
    assert "--epochs [600]" in text
    for group in ("Run:", "Data:", "Network:", "Training:", "PMAL:", "Export:"):
        assert group in text


@pytest.mark.parametrize(
    "path", [path for path in FLAGFILES if not path.stem.startswith("common")]
)
def test_flagfiles_that_ship_are_valid_and_name_their_experiment(parse, path):
    config = parse(f"--flagfile={path}")
    assert config.experiment == path.stem
    dataset = path.stem.removesuffix("_cpu").removesuffix("_fast")
    assert dataset == config.dataset
    if path.stem != dataset:
        protocols = protocols_of(config.dataset)
        assert config.compare == ("softmax", "control")
        assert config.protocol == ("neal" if "neal" in protocols else "paper")


SMALL = ["mnist", "svhn", "cifar10", "cifar_plus_10", "cifar_plus_50", "tiny_imagenet"]


@pytest.mark.parametrize("name", SMALL)
def test_the_paper_s_recipe_is_the_default_but_for_mining(parse, name):
    path = next(path for path in FLAGFILES if path.stem == name)
    config = parse(f"--flagfile={path}")
    paper = Config(
        experiment=name,
        dataset=name,
        topology="rms",
        candidate_rule="relative",
        trials=(0, 1, 2, 3, 4),
    )
    assert config == paper


@pytest.mark.parametrize("name", ["imagenet100", "imagenet200", "imagenet_lt"])
def test_the_paper_s_recipe_for_imagenet(parse, name):
    path = next(path for path in FLAGFILES if path.stem == name)
    config = parse(f"--flagfile={path}")
    assert config == Config(
        experiment=name,
        dataset=name,
        backbone="resnet50",
        optimizer="sgd",
        learning_rate=0.2,
        epochs=120,
        drop_every=30,
        prototype_mode="bank",
        crop="random_resized",
        topology="rms",
        candidate_rule="relative",
    )


def test_all_nine_benchmarks_of_the_paper_have_a_flagfile():
    stems = {path.stem for path in FLAGFILES}
    assert {dataset for _, dataset in PAPER_PMAL} <= stems
    assert len({dataset for _, dataset in PAPER_PMAL}) == 9


ABLATIONS = FOLDER / "ablations"
# What a cell of the paper's Tables 3 to 5 changes of its method.
CHANGES = {
    "base": {},
    "table3_a": {"diversity": "none", "set_distance": "nearest"},
    "table3_b": {"quality": "none", "set_distance": "nearest"},
    "table3_c": {"diversity": "none"},
    "table3_d": {"quality": "none"},
    "table3_e": {"set_distance": "nearest"},
    **{
        f"table4_{name}": {"quality": name}
        for name in ("probability", "deep_ensembles", "mc_dropout")
    },
    **{f"table4_{name}": {"diversity": name} for name in ("random", "kmeans")},
    **{
        f"table5_{setting}_{value}": {setting: value}
        for setting, values in {
            "prototypes_per_class": (1, 5, 20, 30),
            "epsilon": (0.1, 0.3, 0.5, 0.9),
            "num_models": (3, 4, 5, 6),
            "margin": (0.1, 0.3, 0.8, 1),
            "prototype_weight": (0.5, 0.8),
        }.items()
        for value in values
    },
}
STAGES_OF_CELLS = ("pretrain", "mine", "optimize", "evaluate")
SHARED = {
    "": {
        **{"dataset": "tiny_imagenet", "trials": (0, 1, 2, 3, 4), "dropout": 0.0},
        **{"backbone": "wrn_40_4", "stages": STAGES_OF_CELLS},
        **{"topology": "rms", "candidate_rule": "relative"},
    },
    "_cpu": {
        **{"dataset": "cifar_plus_10", "protocol": "paper", "trials": (0, 1, 2)},
        **{"compare": ("softmax",), "width": 0.25, "dropout": 0.0, "epochs": 5},
        **{"batch_size": 128, "learning_rate": 0.003, "schedule": "cosine"},
        **{"train_images_per_class": 1200, "stages": STAGES_OF_CELLS},
        **{"topology": "rms", "candidate_rule": "relative"},
    },
}
CONTROL = {
    "compare": ("softmax", "control"),
    "stages": ("pretrain", "mine", "optimize", "control", "evaluate"),
}


@pytest.mark.parametrize("suffix", SHARED)
@pytest.mark.parametrize("cell", CHANGES)
def test_an_ablation_changes_what_its_cell_says(parse, cell, suffix):
    shared = f"--flagfile={ABLATIONS / f'common{suffix}.flags'}"
    changes = {**SHARED[suffix], **(CONTROL if cell == "base" else CHANGES[cell])}
    expected = Config(experiment=f"{cell}{suffix}", **changes)
    assert parse(shared, f"--ablation={cell}") == expected


def test_every_ablation_is_a_cell_of_the_papers_tables():
    assert CELLS.keys() == CHANGES.keys()
    assert len(CELLS) == 29
    # The one file in which a user looks them up names all of them.
    text = (ABLATIONS / "common.flags").read_text()
    told = [line.split()[1] for line in text.splitlines() if "   " in line]
    names = [
        f"{head}{item}{tail}"
        for name in told
        for head, _, rest in [name.partition("{")]
        for items, _, tail in [rest.partition("}")]
        for item in items.split(",")
        if name != "python"
    ]
    assert sorted(names) == sorted(CELLS)


def test_an_ablation_goes_with_any_flags_and_the_command_line_wins(parse):
    config = parse("--ablation=table3_b", "--quality=probability", "--dataset=digits")
    assert (config.quality, config.set_distance) == ("probability", "nearest")
    assert config.experiment == "table3_b"
    digits = f"--flagfile={FOLDER / 'digits.flags'}"
    assert parse(digits, "--ablation=table3_b").experiment == "table3_b_digits"
    assert parse(digits, "--ablation=base", "--experiment=x").experiment == "x"
    with pytest.raises(PmalError, match="`quality` is a setting of the method pmal"):
        parse(digits, "--ablation=table3_b", "--method=arpl")
    with pytest.raises(flags.Error, match=r"one of <base\|table3_a\|"):
        parse(digits, "--ablation=table3_z")


def test_what_is_changed_leaves_no_settings_of_methods_behind():
    config = Config(compare=("arpl",), radius_weight=0.2, epsilon=0.5)
    alone = config.changed(compare=())
    assert alone.compared == ()
    assert alone.epsilon == 0.5
    assert config.changed(method="softmax", compare=()).methods.keys() == {"softmax"}
    with pytest.raises(PmalError, match="a setting of the method arpl"):
        config.changed(compare=(), radius_weight=0.3)
