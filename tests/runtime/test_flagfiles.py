import re
from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver

from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.flagfiles import expand_flagfiles
from pmal_tf.workflow.config import Config
from pmal_tf.workflow.flags import config_from_flags, define_flags, parse_arguments

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
RECIPES = sorted((EXPERIMENTS / "recipes").glob("*.flags"))
TRAINING = {
    *("epochs", "batch_size", "optimizer", "learning_rate", "momentum"),
    *("weight_decay", "decoupled_weight_decay", "schedule", "warmup_epochs"),
    *("label_smoothing", "rand_augment"),
}
# Training settings that matter under another one only.
DEPENDENT = {"drop_every", "restarts", "rand_augment_magnitude"}


@pytest.fixture
def parse():
    # absl's FLAGS is one per process, and other tests may have defined them.
    if "epsilon" not in flags.FLAGS:
        define_flags()

    def parse(*arguments):
        was_parsed = flags.FLAGS.is_parsed()
        with flagsaver.flagsaver():
            parse_arguments(["program", *arguments])
            config = config_from_flags()
        if not was_parsed:
            flags.FLAGS.unparse_flags()
        return config

    return parse


@pytest.fixture
def write(tmp_path):
    def write(name, *lines):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines))
        return path

    return write


def test_a_command_line_without_flagfiles_passes_unchanged():
    arguments = ["--epochs=3", "image.png", "--overwrite"]
    assert expand_flagfiles(arguments) == ([], arguments, [])


def test_flags_of_files_and_of_the_command_line_are_told_apart(write):
    file = write("a.flags", "--epochs=3", "--width=0.5")
    from_files, own, files = expand_flagfiles(["--seed=1", f"--flagfile={file}", "x"])
    assert from_files == ["--epochs=3", "--width=0.5"]
    assert own == ["--seed=1", "x"]
    assert files == [file]


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


def test_a_nested_file_that_is_not_beside_is_found_from_where_we_are(
    write, tmp_path, monkeypatch
):
    write("here/common.flags", "--epochs=1")
    file = write("experiments/a.flags", "--flagfile=common.flags")
    monkeypatch.chdir(tmp_path / "here")
    assert expand_flagfiles([f"--flagfile={file}"])[0] == ["--epochs=1"]


def test_two_files_may_include_the_same_third(write):
    write("common.flags", "--seed=5")
    first = write("a.flags", "--flagfile=common.flags", "--epochs=1")
    second = write("b.flags", "--flagfile=common.flags", "--epochs=2")
    flags_read, _, _ = expand_flagfiles([f"--flagfile={first}", f"--flagfile={second}"])
    assert flags_read == ["--seed=5", "--epochs=1", "--seed=5", "--epochs=2"]


def test_a_line_after_the_nested_file_wins_over_it(write, parse):
    write("common.flags", "--epochs=1", "--seed=5")
    file = write("a.flags", "--flagfile=common.flags", "--epochs=2")
    config = parse(f"--flagfile={file}")
    assert (config.epochs, config.seed) == (2, 5)


def test_the_command_line_wins_wherever_it_stands(write, parse):
    file = write("a.flags", "--epochs=1", "--trials=3", "--overwrite", "--seed=5")
    own = ["--epochs=2", "--trials=4", "--nooverwrite"]
    before = parse(*own, f"--flagfile={file}")
    after = parse(f"--flagfile={file}", *own)
    assert before == after
    assert (before.epochs, before.trials, before.overwrite) == (2, (4,), False)
    assert before.seed == 5


def test_the_later_of_two_flagfiles_wins(write, parse):
    first = write("a.flags", "--epochs=1", "--seed=5")
    second = write("b.flags", "--epochs=2")
    config = parse(f"--flagfile={first}", f"--flagfile={second}")
    assert (config.epochs, config.seed) == (2, 5)


def test_the_experiment_is_the_stem_of_the_flagfile_and_not_of_nested_ones(
    write, parse
):
    write("common.flags", "--epochs=1")
    file = write("folder/cifar10_cpu.flags", "--flagfile=../common.flags")
    assert parse(f"--flagfile={file}").experiment == "cifar10_cpu"


def test_the_experiment_is_the_stems_of_all_flagfiles_in_order(write, parse):
    write("common.flags")
    first = write("cifar10.flags", "--flagfile=common.flags")
    second, third = write("recipes/strong.flags"), write("here.flags")
    files = [f"--flagfile={file}" for file in (first, second, third)]
    assert parse(*files).experiment == "cifar10+strong+here"
    assert parse(*files[1::-1]).experiment == "strong+cifar10"


def test_a_named_experiment_wins_over_the_stem(write, parse):
    plain = write("a.flags")
    naming = write("b.flags", "--experiment=inside")
    assert parse("--experiment=c", f"--flagfile={plain}").experiment == "c"
    assert parse(f"--flagfile={naming}").experiment == "inside"
    assert parse("--experiment=c", f"--flagfile={naming}").experiment == "c"


def test_the_stem_of_one_parse_is_forgotten_in_the_next(write, parse):
    assert parse(f"--flagfile={write('a.flags')}").experiment == "a"
    assert parse("--dataset=mnist").experiment == "mnist"


@pytest.mark.parametrize("line", ["epochs=3", "-epochs=3", "run.py", "; --epochs=3"])
def test_a_line_that_is_not_a_flag_is_an_error_that_names_file_and_line(line, write):
    file = write("bad.flags", "--seed=1", "", line)
    with pytest.raises(PmalError, match=re.escape(f"{file}, line 3: {line!r}")):
        expand_flagfiles([f"--flagfile={file}"])


def test_a_missing_file_is_an_error_that_names_it(tmp_path):
    file = tmp_path / "missing.flags"
    with pytest.raises(PmalError, match=re.escape(str(file))):
        expand_flagfiles([f"--flagfile={file}"])


def test_a_missing_nested_file_is_an_error_that_names_it(write):
    file = write("a.flags", "--flagfile=missing.flags")
    with pytest.raises(PmalError, match=r"missing\.flags"):
        expand_flagfiles([f"--flagfile={file}"])


def test_a_folder_is_an_error_that_names_it(tmp_path):
    with pytest.raises(PmalError, match=re.escape(str(tmp_path))):
        expand_flagfiles([f"--flagfile={tmp_path}"])


def test_a_file_that_is_not_text_is_an_error_that_names_it(tmp_path):
    file = tmp_path / "image.flags"
    file.write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(PmalError, match=re.escape(f"{file}: it is not a text file")):
        expand_flagfiles([f"--flagfile={file}"])


def test_a_file_that_includes_itself_is_an_error_that_names_it(write):
    file = write("loop.flags", "--flagfile=loop.flags")
    with pytest.raises(PmalError, match=r"may not include itself.*loop\.flags"):
        expand_flagfiles([f"--flagfile={file}"])


def test_a_file_that_includes_itself_through_another_is_an_error(write):
    file = write("a.flags", "--flagfile=deep/b.flags")
    write("deep/b.flags", "--flagfile=../a.flags")
    with pytest.raises(PmalError, match=r"may not include itself.*a\.flags"):
        expand_flagfiles([f"--flagfile={file}"])


def test_a_flagfile_flag_without_a_path_is_an_error():
    with pytest.raises(PmalError, match="needs a path"):
        expand_flagfiles(["--epochs=1", "--flagfile"])


def test_the_recipes_that_ship():
    assert [path.stem for path in RECIPES] == ["paper", "paper_imagenet", "strong"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_sets_all_of_training_and_nothing_else(path):
    lines, _, _ = expand_flagfiles([f"--flagfile={path}"])
    names = {line.partition("=")[0].removeprefix("--") for line in lines}
    assert names - DEPENDENT == TRAINING


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
@pytest.mark.parametrize("name", ["cifar10", "cifar10_cpu", "imagenet100", "digits"])
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
