"""How much PMAL's training step costs beside the softmax classifier's.

Each grade of PMAL, from all prototypes with every batch to a few of them in turn, is
timed beside the softmax step of the same network, and that step under XLA beside the
plain graph. Every step is the function that `training.loop.train` calls.

Its input is one batch of noise that lies in memory and is handed on again and again: it
costs nothing but the dealing of prototypes, which is a part of PMAL. Taking a batch is
also timed by itself, and told as a share of the step.

Both of a pair run back to back. Who goes first changes from round to round, and so does
the order of the pairs, so that what slows the machine down falls on all alike.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from pmal_tf.backbones.settings import NetworkSettings
from pmal_tf.benchmark.measurement import (
    Measurement,
    Times,
    hardware,
    time_in_turn,
)
from pmal_tf.benchmark.training_pairs import (
    Alone,
    Comparison,
    Pairs,
    ReadyStep,
    get_ready,
    input_share,
    time_pairs,
)
from pmal_tf.benchmark.training_steps import (
    MANY_CLASSES,
    PROTOTYPES_PER_CLASS,
    Setting,
    Variant,
    build_step,
    precision,
)
from pmal_tf.methods.pmal.settings import PMALSettings
from pmal_tf.results.page.tables import markdown_table
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.precision import check_precision
from pmal_tf.training.checkpoints import list_checkpoints, save_checkpoint
from pmal_tf.training.recipe import Recipe

REPETITIONS, IMAGE_SIZE = 15, 32
_LEAST_IMAGE_SIZE = 8

VARIANTS = (
    Variant("softmax", "softmax"),
    Variant("joint", "PMAL, joint", prototype_mode="joint"),
    Variant("every", "PMAL, inference", prototype_mode="inference"),
    Variant(
        "bank", "PMAL, bank", prototype_mode="bank", size=PMALSettings.prototype_slice
    ),
    Variant(f"softmax_{MANY_CLASSES}", "softmax", MANY_CLASSES),
    Variant(
        *(f"bank_{MANY_CLASSES}", "PMAL, bank", MANY_CLASSES),
        prototype_mode="bank",
        size=PMALSettings.prototype_slice,
    ),
)
_RATIOS = (
    Comparison("step_ratio_joint", "joint", "softmax"),
    Comparison("step_ratio_every", "every", "softmax"),
    Comparison("step_ratio_bank", "bank", "softmax"),
    # Named after its prototypes, K * T.
    Comparison(
        f"step_ratio_bank_{MANY_CLASSES * PROTOTYPES_PER_CLASS}",
        *(f"bank_{MANY_CLASSES}", f"softmax_{MANY_CLASSES}"),
    ),
)
_EXPLANATION = (
    "A ratio is the median of those of pairs that were timed back to back. (batch + "
    "fed) / batch is the ratio of images that pass through the network; in inference "
    "mode prototypes pass without a gradient, about a third of the arithmetic."
)


def run(
    *,
    backbones: Sequence[str] = (NetworkSettings.backbone,),
    batch_sizes: Sequence[int] = (Recipe.batch_size,),
    precisions: Sequence[str] = (NetworkSettings.precision,),
    width: float = NetworkSettings.width,
    image_size: int = IMAGE_SIZE,
    jit: str = "on",
    repetitions: int = REPETITIONS,
) -> tuple[str, list[Measurement]]:
    """Measures the steps of every combination of backbone, batch size and precision.

    Args:
        backbones: Files of `pmal_tf.backbones.architectures`.
        batch_sizes: Training images in a step, at least 1 each.
        precisions: Keras dtype policies.
        width: The backbones' width multiplier, positive.
        image_size: Side of the square images in pixels, at least 8.
        jit: Whether the ratios are those of steps under XLA, `"on"` or `"off"`.
        repetitions: How many pairs are timed of each comparison, at least 1.

    Returns:
        Tables, and the measurements; the names of all but the first combination end in
        `_<backbone>_<batch size>_<precision>`.

    Raises:
        PmalError: If a setting is out of range, or a device cannot do it.
    """
    _check_lists(backbones=backbones, batch_sizes=batch_sizes, precision=precisions)
    settings = [
        Setting(*chosen, width=width, image_size=image_size)
        for chosen in itertools.product(backbones, batch_sizes, precisions)
    ]
    for setting in settings:
        _check(setting, jit, repetitions)
    texts, measurements = [hardware()], []
    for setting in settings:
        text, found = _measure(setting, jit == "on", repetitions)
        suffix = "" if setting is settings[0] else setting.suffix
        texts.append(text)
        measurements += [
            Measurement(m.name + suffix, m.value, m.unit, m.ours, m.reference)
            for m in found
        ]
    return "\n\n".join(texts) + "\n", measurements


def _check_lists(**lists: Sequence[object]) -> None:
    """Checks that each holds something, and nothing twice."""
    for name, items in lists.items():
        if not items or len(set(items)) != len(items):
            raise PmalError(
                f"`{name}` must list at least one value, each once. Received: "
                f"--{name}={','.join(map(str, items))}"
            )


def _check(setting: Setting, jit: str, repetitions: int) -> None:
    """Checks the settings."""
    # What training takes, and no more.
    given = vars(setting)
    network = {n: given[n] for n in ("backbone", "width", "precision") if n in given}
    NetworkSettings(**network)
    Recipe(batch_size=setting.batch_size)
    check_precision(setting.precision)
    for name, value, least in (
        ("image_size", setting.image_size, _LEAST_IMAGE_SIZE),
        ("repetitions", repetitions, 1),
    ):
        if value < least:
            raise PmalError(
                f"`{name}` must be at least {least}. Received: --{name}={value}"
            )
    if jit not in ("on", "off"):
        raise PmalError(f"`jit` must be on or off. Received: --jit={jit}")


def _measure(
    setting: Setting, jit: bool, repetitions: int
) -> tuple[str, list[Measurement]]:
    """Measures one combination; returns its tables and measurements."""
    batch_size = setting.batch_size
    variants, comparisons = _plan(jit)
    with precision(setting.precision):
        steps = {
            variant.name: get_ready(variant, build_step(variant, setting, jit=jit))
            for variant in variants
        }
        found = time_pairs(comparisons, steps, batch_size, repetitions)
        share = input_share(steps.values())
        writing, mebibytes = _checkpoint(steps["joint"], repetitions)
    # A step's own figures are from all pairs that it is in.
    alone = [
        Alone(ready, tuple(s for p in found for s in p.seconds_of(name)), batch_size)
        for name, ready in steps.items()
    ]
    measurements = [pairs.measurement for pairs in found]
    measurements += [m for own in alone for m in own.measurements]
    measurements += [
        Measurement("checkpoint_seconds", writing.median, "s"),
        Measurement("checkpoint_mib", mebibytes, "MiB"),
    ]
    lines = [
        f"{setting}. The bank is fed {PMALSettings.prototype_slice} prototypes a step; "
        f"{PROTOTYPES_PER_CLASS} per class in all. Ratios are those of steps "
        f"{'under XLA' if jit else 'as plain graphs'}, but for xla_gain.",
        "",
        _table_of_pairs(found, steps, batch_size),
        _table_of_steps(alone),
        _EXPLANATION,
        f"To take a batch from the input costs at most {share:.2%} of a step.",
        f"A checkpoint of PMAL has {mebibytes:,.1f} MiB and is written, to the folder "
        f"for temporary files, in {writing} s.",
    ]
    return "\n".join(lines), measurements


def _plan(jit: bool) -> tuple[list[Variant], list[Comparison]]:
    """Returns the steps to take, and what to compare.

    Args:
        jit: Whether steps are compiled with XLA, all but a second softmax step; or else
            that one alone.
    """
    other = "softmax_plain" if jit else "softmax_xla"
    fast, plain = ("softmax", other) if jit else (other, "softmax")
    variants = [*VARIANTS, Variant(other, "softmax", xla=not jit)]
    return variants, [*_RATIOS, Comparison("xla_gain", fast, plain, of_rates=True)]


def _checkpoint(ready: ReadyStep, repetitions: int) -> tuple[Times, float]:
    """Returns how long a checkpoint of a model takes, and how many MiB it has."""
    numbers = itertools.count()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def write() -> None:
            save_checkpoint(ready.step.model, folder, next(numbers), {})

        write()
        (times,) = time_in_turn(write, repetitions=repetitions)
        return times, list_checkpoints(folder)[0].stat().st_size / 2**20


def _table_of_pairs(
    found: Sequence[Pairs], steps: Mapping[str, ReadyStep], batch_size: int
) -> str:
    """Renders the comparisons."""
    header = ("", "ours", "reference", "ours, s", "reference, s", "ratio")
    rows = []
    for pairs in found:
        comparison = pairs.comparison
        ours, reference = steps[comparison.ours], steps[comparison.reference]
        images = (batch_size + ours.step.fed) / (batch_size + reference.step.fed)
        times = map(str, (pairs.ours, pairs.reference))
        rows.append(
            [
                *(comparison.name, ours.told, reference.told),
                *(*times, str(pairs.ratios), f"{images:.3g}"),
            ]
        )
    return markdown_table((*header, "(batch + fed) / batch"), rows)


def _table_of_steps(alone: Sequence[Alone]) -> str:
    """Renders the steps by themselves."""
    header = ("step", "fed", "images/s", "compiling, s", "peak of a step, MiB")
    rows = [
        [
            *(own.ready.told, str(own.ready.step.fed), str(own.rates)),
            *(f"{own.compile_seconds:.1f}", f"{own.peak_mebibytes:,.0f}"),
        ]
        for own in alone
    ]
    return markdown_table(header, rows)
