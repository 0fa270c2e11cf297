"""Tables of results in Markdown files: written from records, by nobody's hand.

Between these two lines stands the table of some records of `--results`, which
`collect/records.py` makes:

    <!-- results: cifar10_cpu mnist_cpu -->
    <!-- end -->

`thresholds` shows what thresholds reject, and `ablations` Tables 3 to 5. Metrics behind
a bar choose the columns of `results`: `<!-- results: mnist_cpu | acc mls.auroc -->`.
"""

from __future__ import annotations

import re
from pathlib import Path

from jinja2 import UndefinedError

from pmal_tf.results.collect.summary import metric_titles
from pmal_tf.results.page.page import markdown_templates
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import read_json, write_text

_MARKER = re.compile(r"^<!-- (?:(?:results|thresholds|ablations): .*|end) -->$", re.M)
_MARKED = re.compile(
    r"^<!-- (results|thresholds|ablations): (.*?)(?: \| (.*?))? -->\n"
    r"(?:(?!<!-- ).*\n)*?<!-- end -->$",
    re.MULTILINE,
)


def update_document(path: Path, folder: Path) -> None:
    """Writes the tables between a Markdown file's markers, from a folder of records.

    Raises:
        PmalError: If a marker has no end, or names a record that there is not.
        OSError: If the file cannot be read or written.
    """
    text = path.read_text(encoding="utf-8")
    try:
        write_text(path, fill_markers(text, folder))
    except PmalError as error:
        raise PmalError(f"{path}: {error}") from error


def fill_markers(text: str, folder: Path) -> str:
    """Returns a Markdown text with the tables that belong between its markers.

    Arguments and errors are those of `update_document`.
    """
    if len(_MARKER.findall(text)) != 2 * len(_MARKED.findall(text)):
        raise PmalError(
            "Each marker of a table, a line such as `<!-- results: NAME -->`, must be "
            "followed by a line `<!-- end -->`. Received: "
            f"{', '.join(_MARKER.findall(text))}"
        )
    return _MARKED.sub(lambda marked: _filled(marked, folder), text)


def _filled(marked: re.Match[str], folder: Path) -> str:
    """Returns a pair of markers with the table that belongs between them."""
    view, names, columns = marked[1], marked[2].split(), (marked[3] or "").split()
    there = sorted(file.stem for file in folder.glob("*.json"))
    missing = [name for name in names if name not in there]
    if missing or not names:
        raise PmalError(
            f"A marker must name records of --results={folder}, which has "
            f"{', '.join(there) or 'none'}. Received: {', '.join(missing) or 'no name'}"
        )
    records = {name: read_json(folder / f"{name}.json") for name in names}
    models = [m for r in records.values() for m in r.get("models", {}).values()]
    titles = metric_titles(models, ("auroc", "oscr") if columns else ("auroc",))
    strange = [metric for metric in columns if metric not in titles]
    if strange:
        raise PmalError(
            f"Columns of `results` must be among {', '.join(titles)}. Received: "
            f"{', '.join(strange)} for {', '.join(names)}"
        )
    titles = {metric: titles[metric] for metric in columns or titles}
    template = markdown_templates().get_template("published.md.j2")
    try:
        table = template.render(view=view, records=records, titles=titles)
    except UndefinedError as error:
        raise PmalError(
            f"The records of a table of {view} lack something that it shows. "
            f"Received: {', '.join(names)}: {error}"
        ) from error
    opening, end = marked[0].partition("\n")[0], "<!-- end -->"
    return f"{opening}\n\n{table.strip()}\n\n{end}"
