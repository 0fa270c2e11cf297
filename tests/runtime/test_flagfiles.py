import re
from pathlib import Path

import pytest

from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.flagfiles import expand_flagfiles
from pmal_tf.workflow.config import Config

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
RECIPES = sorted((EXPERIMENTS / "recipes").glob("*.flags"))
TRAINING = {
    *("epochs", "batch_size", "optimizer", "learning_rate", "momentum"),
    *("weight_decay", "decoupled_weight_decay", "schedule", "warmup_epochs"),
    *("label_smoothing", "rand_augment", "nesterov", "decay_kernels_only"),
    *("offset_rate", "weight_average", "optimize_epochs", "optimize_learning_rate"),
    *("shift", "shift_fill", "flip", "cutout", "precision"),
}
# Training settings that matter under another one only.
DEPENDENT = {"drop_every", "restarts", "rand_augment_magnitude"}


@pytest.fixture
def write(tmp_path):
    def write(name, *lines):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines))
        return path

    return write


def test_flags_of_files_and_of_the_command_line_are_kept_apart(write):
    file = write("a.flags", "--epochs=3", "--width=0.5")
    from_files, own, files = expand_flagfiles(["--seed=1", f"--flagfile={file}", "x"])
    assert from_files == ["--epochs=3", "--width=0.5"]
    assert own == ["--seed=1", "x"]
    assert files == [file]
    assert expand_flagfiles(["--seed=1", "x"]) == ([], own, [])


@pytest.mark.parametrize("spelling", ["--flagfile={}", "-flagfile={}", "--flagfile {}"])
def test_every_spelling_of_the_flagfile_flag_is_read(spelling, write):
    file = write("a.flags", "--epochs=3")
    arguments = spelling.format(file).split(" ")
    assert expand_flagfiles([*arguments, "--seed=1"]) == (
        ["--epochs=3"],
        ["--seed=1"],
        [file],
    )


def test_comments_empty_lines_and_spaces_around_are_skipped(write):
    file = write("a.flags", "# why", "", "// why", "  --epochs=3  ", "   ", "  # so")
    assert expand_flagfiles([f"--flagfile={file}"])[0] == ["--epochs=3"]


def test_a_nested_file_is_found_beside_the_including_one(write, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write("elsewhere/common.flags", "--epochs=1")
    write("experiments/common.flags", "--epochs=2")
    write("experiments/deep/inner.flags", "--seed=5", "--flagfile=../common.flags")
    file = write("experiments/a.flags", "--flagfile=deep/inner.flags", "--width=0.5")
    monkeypatch.chdir(elsewhere)
    flags_read, _, files = expand_flagfiles([f"--flagfile={file}"])
    assert flags_read == ["--seed=5", "--epochs=2", "--width=0.5"]
    assert files == [file]
    # One that is not beside it is found from where we are.
    file = write("b.flags", "--flagfile=common.flags")
    assert expand_flagfiles([f"--flagfile={file}"])[0] == ["--epochs=1"]


def test_two_files_may_include_the_same_third(write):
    write("common.flags", "--seed=5")
    first = write("a.flags", "--flagfile=common.flags", "--epochs=1")
    second = write("b.flags", "--flagfile=common.flags", "--epochs=2")
    flags_read, _, _ = expand_flagfiles([f"--flagfile={first}", f"--flagfile={second}"])
    assert flags_read == ["--seed=5", "--epochs=1", "--seed=5", "--epochs=2"]


def test_the_command_line_wins_wherever_it_stands(write, parse):
    file = write("a.flags", "--epochs=1", "--trials=3", "--overwrite", "--seed=5")
    own = ["--epochs=2", "--trials=4", "--nooverwrite"]
    before = parse(*own, f"--flagfile={file}")
    after = parse(f"--flagfile={file}", *own)
    assert before == after
    assert (before.epochs, before.trials, before.overwrite) == (2, (4,), False)
    assert before.seed == 5


def test_the_later_of_two_lines_and_of_two_flagfiles_wins(write, parse):
    write("common.flags", "--epochs=1", "--seed=5", "--width=0.5")
    first = write("a.flags", "--flagfile=common.flags", "--epochs=2", "--width=0.25")
    second = write("b.flags", "--epochs=3")
    config = parse(f"--flagfile={first}", f"--flagfile={second}")
    assert (config.epochs, config.width, config.seed) == (3, 0.25, 5)


def test_the_experiment_is_the_stems_of_all_that_are_named_in_order(write, parse):
    write("common.flags")
    first = write("cifar10.flags", "--flagfile=common.flags")
    second, third = write("recipes/strong.flags"), write("here.flags")
    files = [f"--flagfile={file}" for file in (first, second, third)]
    assert parse(*files).experiment == "cifar10+strong+here"
    assert parse(*files[1::-1]).experiment == "strong+cifar10"
    # It is forgotten in the next.
    assert parse("--dataset=mnist").experiment == "mnist"


def test_a_named_experiment_wins_over_the_stem(write, parse):
    plain = write("a.flags")
    naming = write("b.flags", "--experiment=inside")
    assert parse("--experiment=c", f"--flagfile={plain}").experiment == "c"
    assert parse(f"--flagfile={naming}").experiment == "inside"
    assert parse("--experiment=c", f"--flagfile={naming}").experiment == "c"


@pytest.mark.parametrize("line", ["epochs=3", "-epochs=3", "run.py", "; --epochs=3"])
def test_a_line_that_is_not_a_flag_is_an_error_that_names_file_and_line(line, write):
    file = write("bad.flags", "--seed=1", "", line)
    with pytest.raises(PmalError, match=re.escape(f"{file}, line 3: {line!r}")):
        expand_flagfiles([f"--flagfile={file}"])


UNREADABLE = {
    "missing": "Received: .*missing: No such file",
    "nested": r"Received: .*gone\.flags: No such file",
    "folder": "Received: .*folder: Is a directory",
    "image": "Received: .*image: it is not a text file",
    "loop": "may not include itself.*loop",
    "a": "may not include itself.*a",
}


@pytest.mark.parametrize(("name", "message"), UNREADABLE.items())
def test_a_file_that_cannot_be_read_is_an_error_that_names_it(
    name, message, write, tmp_path
):
    write("nested", "--flagfile=gone.flags")
    write("folder/b", "--flagfile=../a")
    (tmp_path / "image").write_bytes(b"\x89PNG\xff\xfe")
    write("loop", "--flagfile=loop")
    write("a", "--flagfile=folder/b")
    with pytest.raises(PmalError, match=message):
        expand_flagfiles([f"--flagfile={tmp_path / name}"])


def test_a_flagfile_flag_without_a_path_is_an_error():
    with pytest.raises(PmalError, match="needs a path"):
        expand_flagfiles(["--epochs=1", "--flagfile"])


def test_the_recipes_that_ship():
    assert [path.stem for path in RECIPES] == [
        *("fast", "paper", "paper_imagenet", "strong")
    ]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_sets_all_of_training_and_nothing_else(path):
    lines, _, _ = expand_flagfiles([f"--flagfile={path}"])
    names = {line.partition("=")[0].removeprefix("--") for line in lines}
    assert names - DEPENDENT == TRAINING


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
@pytest.mark.parametrize("name", ["cifar10", "cifar10_fast", "imagenet100", "digits"])
def test_a_recipe_replaces_an_experiment_s_and_leaves_the_rest(name, path, parse):
    experiment = parse(f"--flagfile={EXPERIMENTS / name}.flags")
    recipe = parse(f"--flagfile={path}")
    both = parse(f"--flagfile={EXPERIMENTS / name}.flags", f"--flagfile={path}")
    assert both.experiment == f"{name}+{path.stem}"
    for setting in set(experiment.values()) - DEPENDENT:
        if setting != "experiment":
            source = recipe if setting in TRAINING else experiment
            assert getattr(both, setting) == getattr(source, setting), setting


def test_the_strong_recipe_is_its_authors(parse):
    recipe = parse(f"--flagfile={EXPERIMENTS / 'recipes/strong.flags'}")
    assert recipe == Config(
        experiment="strong",
        epochs=600,
        batch_size=128,
        optimizer="sgd",
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=1e-4,
        schedule="cosine_restarts",
        restarts=2,
        warmup_epochs=10,
        rand_augment=1,
        rand_augment_magnitude=6,
    )
