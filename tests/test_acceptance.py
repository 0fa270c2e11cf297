"""The scripts of `tests/acceptance/`, shortened; they prove more at full length."""

import importlib.util
import shutil
import signal
import sys
from pathlib import Path

import pytest
from tiny_run import trial_folder

pytestmark = pytest.mark.slow
FOLDER = Path(__file__).parent / "acceptance"


def script(name):
    path = FOLDER / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.usefixtures("tfds_data_dir")
def test_a_folder_of_photographs_becomes_a_served_classifier(tmp_path):
    table = script("folder_of_photos").main(tmp_path, 10, "--epochs=1")
    assert "| PMAL " in table


@pytest.mark.usefixtures("tfds_data_dir")
def test_tiny_imagenet_of_the_official_layout_is_prepared_and_split(tmp_path):
    printed = script("tiny_imagenet_at_full_size").prepare(tmp_path, 2, 1)
    assert printed.count("40 training, 20 known test, 180 unknown test") == 5


def test_mining_is_what_an_independent_oracle_says(finished, capsys):
    script("mining_oracle").main(trial_folder(finished[0]))
    assert "Same candidates, same prototypes" in capsys.readouterr().out


def test_killed_mining_goes_on_to_the_same_bits(tmp_path, capsys):
    script("mining_killed").main(
        tmp_path, count=4000, classes=8, kills=2, seconds_between=0.0
    )
    printed = capsys.readouterr().out
    assert printed.count("killed after") == 2
    assert "went on from block 0 of 11" in printed
    assert printed.endswith("4000 images, 2 kills: the same bits.\n")


def test_killed_runs_go_on_to_the_same_bits(tmp_path, capsys):
    flags = ("--epochs=2", "--batch_size=32", "--width=0.25", "--compare=softmax")
    flags = (*flags, "--stages=pretrain,mine,optimize")
    wrong = script("training_killed").main(
        "digits", tmp_path, 2, signal.SIGKILL, *flags
    )
    assert wrong == []
    printed = capsys.readouterr().out
    assert printed.count(", killed ") == 2
    assert "the same bits" in printed
    assert printed.endswith("; 0 finished stages repeated.\n")


@pytest.mark.parametrize(("topology", "ranks"), [("correlation", 0.8), ("rms", 0.9)])
def test_mining_at_a_large_scale_stays_within_its_memory(capsys, topology, ranks):
    script("mining_at_imagenet_scale").main(
        count=8000, classes=20, anchors=200, most_gigabytes=0.3, topology=topology
    )
    assert f"rank correlation {ranks}" in capsys.readouterr().out


@pytest.mark.usefixtures("tfds_data_dir")
def test_spoilt_images_are_scored_by_every_quality(tmp_path, monkeypatch, capsys):
    module, kinds = script("spoilt_images"), []
    spoilt_kinds = module.spoilt_kinds

    def recorded(example_id):
        kinds.append(spoilt_kinds(example_id))
        return kinds[-1]

    # Two that know what was spoilt: one is always right, the other always wrong.
    known = {
        "right": lambda given: (kinds[0] != "").astype(float),
        "wrong": lambda given: (kinds[0] == "").astype(float),
    }
    monkeypatch.setattr(module, "spoilt_kinds", recorded)
    monkeypatch.setattr(module, "QUALITIES", {**module.QUALITIES, **known})
    found = module.main(tmp_path, trials=1, epochs=1, images=60)
    assert found.pop("right") == [100.0]
    assert found.pop("wrong") == [0.0]
    assert {*found} == {
        *("correlation", "chord", "rms", "distance"),
        *("probability", "deep_ensembles", "mc_dropout"),
    }
    # Each orders the images in its own way, none by chance as the two above.
    values = [value for (value,) in found.values()]
    assert len(set(values)) == len(values)
    assert all(0 < value < 100 for value in values)
    count = (kinds[0] != "").sum()
    assert 20 < count < 52  # A tenth of 360, give or take what a hash does.
    assert f"trial 0: 360 images, {count} spoilt" in capsys.readouterr().out


def test_two_hosts_train_what_one_device_trains(tmp_path, capsys):
    """In processes of their own, which find each other by TF_CONFIG; three steps."""
    few = ("--epochs=1", "--train_images_per_class=20")
    script("several_devices").exact(tmp_path, *few, ways=["hosts"])
    assert capsys.readouterr().out.count("hosts against one") == 4


@pytest.fixture
def siblings(monkeypatch):
    """Lets a script import those beside it, as Python does when given its path."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])


@pytest.mark.usefixtures("siblings")
@pytest.mark.skipif(not shutil.which("gcc"), reason="install gcc to run this")
def test_a_program_in_c_gets_the_answers_that_python_gets(capsys):
    assert script("c_loader").main(None) == 27
    assert "12 requests answered as in Python, 15 refused." in capsys.readouterr().out


def test_hostile_files_are_unknown_and_kill_no_server(tmp_path):
    printed = script("fuzzed_bytes").main(count=200, seed=1, keep=tmp_path)
    assert printed.count(" not\n") > 25
    assert "No crash, no wrong answer" in printed
