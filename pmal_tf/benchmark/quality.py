"""Minutes until a network rejects unknown images well, by backbone and recipe.

A softmax classifier is trained from fresh weights, once for each number of epochs, with
the schedule of just that length: only the end of a run is what so many minutes can buy.
Within a run the learning rate is still high, and the network worse than the end of a
run of that length; these points are drawn, and reach nothing.

The clock counts making the network (its whitening too), compiling, input and training.
Reading the images comes before it, and it stands still while test images are judged.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import keras
from absl import logging

from pmal_tf.backbones.classifier import embedding_and_logits
from pmal_tf.benchmark.measurement import Measurement
from pmal_tf.benchmark.settings import BenchmarkSettings
from pmal_tf.methods.registry import owners
from pmal_tf.methods.scorer import Scorer
from pmal_tf.methods.trial import Trial
from pmal_tf.results.evaluate import score_images, summarise
from pmal_tf.results.figures.style import COLOURS, GREY, MARKERS, in_style
from pmal_tf.results.page.tables import markdown_table
from pmal_tf.results.scores.registry import get_scores
from pmal_tf.runtime.environment import hardware
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import write_atomically
from pmal_tf.runtime.precision import check_precision, in_precision
from pmal_tf.training.fit import fit
from pmal_tf.training.trainable import SoftmaxModel
from pmal_tf.workflow.config import Config
from pmal_tf.workflow.experiment import open_trial
from pmal_tf.workflow.flags import read_flagfile

RECIPES = Path("experiments", "recipes")
# The same classifier, in the same order of images, as `--method=softmax` trains.
_PURPOSE = ("pretrain", 0)


@dataclass(frozen=True)
class Point:
    """A network after some epochs: minutes of training, and results in percent."""

    name: str
    epoch: int
    minutes: float
    acc: float
    mls: float
    pr: float


def run(settings: BenchmarkSettings) -> tuple[str, list[Measurement]]:
    """Trains every network by its recipe, for each number of epochs.

    Raises:
        PmalError: If a run cannot be, before any is trained.
    """
    trials = [
        (name, open_trial(config_of(settings, name, epochs), settings.trial))
        for name in settings.quality_runs
        for epochs in settings.quality_epochs
    ]
    for _, trial in trials:
        check_precision(trial.network.precision)
        trial.images.source.check()
    curves = [train(name, trial) for name, trial in trials]
    if settings.plot:
        _draw(curves, settings.target_auroc, Path(settings.plot))
    ends = [curve[-1] for curve in curves]
    reached = minutes_until(ends, settings.target_auroc)
    return _render(settings, trials[0][1], ends, reached), [
        *(figure for end in ends for figure in _figures(end)),
        *(
            Measurement(f"minutes_until_{settings.target_auroc:g}_{n}", minutes, "min")
            for n, minutes in reached.items()
            if minutes is not None
        ),
    ]


def config_of(settings: BenchmarkSettings, name: str, epochs: int) -> Config:
    """Returns the settings of a run; 0 `epochs` stand for the recipe's own.

    Raises:
        PmalError: If the name is not BACKBONE:RECIPE, there is no such recipe, or the
            two do not go together.
    """
    backbone, colon, recipe = name.partition(":")
    if not (backbone and colon and recipe) or len(settings.datasets) > 1:
        raise PmalError(
            "A quality run must be BACKBONE:RECIPE, on one dataset. Received: "
            f"--quality_runs={name}, --datasets={','.join(settings.datasets)}. Write "
            "e.g. --quality_runs=airbench:fast --datasets=cifar10."
        )
    file = Path(recipe)
    if not file.suffix:
        # From wherever the command is started, beside the package.
        file = RECIPES / f"{recipe}.flags"
        if not file.exists():
            file = Path(__file__).parents[2] / file
    given = {n: v for n, v in read_flagfile(file).items() if n not in owners()}
    own: dict[str, Any] = {
        "epochs": epochs,
        "train_images_per_class": settings.train_images_per_class,
        "image_size": settings.image_size,
        "data_dir": settings.data_dir,
        "cache_dir": settings.cache_dir,
    }
    return Config(
        **given
        | {setting: value for setting, value in own.items() if value}
        | {"method": "softmax", "compare": (), "backbone": backbone}
        | {"dataset": (*settings.datasets, "cifar10")[0], "protocol": "neal"}
    )


def train(name: str, trial: Trial) -> list[Point]:
    """Trains a trial's softmax classifier; returns a point after every epoch."""
    test, judging = trial.images.test, 0.0
    points: list[Point] = []
    recipe, began = trial.recipe, time.perf_counter()

    def look() -> None:
        nonlocal judging
        stopped = time.perf_counter()
        minutes = (stopped - began - judging) / 60
        outputs = Scorer(embedding_and_logits(classifier)).outputs(test.image)
        scores = score_images(outputs, test, get_scores(("mls", "msp")))
        found = summarise(scores, trial.num_classes)
        shares = found["acc"], found["mls"]["auroc"], found["pr"]["auroc"]
        percents = (100 * share for share in shares)
        point = Point(name, len(points) + 1, minutes, *percents)
        points.append(point)
        logging.info(
            f"{name}  epoch {point.epoch}/{recipe.epochs}  {minutes:.2f} minutes  "
            f"ACC {point.acc:.1f}  AUROC MLS {point.mls:.1f}  PR {point.pr:.1f}"
        )
        judging += time.perf_counter() - stopped

    def measure() -> dict[str, float]:
        # The last epoch's weights are final once an average has taken their place.
        if len(points) + 1 < recipe.epochs:
            look()
        return {}

    with in_precision(trial.network.precision):
        classifier: keras.Model = trial.new_classifier(*_PURPOSE)
        fit(
            SoftmaxModel(classifier, recipe.label_smoothing),
            trial.pipeline(*_PURPOSE),
            recipe,
            seed=trial.seed("dropout", *_PURPOSE),
            measure=measure,
        )
        look()
    return points


def minutes_until(ends: Sequence[Point], target: float) -> dict[str, float | None]:
    """Returns, by name, the minutes of the shortest run that ended at `target` percent.

    None where no run's end is so good.
    """
    found: dict[str, float | None] = {}
    for name in dict.fromkeys(end.name for end in ends):
        good = (e.minutes for e in ends if e.name == name and e.mls >= target)
        found[name] = min(good, default=None)
    return found


def _figures(end: Point) -> list[Measurement]:
    """Returns what a run came to."""
    units = {"minutes": "min", "acc": "%", "mls": "%", "pr": "%"}
    label = f"{end.name}_{end.epoch}_epochs"
    return [Measurement(f"{n}_{label}", getattr(end, n), u) for n, u in units.items()]


def _render(
    settings: BenchmarkSettings,
    trial: Trial,
    ends: Sequence[Point],
    reached: dict[str, float | None],
) -> str:
    """Returns a table of all runs, and one of what the target took."""
    target, images = f"{settings.target_auroc:g}", len(trial.images.train)
    rows = [
        [end.name, str(end.epoch), f"{end.minutes:.2f}"]
        + [f"{value:.1f}" for value in (end.acc, end.mls, end.pr)]
        for end in ends
    ]
    until = [
        [name, "not reached" if minutes is None else f"{minutes:.2f}"]
        for name, minutes in reached.items()
    ]
    name = "network and recipe"
    header = (name, "epochs", "minutes", "ACC", "AUROC MLS", "AUROC PR")
    return "\n".join(
        (
            f"Softmax on {trial.data.dataset}, protocol neal, trial {trial.number}, "
            f"{images} training images; n = 1, percent.",
            f"Hardware: {hardware()}.",
            "",
            markdown_table(header, rows),
            markdown_table((name, f"minutes until AUROC MLS {target}"), until),
            "Every row is a run of its own, whose schedule ends with its epochs; "
            "minutes are of training, without reading and judging images. The target "
            "counts as reached by the end of a run alone: within one the rate is still "
            "high. More --quality_epochs tell more closely when.\n",
        )
    )


@in_style
def _draw(curves: Sequence[Sequence[Point]], target: float, plot: Path) -> None:
    """Draws the ends of runs as curves, and dotted what lies within them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4))
    axes = figure.subplots()
    axes.axhline(target, color=GREY, linewidth=0.8)
    names = list(dict.fromkeys(curve[0].name for curve in curves))
    for name, colour, marker in zip(
        names, cycle(COLOURS), cycle(MARKERS), strict=False
    ):
        own = [[(p.minutes, p.mls) for p in c] for c in curves if c[0].name == name]
        for points in own:
            axes.plot(*zip(*points, strict=True), ":", color=colour, linewidth=0.8)
        ends = sorted(points[-1] for points in own)
        axes.plot(*zip(*ends, strict=True), f"-{marker}", color=colour, label=name)
    axes.set_xlabel("minutes of training; dotted: within a run")
    axes.set_ylabel("AUROC MLS in percent")
    axes.legend()
    write_atomically(plot, figure.savefig)
