"""The part of a report that tells of the paper's ablations and sweeps."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from pmal_tf.results.collect.ablation_tables import (
    METRICS,
    AblationTable,
    CellResult,
    Ordering,
    orderings,
)
from pmal_tf.results.collect.numbers import in_percent, spread
from pmal_tf.results.collect.paper_ablations import PAPER_TABLES, PaperTable
from pmal_tf.results.page.experiment_sections import MISSING, interval, points
from pmal_tf.results.page.page_blocks import (
    Block,
    Cell,
    Code,
    Heading,
    Paragraph,
    Table,
    paragraph,
)

# Settings that tell a reader at a glance which runs fill a table.
_TOLD = ("dataset", "protocol", "backbone", "width", "epochs", "train_images_per_class")
_PAPER = {"acc": "ACC", "auroc": "AUROC"}


def ablation_section(tables: Sequence[AblationTable]) -> list[Block]:
    """Shows every ablation table of the paper, filled or said to be missing.

    Args:
        tables: The filled ones.
    """
    blocks: list[Block] = [
        Heading(2, "Ablations and sweeps", "ablations"),
        paragraph(
            "A cell holds the runs that differ from the paper's base settings in just "
            "what the cell names, whatever they are called. The paper's column is of "
            "TinyImageNet with WRN-40-4; ours is of the runs named above each table, "
            "so orders may be compared, not heights. Below a number stands the "
            "difference to the base in points, with the 95 % interval of the paired "
            "bootstrap over common trials. ",
            "A difference counts only where its interval excludes 0.",
        ),
    ]
    for paper in PAPER_TABLES:
        filled = [table for table in tables if table.paper == paper]
        for table in filled:
            blocks += _table_section(table)
        if not filled:
            blocks += _missing_section(paper)
    return blocks


def _missing_section(paper: PaperTable) -> list[Block]:
    """Says how to make a table that has no runs."""
    changed = next(cell for cell in paper.cells if cell.label != paper.base)
    flags = " ".join(f"--{name}={value}" for name, value in changed.overrides.items())
    return [
        Heading(3, paper.title, paper.name),
        paragraph(
            "Missing: no two of its cells have been run with equal other settings. "
            f"A cell is a run like the base but for its settings; {changed.label}: ",
            Code(flags),
            ".",
        ),
    ]


def _table_section(table: AblationTable) -> list[Block]:
    """Shows one filled table and what it says of the paper's orders."""
    return [
        Heading(3, table.paper.title, table.paper.name),
        _shared(table),
        _numbers(table),
        *_verdicts(table),
        *_repeated(table),
    ]


def _shared(table: AblationTable) -> Paragraph:
    """Says what all runs of a table have in common."""
    told = [f"{name} {table.shared[name]}" for name in _TOLD if name in table.shared]
    versions = ", ".join(
        f"{name} {table.versions[name]}"
        for name in ("pmal_tf", "tensorflow", "keras")
        if name in table.versions
    )
    return paragraph(f"Runs of {', '.join(told)}; {versions}.")


def _numbers(table: AblationTable) -> Table:
    """Puts ours beside the paper's."""
    printed = [n for n in _PAPER if any(n in cell.paper for cell in table.paper.cells)]
    header = ("cell", *(f"paper: {_PAPER[name]}" for name in printed))
    rows: list[tuple[Cell | str, ...]] = []
    looks = []
    for row in table.rows:
        paper = [f"{row.cell.paper[name]:.1f}" for name in printed]
        ours = [_number(row, metric) for metric in METRICS]
        is_base = row.cell.label == table.paper.base
        label = f"{row.cell.label} (base)" if is_base else row.cell.label
        rows.append((label, *paper, *ours))
        looks.append("main" if is_base else "")
    return Table(
        f"{table.paper.title}, percent. paper: TinyImageNet, WRN-40-4. Ours: mean ± "
        "standard deviation (n trials), and the difference to the base.",
        (*header, *METRICS.values()),
        tuple(rows),
        tuple(looks),
    )


def _number(row: CellResult, metric: str) -> Cell:
    """Renders one of our numbers with its difference to the base."""
    values = row.values(metric)
    if not values:
        return MISSING
    told = f"{in_percent(spread(values))} (n = {len(values)})"
    comparison = row.differences.get(metric)
    if comparison is None:
        return Cell(told)
    note = points(comparison.mean_difference)
    note += "" if comparison.low is None else f" ({interval(comparison)})"
    if comparison.ahead or comparison.behind:
        note += f", {comparison.verdict}"
    return Cell(told, note)


def _verdicts(table: AblationTable) -> list[Block]:
    """Lists which of the paper's orders hold here."""
    found = orderings(table)
    listed: list[tuple[Cell | str, ...]] = [
        _verdict(ordering) for ordering in found if ordering.is_listed
    ]
    return [
        paragraph(_count(found)),
        Table(
            "The orders that the table is about, higher in the paper first, and what "
            "they come to here; points are higher minus lower.",
            ("in the paper", "by", "paper", "ours", "95 % interval", "here it"),
            tuple(listed),
        ),
    ]


def _count(found: Sequence[Ordering]) -> str:
    """Counts what became of all pairs that the paper's numbers put in order."""
    # What stands behind a colon or in brackets explains the verdict.
    verdicts = (re.split(r":| \(", ordering.verdict)[0] for ordering in found)
    counts = Counter(verdicts)
    words = {
        "holds": "hold",
        "does not hold": "do not hold",
        "too close": "are too close to say",
        "too few pairs to say": "have too few trials to say",
        "missing": "are missing",
    }
    told = ", ".join(f"{counts[n]} {text}" for n, text in words.items() if counts[n])
    compared = [o.comparison for o in found if o.comparison is not None]
    same = sum(comparison.mean_difference > 0 for comparison in compared)
    return (
        f"Of the {len(found)} pairs that the paper's numbers put in an order: {told}. "
        f"By the means alone, {same} of {len(compared)} have the paper's order."
    )


def _verdict(ordering: Ordering) -> tuple[Cell | str, ...]:
    """Renders an order of the paper and what came of it."""
    name = f"{ordering.higher} above {ordering.lower}"
    metric, paper = METRICS[ordering.metric], f"+{ordering.paper_points:.1f}"
    comparison = ordering.comparison
    if comparison is None:
        verdict = Cell(ordering.verdict, tone="missing", words=True)
        return (name, metric, paper, MISSING, MISSING, verdict)
    tone = {"holds": "good", "does not hold": "bad"}.get(ordering.verdict, "")
    mean = points(comparison.mean_difference)
    verdict = Cell(ordering.verdict, tone=tone, words=True)
    return (name, metric, paper, mean, interval(comparison), verdict)


def _repeated(table: AblationTable) -> list[Block]:
    """Names runs that were passed over because others have the same settings."""
    folders = [str(run.folder) for row in table.rows for run in row.repeated]
    if not folders:
        return []
    text = "Not counted, since another run of the same trial and settings is: "
    return [paragraph(text, Code(", ".join(folders)), ".")]
