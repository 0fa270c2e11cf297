"""The part of a report that tells of one experiment."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from pmal_tf.data.splits import CUSTOM, trials_of_equal_classes
from pmal_tf.evaluation.scores import RULES
from pmal_tf.reports.ablation_tables import mean_and_deviation, metric_of
from pmal_tf.reports.comparison import Comparison, paired_bootstrap
from pmal_tf.reports.page_blocks import (
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
from pmal_tf.reports.paper import PAPER_PMAL
from pmal_tf.reports.run_folders import Experiment, TrialRun

MODELS = {"pmal": "PMAL", "control": "control", "softmax": "M^1"}
METRICS = {
    "acc": "ACC",
    **{f"{rule}.auroc": f"AUROC {rule.upper()}" for rule in RULES},
    **{f"{rule}.oscr": f"OSCR {rule.upper()}" for rule in RULES},
}
MISSING = Cell("missing", tone="missing")


def values_of(trials: Sequence[TrialRun], metric: str, model: str) -> list[float]:
    """Returns a metric of every trial; none at all if one trial lacks it."""
    found = [metric_of(run, metric, model) for run in trials]
    measured = [value for value in found if value is not None]
    return measured if len(measured) == len(found) else []


def spread_cell(values: Sequence[float]) -> Cell:
    """Returns mean and standard deviation in percent, or `missing`."""
    if not values:
        return MISSING
    return Cell(mean_and_deviation(values).partition(" (n")[0])


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
        *_against_control(experiment),
        *_thresholds(experiment.trials),
        *_commands(experiment),
        _seconds(experiment.trials),
        *_environment(experiment.trials),
    ]


def numbers_of(trials: Sequence[TrialRun]) -> str:
    """Lists the numbers of trials."""
    return ", ".join(str(run.trial) for run in trials)


def _settings(experiment: Experiment) -> Paragraph:
    """Says what was run."""
    config, first = experiment.config, experiment.trials[0].result
    images = config.get("train_images_per_class", 0)
    return paragraph(
        f"{config.get('dataset')}, protocol ",
        Code(experiment.protocol),
        f" ({len(first['known'])} known and {len(first['unknown'])} unknown classes), "
        f"backbone {config.get('backbone')} at width {config.get('width', 1):g}, "
        f"{config.get('epochs')} epochs a stage, "
        f"{images if images else 'all'} training images per class, batches of "
        f"{config.get('batch_size')}, seed {config.get('seed')}; trials "
        f"{numbers_of(experiment.trials)} (n = {len(experiment.trials)}).",
    )


def paper_numbers(experiment: Experiment) -> dict[str, float]:
    """Returns the paper's ACC and AUROC DR for a benchmark, fractions; often none."""
    config = experiment.config
    row = PAPER_PMAL.get((config.get("backbone", ""), config.get("dataset", "")))
    if row is None or experiment.protocol == CUSTOM:
        return {}
    return {"acc": row["acc"], "dr.auroc": row["auroc"]}


def _models(experiment: Experiment) -> Table:
    """Puts the models and the paper's numbers beside each other."""
    rows: list[tuple[Cell | str, ...]] = [
        (title, *(spread_cell(values_of(experiment.trials, m, model)) for m in METRICS))
        for model, title in MODELS.items()
    ]
    looks = ["main", "", ""]
    paper = paper_numbers(experiment)
    if paper:
        ours = {m: values_of(experiment.trials, m, "pmal") for m in paper}
        gap = {m: points(statistics.fmean(v) - paper[m]) for m, v in ours.items() if v}
        quoted = [f"{100 * paper[m]:.1f}" if m in paper else "" for m in METRICS]
        rows.append(("PMAL in the paper", *quoted))
        rows.append(("ours - paper, points", *(gap.get(m, "") for m in METRICS)))
        looks += ["quoted", "quoted"]
    count = len(experiment.trials)
    spread = f"mean ± standard deviation over {count} trials" if count > 1 else "n = 1"
    return Table(
        f"{experiment.name}: percent, {spread}.",
        ("model", *METRICS.values()),
        tuple(rows),
        tuple(looks),
    )


def _notes(experiment: Experiment) -> list[Block]:
    """Says what a reader must know to judge the numbers."""
    trials = experiment.trials
    known = ((run.trial, run.result["known"]) for run in trials)
    notes = [
        f"Trials {', '.join(map(str, group))} have the same known classes: their "
        "training differs by seed only."
        for group in trials_of_equal_classes(known)
    ]
    if any(run.result.get("unknown_is_estimate") for run in trials):
        notes.append(
            "The unknown images are of classes held out of the known ones: AUROC and "
            "OSCR estimate how images of other classes will be rejected."
        )
    if any(metric_of(run, "dr.auroc") is None for run in trials):
        notes.append("There are no unknown images, so rejection was not measured.")
    if paper_numbers(experiment):
        unlike = _unlike_paper(experiment)
        if unlike:
            notes.append(f"Not comparable with the paper's numbers: {unlike}.")
    if experiment.unfinished:
        left_out = ", ".join(path.name for path, _ in experiment.unfinished)
        notes.append(f"Not finished, so not in these numbers: {left_out}.")
    return [Bullets(tuple(map(paragraph, notes)))] if notes else []


def _unlike_paper(experiment: Experiment) -> str:
    """Names in what a run is plainly not the paper's, empty where nothing is."""
    config, told = experiment.config, []
    if experiment.protocol != "paper":
        told.append(f"protocol {experiment.protocol}")
    if config.get("width", 1) != 1:
        told.append(f"width {config['width']:g}")
    # 600 epochs on small images, 120 on ImageNet.
    usual = 120 if str(config.get("dataset")).startswith("imagenet") else 600
    if config.get("epochs") != usual:
        told.append(f"{config.get('epochs')} epochs for {usual}")
    if config.get("train_images_per_class"):
        told.append(f"{config['train_images_per_class']} training images per class")
    return ", ".join(told)


def against_control(trials: Sequence[TrialRun], metric: str) -> Comparison | None:
    """Compares PMAL with the control over paired trials, None without a control."""
    pmal, control = (values_of(trials, metric, m) for m in ("pmal", "control"))
    return paired_bootstrap(pmal, control) if pmal and control else None


def _against_control(experiment: Experiment) -> list[Block]:
    """Says by which metrics PMAL is ahead of the control."""
    rows: list[tuple[Cell | str, ...]] = []
    for metric, title in METRICS.items():
        comparison = against_control(experiment.trials, metric)
        if comparison is None:
            continue
        pairs = zip(
            values_of(experiment.trials, metric, "pmal"),
            values_of(experiment.trials, metric, "control"),
            strict=True,
        )
        by_trial = ", ".join(points(a - b) for a, b in pairs)
        mean = points(comparison.mean_difference)
        rows.append(
            (title, mean, interval(comparison), by_trial, verdict_cell(comparison))
        )
    if not rows:
        return [
            paragraph(
                "PMAL against the control: missing. Run the experiment again with ",
                Code("--control"),
                " to train M^1 on for as long as PMAL.",
            )
        ]
    return [
        Table(
            f"{experiment.name}: PMAL minus control, in percent points.",
            ("metric", "mean", "95 % interval", "by trial", "PMAL is"),
            tuple(rows),
        )
    ]


def _thresholds(trials: Sequence[TrialRun]) -> list[Block]:
    """Says what PMAL's thresholds reject, beside what they promise."""
    calibrations = [run.calibration for run in trials if run.calibration]
    if len(calibrations) < len(trials):
        return []
    rows: list[tuple[Cell | str, ...]] = []
    for rule in RULES:
        cells = []
        for side in ("known_rejected", "unknown_rejected"):
            shares = [each["rules"][rule][side] for each in calibrations]
            measured = [share for share in shares if share is not None]
            full = len(measured) == len(shares)
            cells.append(spread_cell(measured if full else []))
        rows.append((rule.upper(), *cells))
    rate = 100 * max(each["reject_rate"] for each in calibrations)
    return [
        Table(
            f"PMAL's thresholds, set to reject at most {rate:.1f} % of known images: "
            "share of the test images that they reject, of those they were not set "
            "on, in percent.",
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
