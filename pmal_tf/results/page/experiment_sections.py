"""The part of a report that tells of one experiment."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pmal_tf.results.collect.comparison import Comparison, paired_bootstrap
from pmal_tf.results.collect.numbers import in_percent, metric_of, metric_titles
from pmal_tf.results.collect.run_folders import Experiment, TrialRun
from pmal_tf.results.collect.summary import notes_on, paper_metrics
from pmal_tf.results.page.page_blocks import (
    Block,
    Bullets,
    Cell,
    Code,
    Folded,
    Heading,
    Paragraph,
    Table,
    anchor_of,
    paragraph,
)
from pmal_tf.results.scores.registry import scores_in

MISSING = Cell("missing", tone="missing")


def spread_cell(entry: Mapping[str, Any] | None) -> Cell:
    """Returns mean and standard deviation in percent, or `missing`."""
    return Cell(in_percent(entry)) if entry else MISSING


def metric_cell(experiment: Experiment, model: str, metric: str) -> Cell:
    """Returns a metric of a model, a dash for a score that the model does not have."""
    metrics = experiment.summary["models"].get(model, {metric: None})
    return spread_cell(metrics[metric]) if metric in metrics else Cell("-")


def points(difference: float) -> str:
    """Renders a difference of fractions in percent points, with its sign."""
    # Adding 0 takes the sign from a rounded -0.0.
    return f"{round(100 * difference, 1) + 0.0:+.1f}"


def interval(comparison: Comparison) -> str:
    """Renders the interval of a difference in points."""
    if comparison.low is None or comparison.high is None:
        return "none"
    return f"{points(comparison.low)} to {points(comparison.high)}"


def verdict_cell(comparison: Comparison) -> Cell:
    """Returns what may be said of a difference, in words."""
    tone = "good" if comparison.ahead else "bad" if comparison.behind else ""
    return Cell(comparison.verdict, tone=tone, words=True)


def experiment_section(experiment: Experiment) -> list[Block]:
    """Tells everything of an experiment with at least one finished trial."""
    return [
        Heading(3, experiment.name, f"run-{anchor_of(experiment.name)}"),
        _settings(experiment),
        _models(experiment),
        *_notes(experiment),
        *_against_baseline(experiment),
        *_thresholds(experiment),
        *_commands(experiment),
        _seconds(experiment.trials),
        *_environment(experiment.trials),
    ]


def numbers_of(trials: Sequence[TrialRun]) -> str:
    """Lists the numbers of trials."""
    return ", ".join(str(run.trial) for run in trials)


def _settings(experiment: Experiment) -> Paragraph:
    """Says what was run."""
    config, first = experiment.config, experiment.result
    images = config.get("train_images_per_class", 0)
    return paragraph(
        f"{config.get('dataset')}, protocol ",
        Code(first["protocol"]),
        f" ({len(first['known'])} known and {len(first['unknown'])} unknown classes), "
        f"backbone {config.get('backbone')} at width {config.get('width', 1):g}, "
        f"{config.get('epochs')} epochs a stage, "
        f"{images if images else 'all'} training images per class, batches of "
        f"{config.get('batch_size')}, seed {config.get('seed')}; trials "
        f"{numbers_of(experiment.trials)} (n = {len(experiment.trials)}).",
    )


def _models(experiment: Experiment) -> Table:
    """Puts the models and the paper's numbers beside each other."""
    summary = experiment.summary
    metrics = metric_titles(summary["models"].values())
    rows: list[tuple[Cell | str, ...]] = [
        (title, *(metric_cell(experiment, model, metric) for metric in metrics))
        for model, title in experiment.models.items()
    ]
    looks = ["main", *[""] * (len(rows) - 1)]
    paper = paper_metrics(summary)
    if paper:
        ours = {m: summary["models"][experiment.method].get(m) for m in paper}
        gap = {m: points(v["mean"] - paper[m]) for m, v in ours.items() if v}
        quoted = [f"{100 * paper[m]:.1f}" if m in paper else "" for m in metrics]
        rows.append((f"{experiment.title} in the paper", *quoted))
        rows.append(("ours - paper, points", *(gap.get(m, "") for m in metrics)))
        looks += ["quoted", "quoted"]
    count = len(experiment.trials)
    spread = f"mean ± standard deviation over {count} trials" if count > 1 else "n = 1"
    return Table(
        f"{experiment.name}: percent, {spread}.",
        ("model", *metrics.values()),
        tuple(rows),
        tuple(looks),
    )


def _notes(experiment: Experiment) -> list[Block]:
    """Says what a reader must know to judge the numbers."""
    notes = notes_on(experiment.summary)
    unlike = _unlike_paper(experiment) if experiment.summary["paper"] else ""
    if unlike:
        notes.append(f"Not comparable with the paper's numbers: {unlike}.")
    if experiment.unfinished:
        left_out = ", ".join(path.name for path, _ in experiment.unfinished)
        notes.append(f"Not finished, so not in these numbers: {left_out}.")
    return [Bullets(tuple(map(paragraph, notes)))] if notes else []


def _unlike_paper(experiment: Experiment) -> str:
    """Names in what a run is plainly not the paper's, empty where nothing is."""
    config, told = experiment.config, []
    protocol = experiment.result["protocol"]
    if protocol != "paper":
        told.append(f"protocol {protocol}")
    if config.get("width", 1) != 1:
        told.append(f"width {config['width']:g}")
    # 600 epochs on small images, 120 on ImageNet.
    usual = 120 if str(config.get("dataset")).startswith("imagenet") else 600
    if config.get("epochs") != usual:
        told.append(f"{config.get('epochs')} epochs for {usual}")
    if config.get("train_images_per_class"):
        told.append(f"{config['train_images_per_class']} training images per class")
    return ", ".join(told)


def against_baseline(
    trials: Sequence[TrialRun], metric: str
) -> tuple[Comparison, list[float]] | None:
    """Compares a method with its baseline over paired trials.

    Args:
        trials: Trials of one experiment.
        metric: E.g. `dr.auroc`.

    Returns:
        The comparison, and the differences by trial; None where a trial lacks one of
        the two numbers.
    """
    baseline = trials[0].result["baseline"]
    differences = []
    for result in (run.result for run in trials):
        ours = metric_of(result, metric)
        others = metric_of(result, metric, baseline) if baseline else None
        if ours is None or others is None:
            return None
        differences.append(ours - others)
    return paired_bootstrap(differences, [0.0] * len(differences)), differences


def _against_baseline(experiment: Experiment) -> list[Block]:
    """Says by which metrics a method is ahead of what it is judged against."""
    result, models = experiment.result, experiment.summary["models"]
    own, baseline = experiment.title, result["baseline"]
    if baseline is None:
        return []
    other = experiment.models[baseline]
    if baseline not in models:
        beside = [name for name in models if name != experiment.method]
        return [
            paragraph(
                f"{own} against {other}: missing. Run the experiment again with ",
                Code(f"--compare={','.join([*beside, baseline])}"),
                " to add it.",
            )
        ]
    rows: list[tuple[Cell | str, ...]] = []
    for metric, title in metric_titles(models.values()).items():
        compared = against_baseline(experiment.trials, metric)
        if compared is None:
            continue
        comparison, differences = compared
        mean = points(comparison.mean_difference)
        by_trial = ", ".join(map(points, differences))
        rows.append(
            (title, mean, interval(comparison), by_trial, verdict_cell(comparison))
        )
    return [
        Table(
            f"{experiment.name}: {own} minus {other}, in percent points.",
            ("metric", "mean", "95 % interval", "by trial", f"{own} is"),
            tuple(rows),
        )
    ]


def _thresholds(experiment: Experiment) -> list[Block]:
    """Says what the method's thresholds reject, beside what they promise."""
    rejection = experiment.summary["rejection"]
    if rejection is None:
        return []
    rows: list[tuple[Cell | str, ...]] = []
    for score in scores_in(rejection):
        sides = rejection[score.field]
        cells = (spread_cell(sides[n]) for n in ("known_rejected", "unknown_rejected"))
        rows.append((score.title, *cells))
    rate = 100 * rejection["reject_rate"]
    return [
        Table(
            f"{experiment.title}'s thresholds, set to reject at most {rate:.1f} % of "
            "known images: share of the test images that they reject, of those they "
            "were not set on, in percent.",
            ("rule", "known rejected", "unknown rejected"),
            tuple(rows),
        )
    ]


def _commands(experiment: Experiment) -> list[Block]:
    """Gives the command that makes each trial again, and its classes."""
    blocks: list[Block] = [paragraph("Each trial is made by:")]
    items, folded = [], []
    for run in experiment.trials:
        path = run.folder / "flags.txt"
        command = f"python -m pmal_tf.run --flagfile={path.as_posix()}"
        items.append(paragraph(Code(command)))
        flags = path.read_text(encoding="utf-8") if path.exists() else "missing"
        folded.append(Folded(f"Flags of trial {run.trial}", flags))
    classes = "\n".join(
        f"trial {run.trial}\n  known    {', '.join(run.result['known'])}\n"
        f"  unknown  {', '.join(run.result['unknown'])}"
        for run in experiment.trials
    )
    return [*blocks, Bullets(tuple(items)), *folded, Folded("Classes", classes)]


def _seconds(trials: Sequence[TrialRun]) -> Table:
    """Says how long each stage took."""
    names = list(dict.fromkeys(name for run in trials for name in run.seconds))
    rows = []
    for name in names:
        taken = [run.seconds[name] for run in trials if name in run.seconds]
        mean, longest = statistics.fmean(taken), max(taken)
        rows.append((name, f"{mean:.1f}", f"{longest:.1f}", str(len(taken))))
    total = [sum(run.seconds.values()) for run in trials]
    whole = (f"{statistics.fmean(total):.1f}", f"{max(total):.1f}", str(len(total)))
    rows.append(("all stages", *whole))
    return Table(
        "Seconds per stage; a stage that runs share counts what it took once.",
        ("stage", "mean", "longest", "trials"),
        tuple(rows),
        ("",) * len(names) + ("main",),
    )


def _environment(trials: Sequence[TrialRun]) -> list[Block]:
    """Says what the trials ran on; each different machine once."""
    seen: dict[str, list[str]] = {}
    for run in trials:
        told = run.environment
        devices = ", ".join(
            str(name).removeprefix("/physical_device:")
            for name in told.get("devices") or ["devices unknown"]
        )
        versions = ", ".join(f"{name} {v}" for name, v in run.versions.items())
        text = (
            f"{told.get('machine', 'machine unknown')}, "
            f"{told.get('cpu_count', '?')} CPU cores, {devices}; "
            f"{told.get('platform', 'platform unknown')}; {versions}; seed "
            f"{told.get('seed', '?')}; git commit {told.get('git_commit') or 'unknown'}"
        )
        seen.setdefault(text, []).append(str(run.trial))
    return [
        paragraph(f"Ran on (trials {', '.join(numbers)}): {text}.")
        for text, numbers in seen.items()
    ]
