"""Minutes until a network is good: what is counted, and what counts as reached."""

import json
import re
import time

import matplotlib.image
import pytest

from pmal_tf.benchmark import quality
from pmal_tf.benchmark.quality import Point, config_of, minutes_until, train
from pmal_tf.benchmark.settings import BenchmarkSettings
from pmal_tf.runtime.errors import PmalError
from pmal_tf.workflow.config import Config
from pmal_tf.workflow.experiment import open_trial, run_experiment

RECIPE = (
    *("--width=0.15", "--dropout=0", "--batch_size=16", "--learning_rate=0.003"),
    *("--schedule=cosine", "--epochs=3", "--num_models=3", "--dataset=mnist"),
)


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / "small.flags"
    file.write_text("\n".join(RECIPE))
    return f"oscri:{file}"


def settings_of(recipe, **given):
    return BenchmarkSettings(quality_runs=(recipe,), datasets=("digits",), **given)


def test_ends_of_runs_are_what_softmax_is_after_so_many_epochs(recipe, tmp_path):
    plot = tmp_path / "new" / "curve.png"
    given = {"quality_epochs": (1, 2), "target_auroc": 50.0, "plot": str(plot)}
    text, measurements = quality.run(settings_of(recipe, **given))
    found = {each.name: each.value for each in measurements}
    options = {**vars(config_of(settings_of(recipe), recipe, 2))["_given"]}
    options |= {"workdir": str(tmp_path), "experiment": "beside"}
    run_experiment(Config(**options, stages=("pretrain", "evaluate")))
    file = tmp_path / "beside" / "trial_0" / "result.json"
    softmax = json.loads(file.read_text())["models"]["softmax"]
    label = f"{recipe}_2_epochs"
    assert found[f"acc_{label}"] == pytest.approx(100 * softmax["acc"])
    for name in ("mls", "pr"):
        assert found[f"{name}_{label}"] == pytest.approx(100 * softmax[name]["auroc"])
    minutes = [found[f"minutes_{recipe}_{epochs}_epochs"] for epochs in (1, 2)]
    assert found[f"minutes_until_50_{recipe}"] == min(minutes)
    assert re.search(r"\| 2 +\| \d\.\d\d +\| \d\d\.\d", text)
    assert "Hardware: " in text
    assert matplotlib.image.imread(plot).std() > 0


def test_judging_stands_outside_the_clock(recipe, monkeypatch):
    judge = quality.score_images

    def slow(*arguments):
        time.sleep(30)
        return judge(*arguments)

    waited = []
    clock = time.perf_counter
    monkeypatch.setattr(time, "sleep", waited.append)
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + sum(waited))
    monkeypatch.setattr(quality, "score_images", slow)
    began = clock()
    points = train("a", open_trial(config_of(settings_of(recipe), recipe, 2), 0))
    assert waited == [30, 30]
    assert [point.epoch for point in points] == [1, 2]
    assert 0 < points[0].minutes < points[1].minutes < (clock() - began) / 60


def point(name, minutes, mls):
    return Point(name, 1, minutes, 90.0, mls, 80.0)


def test_the_shortest_run_that_ends_so_well_counts():
    ends = [
        *(point("a", 4.0, 91.0), point("a", 2.0, 90.0), point("a", 1.0, 89.9)),
        *(point("b", 1.0, 70.0), point("b", 8.0, 89.99)),
    ]
    assert minutes_until(ends, 90.0) == {"a": 2.0, "b": None}


def test_what_was_not_reached_is_said(recipe, monkeypatch):
    # The first epoch was as good as asked for, the end is not.
    curve = [point(recipe, 1.0, 99.0), point(recipe, 2.0, 89.0)]
    monkeypatch.setattr(quality, "train", lambda *_: curve)
    text, measurements = quality.run(settings_of(recipe))
    assert re.search(r"\| not reached +\|", text)
    assert not any(each.name.startswith("minutes_until") for each in measurements)


def test_a_recipe_is_found_by_name_and_gives_way_to_what_is_asked(tmp_path, recipe):
    config = config_of(BenchmarkSettings(), "airbench:fast", 0)
    assert (config.backbone, config.epochs, config.batch_size) == ("airbench", 8, 512)
    assert (config.dataset, config.protocol) == ("cifar10", "neal")
    asked = settings_of(recipe, train_images_per_class=7)
    config = config_of(asked, recipe, 5)
    assert (config.dataset, config.epochs, config.width) == ("digits", 5, 0.15)
    assert (config.method, config.compared) == ("softmax", ())
    assert config.train_images_per_class == 7


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("airbench", "must be BACKBONE:RECIPE.*Received: --quality_runs=airbench"),
        ("airbench:nosuch", r"must name a readable file.*nosuch\.flags"),
        ("vgg:fast", "`backbone` must be one of .*Received: backbone=vgg"),
    ],
)
def test_a_run_that_cannot_be_is_told(name, message):
    with pytest.raises(PmalError, match=message):
        quality.run(BenchmarkSettings(quality_runs=(name,)))


def test_a_flag_that_is_none_is_told(tmp_path):
    file = tmp_path / "odd.flags"
    file.write_text("--eposch=3")
    with pytest.raises(PmalError, match=r"flags of `pmal_tf.run`.*odd\.flags.*eposch"):
        quality.run(BenchmarkSettings(quality_runs=(f"oscri:{file}",)))


def test_two_datasets_are_an_error(recipe):
    settings = BenchmarkSettings(quality_runs=(recipe,), datasets=("mnist", "svhn"))
    with pytest.raises(PmalError, match=r"on one dataset.*--datasets=mnist,svhn"):
        quality.run(settings)
