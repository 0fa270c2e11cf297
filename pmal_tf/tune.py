"""Sweeps hyper-parameters: `python -m pmal_tf.tune --flagfile=experiments/tune/...`."""

from __future__ import annotations

from absl import app, flags

from pmal_tf.results.scores.registry import all_scores, get_score
from pmal_tf.runtime.errors import PmalError
from pmal_tf.workflow import flags as settings
from pmal_tf.workflow.command import parse_or_exit, run_command
from pmal_tf.workflow.tuning.sweep import TABLE_5, TUNERS, Sweep, parse_space


def define_flags() -> None:
    """Defines the flags that a sweep has beside those of a run."""
    flags.DEFINE_multi_string(
        "vary",
        list(TABLE_5),
        "A setting to vary: NAME=VALUE,VALUE,... or, for random and bayesian, "
        "NAME=LOW..HIGH. Given several times; by default Table 5's.",
    )
    flags.DEFINE_enum(
        "tuner",
        "axes",
        TUNERS,
        "Which points are visited: axes varies one setting at a time around the "
        "others, as Table 5 does; hyperband gives most points few epochs.",
    )
    flags.DEFINE_string(
        "objective",
        "",
        "Score whose AUROC is maximised, one of "
        f"{', '.join(all_scores())}; by default the method's own.",
    )
    flags.DEFINE_integer(
        "max_points", 20, "Points of a random or Bayesian sweep.", lower_bound=1
    )


def main(argv: list[str]) -> None:
    """Runs the sweep that the flags ask for, and prints its table."""
    run_command(argv, _work, kept="Finished points")


def _work() -> str:
    """Reads the flags and runs the sweep; returns its table, and where it lies."""
    sweep = _sweep_from_flags()
    # TensorFlow takes seconds to import; a mistake in the flags is reported before.
    from pmal_tf.workflow.tuning.search import run_sweep

    table = run_sweep(sweep)
    return f"{table}\nResults: {sweep.folder}\n" if table else ""


def _sweep_from_flags() -> Sweep:
    """Reads the flags."""
    values, config = flags.FLAGS, settings.config_from_flags()
    if config.overwrite:
        raise PmalError(
            "A sweep goes on from what there is. Received: --overwrite. To begin anew, "
            "name another --experiment, or remove the folder that the sweep names."
        )
    rule = get_score(values.objective or config.own_method.scores[0])
    if rule not in config.scores:
        config = config.changed(scores=(*config.evaluation.scores, rule.name))
    return Sweep(
        config=config,
        space=parse_space(values.vary),
        tuner=values.tuner,
        rule=rule.field,
        max_points=values.max_points,
    )


if __name__ == "__main__":
    settings.define_flags()
    define_flags()
    flags.adopt_module_key_flags(settings)
    app.run(main, flags_parser=parse_or_exit)
