import dataclasses
import inspect
from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver

from pmal_tf.config import (
    STAGES,
    Config,
    default_settings,
    parse_arguments,
)
from pmal_tf.data.class_lists import protocols_of
from pmal_tf.errors import PmalError
from pmal_tf.reports.paper import PAPER_PMAL
from pmal_tf.training.recipe import Recipe

FOLDER = Path(__file__).parent.parent / "experiments"
FLAGFILES = sorted(FOLDER.glob("*.flags"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epsilon", 0.0),
        ("epsilon", -0.1),
        ("epsilon", 1.0001),
        ("epsilon", float("nan")),
        ("prototypes_per_class", 0),
        ("num_models", 1),
        ("epochs", 0),
        ("batch_size", 0),
        ("drop_every", 0),
        ("seed", -1),
        ("train_images_per_class", -1),
        ("width", 0.0),
        ("dropout", -0.1),
        ("dropout", 1.0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("momentum", -0.1),
        ("momentum", 1.0),
        ("weight_decay", -1e-9),
        ("margin", -0.1),
        ("margin", 2.1),
        ("prototype_weight", -1.0),
        ("reject_rate", 0.0),
        ("reject_rate", 1.0),
        ("trials", (-1,)),
        ("trials", (0, -1)),
        ("dataset", "imagenet"),
        ("protocol", "cac"),
        ("image_size", -1),
        ("rand_augment", -1),
        ("rand_augment_magnitude", 31),
        ("max_unreadable", -1),
        ("known_classes", (1, 2)),
        ("augment", "maybe"),
        ("backbone", "vgg16"),
        ("optimizer", "lion"),
        ("schedule", "linear"),
        ("precision", "float16"),
        ("jit", "yes"),
        ("topology_norm", "max"),
        ("topology_anchors", -1),
        ("quality", "sharpness"),
        ("diversity", "greedy"),
        ("candidate_rule", "exact"),
        ("embedding_precision", "float16"),
        ("mining_dtype", "float16"),
        ("mining_memory_mb", 0),
        ("prototype_mode", "both"),
        ("init", "zeros"),
        ("stages", ("mine", "train")),
    ],
)
def test_a_value_out_of_bounds_is_an_error_that_names_it(name, value):
    with pytest.raises(PmalError, match=rf"`{name}` must .* Received: {name}="):
        Config(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epsilon", 1.0),
        ("epsilon", 1e-6),
        ("prototypes_per_class", 1),
        ("num_models", 2),
        ("epochs", 1),
        ("batch_size", 1),
        ("drop_every", 1),
        ("seed", 0),
        ("train_images_per_class", 0),
        ("width", 1e-3),
        ("dropout", 0.0),
        ("dropout", 0.99),
        ("momentum", 0.0),
        ("momentum", 0.99),
        ("weight_decay", 0.0),
        ("margin", 0.0),
        ("margin", 2.0),
        ("prototype_weight", 0.0),
        ("reject_rate", 0.001),
        ("reject_rate", 0.999),
        ("trials", (4, 0)),
        ("stages", ("mine",)),
        ("protocol", "neal"),
        ("known_classes", ()),
        ("rand_augment_magnitude", 30),
    ],
)
def test_a_value_on_the_edge_of_its_bounds_is_kept(name, value):
    assert getattr(Config(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 1.5),
        ("prototypes_per_class", 2.5),
        ("trials", (0.5,)),
        ("epochs", True),
        ("overwrite", 1),
        ("workdir", None),
        ("learning_rate", "0.1"),
    ],
)
def test_a_value_of_a_wrong_type_is_an_error(name, value):
    with pytest.raises(PmalError, match=f"`{name}` must"):
        Config(**{name: value})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("trials", ()),
        ("trials", (0, 1, 0)),
        ("stages", ()),
        ("stages", ("mine", "mine")),
    ],
)
def test_an_empty_list_or_a_duplicate_is_an_error(name, values):
    with pytest.raises(PmalError, match=f"`{name}` must list at least one value, each"):
        Config(**{name: values})


def test_a_list_that_may_be_empty_still_names_nothing_twice():
    with pytest.raises(PmalError, match="`held_out_classes` must list values, each"):
        Config(held_out_classes=("cat", "cat"))


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


def test_wanted_stages_stand_in_order_whatever_the_order_asked_for():
    config = Config(stages=("export", "pretrain", "mine"))
    assert config.wanted_stages == ("pretrain", "mine", "export")


def test_the_control_stage_is_wanted_only_with_the_control_setting():
    without = ("pretrain", "mine", "optimize", "evaluate", "export")
    assert Config().wanted_stages == without
    assert Config(control=True).wanted_stages == STAGES
    assert Config(control=True, stages=("mine",)).wanted_stages == ("mine",)


def test_each_stage_adds_its_settings_to_those_of_the_stages_before():
    config = Config()
    names = {stage: set(config.inputs_of(stage)) for stage in STAGES}
    assert {"dataset", "seed", "epochs", "num_models"} <= names["pretrain"]
    assert names["control"] == names["pretrain"]
    mining = {
        *("epsilon", "prototypes_per_class", "quality", "diversity", "candidate_rule"),
        *("topology_norm", "topology_anchors", "mining_dtype", "embedding_precision"),
        "mining_repeats",
    }
    assert names["mine"] - names["pretrain"] == mining
    assert names["pretrain"] < names["mine"] < names["optimize"] < names["evaluate"]
    optimisation = {
        "margin",
        "prototype_weight",
        "set_distance",
        "prototype_mode",
        "prototype_gradient",
        "prototype_every",
        "prototype_slice",
        "init",
    }
    assert names["optimize"] - names["mine"] == optimisation
    evaluation = {"control", "reject_rate", "unknown_dataset"}
    assert names["evaluate"] - names["optimize"] == evaluation
    assert names["export"] - names["evaluate"] == {"rule", "export_xla", "tflite"}
    assert names["evaluate"] < names["export"]


def test_settings_that_never_change_a_result_are_inputs_of_no_stage():
    every_field = {field.name for field in dataclasses.fields(Config)}
    assert every_field - set(Config().inputs_of("export")) == {
        "experiment",
        "data_dir",
        "cache_dir",
        "keep_versions",
        "max_unreadable",
        "mining_memory_mb",
        "trials",
        "stages",
        "workdir",
        "export_dir",
        "overwrite",
        "tensorboard",
        "share_stages",
        # Several devices add up in another order, which bits are not a result.
        "strategy",
        "worker_timeout_seconds",
        "deterministic",
        "steps_per_execution",
        "checkpoint_minutes",
    }


def test_inputs_of_a_stage_carry_the_values():
    inputs = Config(epsilon=0.9, width=0.25).inputs_of("mine")
    assert inputs["epsilon"] == 0.9
    assert inputs["width"] == 0.25


def test_settings_cannot_be_changed_afterwards():
    config = Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.epochs = 1


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
        backbone="resnet50",
        width=1 / 3,
        dropout=0.1 + 0.2,
        epochs=1,
        batch_size=2,
        optimizer="sgd",
        learning_rate=1e-30,
        momentum=0.0,
        weight_decay=0.0,
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
        topology_norm="literal",
        topology_anchors=1024,
        embedding_precision="mixed_bfloat16",
        mining_dtype="float64",
        mining_memory_mb=64,
        margin=2.0,
        prototype_weight=0.25,
        prototype_mode="inference",
        prototype_gradient=False,
        init="scratch",
        control=True,
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
        prototype_slice=16,
        calibration_fraction=0.25,
        set_distance="nearest",
        tuning_held_out=True,
        share_stages=True,
        mining_repeats=2,
        rule="mls",
        export_xla=True,
        tflite=("int8", "float16"),
        keep_versions=3,
    ),
]


def test_the_round_trip_below_moves_every_setting_that_has_an_alternative():
    default, other = CONFIGS
    unmoved = {
        field.name
        for field in dataclasses.fields(Config)
        if getattr(default, field.name) == getattr(other, field.name)
    }
    assert not unmoved


@pytest.mark.parametrize("config", CONFIGS)
def test_the_flags_of_a_config_parse_back_to_it(config, parse):
    assert parse(*config.to_flags().splitlines()) == config


@pytest.mark.parametrize("config", CONFIGS)
def test_the_flags_of_a_config_are_a_flagfile_of_it(config, parse, tmp_path):
    file = tmp_path / "flags.txt"
    file.write_text(config.to_flags())
    assert parse(f"--flagfile={file}") == config


def test_images_are_withheld_of_folders_alone():
    assert Config().calibration_fraction == 0.0
    assert Config(dataset="folder").calibration_fraction == 0.1
    assert Config(dataset="folder", calibration_fraction=0.0).calibration_fraction == 0
    assert default_settings()["calibration_fraction"] == 0.0


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
    with pytest.raises(PmalError, match=r"`trials` must list .* int.*'x'"):
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


def test_a_recipe_has_the_defaults_of_the_settings_of_the_same_names():
    recipe = {field.name: field.default for field in dataclasses.fields(Recipe)}
    settings = {field.name: field.default for field in dataclasses.fields(Config)}
    assert recipe == {name: settings.get(name) for name in recipe}


def test_mining_from_python_has_the_defaults_of_the_flags():
    from pmal_tf.mining.mine import MiningSettings
    from pmal_tf.mining.robustness import topology_robustness

    for name, value in vars(MiningSettings()).items():
        assert getattr(Config(), name) == value, name
    defaults = inspect.signature(topology_robustness).parameters
    assert defaults["memory_mb"].default == Config().mining_memory_mb
    assert defaults["dtype"].default == Config().mining_dtype
    assert defaults["norm"].default == Config().topology_norm


def test_allowed_names_are_those_that_exist():
    """The config may not import their owners, so nothing else ties the lists."""
    from pmal_tf.backbones.classifier import BACKBONES
    from pmal_tf.data.class_lists import all_protocols
    from pmal_tf.data.sources import SOURCES
    from pmal_tf.mining.filters.registry import FILTERS
    from pmal_tf.mining.mine import CANDIDATE_RULES
    from pmal_tf.mining.qualities.registry import QUALITIES
    from pmal_tf.mining.robustness import MINING_DTYPES, TOPOLOGY_NORMS
    from pmal_tf.training.model import PROTOTYPE_MODES

    owners = {
        "dataset": SOURCES,
        "backbone": BACKBONES,
        "protocol": all_protocols(),
        "mining_dtype": MINING_DTYPES,
        "topology_norm": TOPOLOGY_NORMS,
        "quality": QUALITIES,
        "diversity": FILTERS,
        "candidate_rule": CANDIDATE_RULES,
        "prototype_mode": PROTOTYPE_MODES,
    }
    allowed = {f.name: f.metadata["allowed"] for f in dataclasses.fields(Config)}
    for name, owner in owners.items():
        assert set(allowed[name]) == set(owner), name


def test_control_stage_without_a_control_is_an_error():
    with pytest.raises(PmalError, match="without --control"):
        Config(stages=("control",))
    assert Config(stages=("control",), control=True).wanted_stages == ("control",)


@pytest.mark.parametrize(
    "path", [path for path in FLAGFILES if not path.stem.startswith("common")]
)
def test_flagfiles_that_ship_are_valid_and_name_their_experiment(parse, path):
    config = parse(f"--flagfile={path}")
    assert config.experiment == path.stem
    assert path.stem.removesuffix("_cpu") == config.dataset
    if path.stem.endswith("_cpu"):
        protocols = protocols_of(config.dataset)
        assert config.control
        assert config.protocol == ("neal" if "neal" in protocols else "paper")


SMALL = ["mnist", "svhn", "cifar10", "cifar_plus_10", "cifar_plus_50", "tiny_imagenet"]


@pytest.mark.parametrize("name", SMALL)
def test_the_paper_s_recipe_is_the_default(parse, name):
    path = next(path for path in FLAGFILES if path.stem == name)
    config = parse(f"--flagfile={path}")
    paper = Config(experiment=name, dataset=name, trials=(0, 1, 2, 3, 4))
    assert config == paper


@pytest.mark.parametrize("name", ["imagenet100", "imagenet200", "imagenet_lt"])
def test_the_paper_s_recipe_for_imagenet(parse, name):
    path = next(path for path in FLAGFILES if path.stem == name)
    config = parse(f"--flagfile={path}")
    assert config == Config(
        experiment=name,
        dataset=name,
        backbone="resnet50",
        dropout=0.0,
        optimizer="sgd",
        learning_rate=0.2,
        epochs=120,
        drop_every=30,
    )


def test_all_nine_benchmarks_of_the_paper_have_a_flagfile():
    stems = {path.stem for path in FLAGFILES}
    assert {dataset for _, dataset in PAPER_PMAL} <= stems
    assert len({dataset for _, dataset in PAPER_PMAL}) == 9


ABLATIONS = FOLDER / "ablations"
POINTS = sorted(
    path for path in ABLATIONS.glob("*.flags") if not path.stem.startswith("common")
)
# What Tables 3 to 5 vary, and the value that all other points have.
USUAL = {
    name: getattr(Config(), name)
    for name in (
        *("prototypes_per_class", "epsilon", "num_models", "margin"),
        *("prototype_weight", "quality", "diversity", "set_distance"),
    )
}


@pytest.mark.parametrize("path", POINTS, ids=lambda path: path.stem)
def test_an_ablation_changes_what_its_name_says(parse, path):
    config, suffix = parse(f"--flagfile={path}"), "_cpu" * path.stem.endswith("_cpu")
    assert config.experiment == path.stem
    assert config.share_stages
    base = parse(f"--flagfile={ABLATIONS / f'base{suffix}.flags'}")
    changed = {
        name: value
        for name, value in config.inputs_of("optimize").items()
        if value != base.inputs_of("optimize")[name]
    }
    assert changed == {n: getattr(config, n) for n in USUAL if n in changed}
    name = path.stem.removesuffix("_cpu")
    table, _, rest = name.partition("_")
    if table == "table5":
        setting, _, value = rest.rpartition("_")
        assert changed == {setting: float(value)}
    elif name != "base":
        assert changed == {
            "table3_a": {"diversity": "none", "set_distance": "nearest"},
            "table3_b": {"quality": "none", "set_distance": "nearest"},
            "table3_c": {"diversity": "none"},
            "table3_d": {"quality": "none"},
            "table3_e": {"set_distance": "nearest"},
            "table4_random": {"diversity": "random"},
            "table4_kmeans": {"diversity": "kmeans"},
        }.get(name, {"quality": rest})
    else:
        assert not changed


def test_every_ablation_has_a_file_for_two_cores():
    names = {path.stem for path in POINTS}
    full = {name for name in names if not name.endswith("_cpu")}
    assert len(full) == 29
    assert names == full | {f"{name}_cpu" for name in full}
