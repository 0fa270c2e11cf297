"""What of a sweep is to be looked at: a picture per setting, and an HParams page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pmal_tf.results.collect.paper_ablations import PAPER_TABLES
from pmal_tf.results.scores.registry import get_score
from pmal_tf.results.tensorboard.hparams import write_experiment
from pmal_tf.runtime.settings import Interval
from pmal_tf.workflow.tuning.space import Parameter
from pmal_tf.workflow.tuning.sweep import Sweep

_LEAST_DRAWN = 2


def draw_setting(
    sweep: Sweep, parameter: Parameter, rows: Sequence[tuple[Any, list[float]]]
) -> None:
    """Draws the AUROC against a setting, as `<setting>.png` and `.svg`.

    A setting with fewer than two values that were visited has no picture.

    Args:
        sweep: The sweep.
        parameter: The setting.
        rows: Per value, the AUROC of each trial.
    """
    if len(rows) < _LEAST_DRAWN:
        return
    # Matplotlib takes a second, and mistakes should be told before.
    from pmal_tf.results.figures.hyper_parameters import draw_sweep
    from pmal_tf.results.figures.style import save

    paper = {
        cell.overrides[parameter.name]: cell.paper["auroc"]
        for table in PAPER_TABLES
        if table.setting == parameter.name
        for cell in table.cells
    }
    picture = draw_sweep(
        parameter.name,
        dict(rows),
        paper=paper,
        caption=f"AUROC {get_score(sweep.rule).title} on classes held out of the "
        f"known ones of {sweep.config.dataset}.",
    )
    save(picture, sweep.folder, parameter.name)


def write_space(sweep: Sweep) -> None:
    """Writes the space for TensorBoard's HParams page.

    Points bring their own rows; this adds what was not visited.
    """
    if not sweep.config.tensorboard:
        return
    space: dict[str, Any] = {
        parameter.name: list(parameter.values)
        or Interval(parameter.low or 0.0, parameter.high or 0.0)
        for parameter in sweep.space
    }
    metrics = ["result/acc", *(f"result/auroc_{s.field}" for s in sweep.config.scores)]
    write_experiment(sweep.folder / "tensorboard", space, metrics)
