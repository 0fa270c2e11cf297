"""The report: one page of HTML that needs nothing else, and the same as Markdown.

`content.j2` is what it says; `report.html.j2` and `report.md.j2` are how it looks.
"""

from __future__ import annotations

import base64
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pmal_tf.results.collect.ablation_tables import METRICS, AblationTable, orderings
from pmal_tf.results.collect.paper import PAPER_TABLES
from pmal_tf.results.collect.records import budget, hardware
from pmal_tf.results.collect.run_folders import Experiment, TrialRun
from pmal_tf.results.collect.summary import (
    in_percent,
    metric_titles,
    notes_on,
    paper_metrics,
    scores_of,
    spread,
    titles_of_a_table,
)
from pmal_tf.results.figures.figure import Figures
from pmal_tf.results.page.tables import markdown_table
from pmal_tf.results.scores.registry import scores_in


def render_report(
    runs: Path,
    experiments: Sequence[Experiment],
    ablations: Sequence[AblationTable],
    speed: Sequence[Mapping[str, Any]],
    figures: Figures,
) -> tuple[str, str]:
    """Renders a report, as HTML and as Markdown for a folder that has the figures.

    Args:
        runs: The folder of runs, as the user named it.
        experiments: All experiments, of which at least one has a finished trial.
        ablations: The paper's ablation tables, as far as they are filled.
        speed: Entries of `python -m pmal_tf.benchmark --json`; may be empty.
        figures: What `draw_figures` returned.

    Raises:
        OSError: If a figure or the flags of a run cannot be read.
    """
    finished = [experiment for experiment in experiments if experiment.trials]
    cells = cells_only(finished, ablations)
    shown = [experiment for experiment in finished if experiment.name not in cells]
    drawn, skipped = figures
    content = {
        "runs": runs.as_posix(),
        "experiments": experiments,
        "finished": finished,
        "unfinished": [pair for e in experiments for pair in e.unfinished.items()],
        "scores": scores_of(_models(finished)),
        "shown": shown,
        "metrics": metric_titles(_models(shown), ("auroc",)),
        "cells_only": cells,
        "paper_tables": PAPER_TABLES,
        "ablations": ablations,
        "ablation_metrics": METRICS,
        "speed": speed,
        "drawn": drawn,
        "skipped": skipped,
        "sections": [],
    }
    html = _templates().get_template("report.html.j2")
    markdown = markdown_templates().get_template("report.md.j2")
    # Parts of a template leave empty lines where they show nothing.
    text = re.sub(r"\n{3,}", "\n\n", markdown.render(content)).strip()
    return html.render(content), f"{text}\n"


def _models(experiments: Sequence[Experiment]) -> list[dict[str, Any]]:
    """Returns the averages of every model of some experiments."""
    return [m for e in experiments for m in e.summary["models"].values()]


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


def markdown_templates() -> Environment:
    """Returns the templates of Markdown, where Jinja would escape for HTML."""

    def escaped(value: Any) -> Markup:
        is_safe = isinstance(value, Markup)
        return value if is_safe else Markup(escape_markdown(str(value)))

    return _templates(finalize=escaped)


def _templates(**options: Any) -> Environment:
    """Returns the templates, which escape every text, with what they may call."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        extensions=["jinja2.ext.do"],
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
    functions = (
        *(budget, in_percent, notes_on, orderings, paper_metrics),
        *(scores_in, spread, anchor_of, base64_of, classes_of, environments, fenced),
        *(interval, padded, points, seconds_of, text_of, titles_of_a_table),
    )
    environment.globals |= {each.__name__: each for each in functions}
    environment.globals["mean"] = statistics.fmean
    environment.filters |= {"one_line": one_line, "points": points}
    return environment


def escape_markdown(text: str) -> str:
    """Keeps a text from being taken for Markdown or HTML, on one line."""
    text = re.sub(r"([\\`*\[\]|])", r"\\\1", " ".join(text.split("\n")))
    return text.replace("&", "&amp;").replace("<", "&lt;")


def fenced(text: str) -> Markup:
    """Renders Markdown code with a fence that it does not hold."""
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    return Markup(f"{fence}{text}{fence}")


def padded(header: Sequence[str], lines: str) -> Markup:
    """Renders a Markdown table, given as lines of cells, with columns of one width."""
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in lines.splitlines()
        if line.strip()
    ]
    return Markup(markdown_table([*map(escape_markdown, header)], rows))


def one_line(text: str) -> str:
    """Puts single spaces between the words of a text that is wrapped in a template."""
    line = " ".join(text.split())
    return Markup(line) if isinstance(text, Markup) else line


def anchor_of(text: str) -> str:
    """Returns a name to link to, of letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "section"


def base64_of(path: Path) -> str:
    """Returns the bytes of a file as a data URL has them."""
    return base64.b64encode(path.read_bytes()).decode()


def text_of(path: Path) -> str:
    """Returns what a file says, `missing` where there is none."""
    return path.read_text(encoding="utf-8") if path.exists() else "missing"


def points(difference: float) -> str:
    """Renders a difference of fractions in percent points, with its sign."""
    # Adding 0 takes the sign from a rounded -0.0.
    return f"{round(100 * difference, 1) + 0.0:+.1f}"


def interval(low: float | None, high: float | None) -> str:
    """Renders the interval of a difference in points."""
    if low is None or high is None:
        return "none"
    return f"{points(low)} to {points(high)}"


def classes_of(trials: Sequence[TrialRun]) -> str:
    """Lists the known and unknown classes of each trial."""
    return "\n".join(
        f"trial {run.trial}\n  known    {', '.join(run.result['known'])}\n"
        f"  unknown  {', '.join(run.result['unknown'])}"
        for run in trials
    )


def seconds_of(trials: Sequence[TrialRun]) -> dict[str, list[float]]:
    """Returns how long each stage took in the trials that have it, then all stages."""
    names = dict.fromkeys(name for run in trials for name in run.seconds)
    seconds = {n: [r.seconds[n] for r in trials if n in r.seconds] for n in names}
    return {**seconds, "all stages": [sum(run.seconds.values()) for run in trials]}


def environments(trials: Sequence[TrialRun]) -> dict[str, str]:
    """Returns what trials ran on, each different machine once, and by which trials."""
    seen: dict[str, list[str]] = {}
    for run in trials:
        on, versions = run.environment, run.versions.items()
        text = (
            f"{hardware(on)}; {on['platform']}; "
            f"{', '.join(f'{name} {v}' for name, v in versions)}; seed {on['seed']}; "
            f"git commit {on['git_commit'] or 'unknown'}"
        )
        seen.setdefault(text, []).append(str(run.trial))
    return {text: ", ".join(numbers) for text, numbers in seen.items()}
