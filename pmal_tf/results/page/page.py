"""The report: one page of HTML that needs nothing else, and the same as Markdown."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from pmal_tf.results.collect.ablation_tables import AblationTable, ablation_tables
from pmal_tf.results.collect.numbers import metric_titles, scores_of
from pmal_tf.results.collect.run_folders import Experiment
from pmal_tf.results.collect.summary import paper_metrics
from pmal_tf.results.figures.figure import Drawn, Skipped
from pmal_tf.results.page.ablation_sections import ablation_section
from pmal_tf.results.page.experiment_sections import (
    against_baseline,
    experiment_section,
    metric_cell,
)
from pmal_tf.results.page.page_blocks import (
    Block,
    Bullets,
    Cell,
    Code,
    FoldedBlocks,
    Heading,
    Picture,
    Table,
    paragraph,
    to_html,
    to_markdown,
)
from pmal_tf.results.page.page_style import STYLE
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import write_text

HTML, MARKDOWN, FIGURES = "report.html", "report.md", "figures"
_TITLE = "pmal_tf: results"


Figures = tuple[Sequence[Drawn], Sequence[Skipped]]


@dataclass(frozen=True)
class Content:
    """What a report tells.

    Attributes:
        runs: The folder of runs, as the user named it.
        experiments: All experiments, finished or not.
        tables: The paper's ablation tables, as far as they are filled.
        speed: Entries of `python -m pmal_tf.benchmark --json`.
        figures: Figures that were drawn, and those that were not.
    """

    runs: Path
    experiments: Sequence[Experiment]
    tables: Sequence[AblationTable]
    speed: Sequence[Mapping[str, Any]]
    figures: Figures


def write_report(
    runs: Path,
    experiments: Sequence[Experiment],
    out: Path,
    speed: Sequence[Mapping[str, Any]],
    draw: Callable[[Path, Sequence[AblationTable]], Figures],
) -> Path:
    """Writes `report.html`, `report.md` and `figures/`.

    All of it is made in a folder beside, which takes the place of an older report when
    it is complete.

    Args:
        runs: The folder of runs, for the texts.
        experiments: All experiments, of which at least one has a finished trial.
        out: The folder to write.
        speed: Entries of benchmark files; may be empty.
        draw: Draws the figures into a folder.

    Returns:
        The HTML page.

    Raises:
        PmalError: If `out` holds something else than a report.
    """
    check_out(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    tables = ablation_tables(experiments)
    with tempfile.TemporaryDirectory(prefix="writing.", dir=out.parent) as beside:
        new = Path(beside) / "new"
        (new / FIGURES).mkdir(parents=True)
        figures = draw(new / FIGURES, tables)
        content = Content(runs, experiments, tables, speed, figures)
        blocks = report_blocks(content)
        write_text(new / HTML, render_page(blocks))
        write_text(new / MARKDOWN, to_markdown(blocks, new))
        replace_folder(new, out, Path(beside) / "old")
    return out / HTML


def check_out(out: Path) -> None:
    """Checks that a folder may be replaced by a report.

    Raises:
        PmalError: If it is a file, or holds something else than a report.
    """
    if out.is_dir():
        inside = {path.name for path in out.iterdir()}
        strange = sorted(inside - {HTML, MARKDOWN, FIGURES})
    else:
        strange = ["a file of that name"] if out.exists() else []
    if strange:
        raise PmalError(
            "`out` must be a new folder or an older report, which is replaced. "
            f"Received: {out}, which holds {', '.join(strange[:5])}. Choose another "
            "folder with --out."
        )


def replace_folder(new: Path, target: Path, aside: Path) -> None:
    """Puts a folder in the place of another, which stays if that fails.

    Args:
        new: The complete folder, on the same file system.
        target: Where it goes; may exist.
        aside: A free name for the old folder, which is removed in the end.
    """
    if target.exists():
        target.rename(aside)
    try:
        new.rename(target)
    except OSError:
        if aside.exists():
            aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def report_blocks(content: Content) -> list[Block]:
    """Returns all parts of a report, in order."""
    finished = [e for e in content.experiments if e.trials]
    cells = cells_only(finished, content.tables)
    blocks: list[Block] = [Heading(1, _TITLE), *_how_to_read(content)]
    blocks += [Heading(2, "Results", "results"), _results(finished, cells)]
    blocks += _unfinished(content.experiments)
    blocks += ablation_section(content.tables)
    blocks += [*_speed(content.speed), *_figures(content.figures)]
    blocks.append(Heading(2, "Experiments", "experiments"))
    for experiment in finished:
        section = experiment_section(experiment)
        if experiment.name in cells:
            summary = f"{experiment.name} (a cell of the tables above)"
            blocks.append(FoldedBlocks(summary, tuple(section)))
        else:
            blocks += section
    return blocks


def cells_only(
    experiments: Sequence[Experiment], tables: Sequence[AblationTable]
) -> set[str]:
    """Names the experiments that were run for a cell of an ablation table only."""
    folders = {
        run.folder
        for table in tables
        for row in table.rows
        if row.cell.label != table.paper.base
        for run in (*row.runs.values(), *row.repeated)
    }
    return {e.name for e in experiments if all(r.folder in folders for r in e.trials)}


def _how_to_read(content: Content) -> list[Block]:
    """Says what the numbers are and when a difference counts."""
    finished = [e for e in content.experiments if e.trials]
    trials = sum(len(experiment.trials) for experiment in finished)
    scores = scores_of(m for e in finished for m in e.summary["models"].values())
    meanings = ", ".join(f"{s.title} ({s.meaning})" for s in scores)
    return [
        paragraph(
            f"{trials} finished trials of {len(content.experiments)} experiments in ",
            Code(content.runs.as_posix()),
            ". ACC is the accuracy on known classes. AUROC is the chance that an "
            "unknown image scores above a known one, OSCR the chance that a known "
            "image is classified rightly and scores below an unknown one. Scores are "
            f"{meanings}.",
        ),
        paragraph(
            "A method is called ahead of what it is judged against only where the 95 % "
            "interval of a paired bootstrap over trials lies above 0 and there are at "
            "least 3 pairs. One or two pairs say nothing: resampled they give back "
            "themselves. With 3 the interval is from the smallest to the largest "
            "difference, so ahead means ahead in all three, as two equal methods are "
            "in 1 of 8 cases; many comparisons, as below, will hold a few such.",
        ),
    ]


def _results(experiments: Sequence[Experiment], leave_out: set[str]) -> Table:
    """Returns the compact table of results."""
    shown = [e for e in experiments if e.name not in leave_out]
    models = (m for e in shown for m in e.summary["models"].values())
    metrics = metric_titles(models, ("auroc",))
    rows: list[tuple[Cell | str, ...]] = []
    looks = []
    for experiment in shown:
        head = (experiment.result["protocol"], str(len(experiment.trials)))
        for model, title in experiment.models.items():
            cells = [_result(experiment, model, metric) for metric in metrics]
            rows.append((f"{experiment.name}, {title}", *head, *cells))
            looks.append("main" if model == experiment.method else "")
        paper = paper_metrics(experiment.summary)
        if paper:
            quoted = [f"{100 * paper[m]:.1f}" if m in paper else "" for m in metrics]
            name = f"{experiment.name}, {experiment.title} in the paper"
            rows.append((name, "paper", "", *quoted))
            looks.append("quoted")
    return Table(
        "Percent, mean ± standard deviation over n trials; below the numbers of a "
        "run's own method, how it stands to what it is judged against. The paper's are "
        "for orientation: the section of an experiment says in what its runs differ.",
        ("experiment and model", "protocol", "n", *metrics.values()),
        tuple(rows),
        tuple(looks),
    )


def _result(experiment: Experiment, model: str, metric: str) -> Cell:
    """Returns an entry of the compact table."""
    cell = metric_cell(experiment, model, metric)
    compared = against_baseline(experiment.trials, metric)
    if model != experiment.method or compared is None:
        return cell
    comparison, _ = compared
    words = {"ahead": "ahead", "behind": "behind"}.get(comparison.verdict)
    few = "too few pairs" if comparison.low is None else "too close"
    return Cell(cell.text, words or few)


def _unfinished(experiments: Sequence[Experiment]) -> list[Block]:
    """Lists the trials that are in no number."""
    items = tuple(
        paragraph(Code(path.as_posix()), f": {reason}.")
        for experiment in experiments
        for path, reason in experiment.unfinished
    )
    if not items:
        return []
    return [
        Heading(2, "Unfinished", "unfinished"),
        paragraph("These trials are in no number of this report:"),
        Bullets(items),
    ]


def _speed(entries: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Shows what benchmarks measured."""
    if not entries:
        return []
    rows = tuple(
        (
            str(entry.get("name", "")),
            _plain(entry.get("value")),
            str(entry.get("unit", "")),
            _plain(entry.get("ours")),
            _plain(entry.get("reference")),
        )
        for entry in entries
    )
    caption = "Speed, each figure with its reference of the same run."
    header = ("name", "value", "unit", "ours", "reference")
    return [Heading(2, "Speed", "speed"), Table(caption, header, rows)]


def _plain(value: Any) -> str:
    """Renders a number of any size briefly."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:.4g}" if is_number else "" if value is None else str(value)


def _figures(figures: Figures) -> list[Block]:
    """Shows the figures, and says which there are not."""
    drawn, skipped = figures
    blocks: list[Block] = [Heading(2, "Figures", "figures")]
    blocks += [Picture(f.title, f.caption, f.png, f.svg) for f in drawn]
    if skipped:
        items = (paragraph(Code(each.name), f": {each.reason}") for each in skipped)
        blocks += [paragraph("Missing:"), Bullets(tuple(items))]
    return blocks if len(blocks) > 1 else []


def render_page(blocks: Sequence[Block]) -> str:
    """Renders a report as one page of HTML that loads nothing."""
    links = "".join(
        f'<li><a href="#{escape(block.anchor)}">{escape(block.text)}</a></li>'
        for block in blocks
        if isinstance(block, Heading) and block.level == 2
    )
    first, *others = blocks
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(_TITLE)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<header>{to_html([first])}<nav aria-label="Sections"><ul>{links}</ul></nav>'
        f"</header>\n<main>\n{to_html(others)}\n</main>\n</body>\n</html>\n"
    )
