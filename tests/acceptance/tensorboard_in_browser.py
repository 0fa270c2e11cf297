"""TensorBoard's pages in a real browser: curves, images, embeddings, settings.

    python tests/acceptance/tensorboard_in_browser.py LOGDIR OUTDIR

Starts `tensorboard --logdir=LOGDIR` and opens its pages in headless Chromium, which
needs `pip install playwright` and a Chromium (`CHROMIUM`, /usr/bin/chromium by default;
the projector needs WebGL, which it draws without a GPU). Waits until each page shows
content, says what it shows, and leaves a picture of it in OUTDIR. Exits with 1 where a
page shows nothing, or asks a host other than this one.
"""

import argparse
import io
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from browser import answer_of, chromium, leave_without, serving
from PIL import Image

WEBGL = ("--enable-unsafe-swiftshader", "--use-gl=angle", "--use-angle=swiftshader")
PATIENCE = 40  # Seconds until a page counts as empty.


def until(page, probe: Callable):
    """Returns the first answer of `probe` that counts as true."""
    for _ in range(2 * PATIENCE):
        if found := probe():
            return found
        page.wait_for_timeout(500)
    raise AssertionError(f"nothing after {PATIENCE} seconds: {found!r}")


def pixels_of(element) -> np.ndarray:
    """Returns what an element looks like, [height, width, 3] uint8."""
    picture = Image.open(io.BytesIO(element.screenshot()))
    return np.asarray(picture.convert("RGB"))


def check_timeseries(page) -> str:
    """Waits for a card in which a curve is drawn."""
    chart = page.locator("scalar-card line-chart").first
    chart.wait_for()
    # Curves have colours, axes and letters are grey.
    until(page, lambda: (np.ptp(pixels_of(chart), axis=-1) > 60).sum() > 20)
    groups = page.locator("metrics-card-group-toolbar").all_inner_texts()
    assert groups, "no group of curves"
    return ", ".join(" ".join(group.split()) for group in groups)


def check_images(page) -> str:
    """Waits for images that have pixels."""
    images = page.locator("tf-image-loader img")
    images.first.wait_for()

    def widths() -> list[int]:
        found = images.evaluate_all("all => all.map(image => image.naturalWidth)")
        return found if all(found) else []

    found = until(page, widths)
    return f"{len(found)} images, {min(found)} to {max(found)} pixels wide"


def check_projector(page) -> str:
    """Waits for points, until they are drawn, and colours them by kind."""
    # The page is a frame in a frame.
    frame = page.frame_locator("iframe").frame_locator("iframe")
    points = frame.locator(".numDataPoints")
    points.get_by_text(re.compile("[1-9]")).wait_for()

    def colours() -> int:
        pixels = pixels_of(frame.locator("canvas").first)
        count = len(np.unique(pixels.reshape(-1, 3), axis=0))
        return count if count > 500 else 0  # The axes and their names have fewer.

    drawn = until(page, colours)
    frame.locator("#colorby").click()
    frame.locator("#colorby paper-item").filter(has_text="kind").click()
    legend = frame.locator("vz-projector-legend .item")
    legend.first.wait_for()
    kinds = [" ".join(text.split()) for text in legend.all_inner_texts()]
    return f"{points.inner_text()} points in {drawn} colours: {', '.join(kinds)}"


def check_hparams(page) -> str:
    """Waits for a row of the table, and that the rows are full."""
    grid = page.locator("tf-hparams-table-view vaadin-grid")
    grid.wait_for()

    def rows() -> list[str]:
        # The cells of the head come first, then empty ones of the foot.
        texts = grid.locator("vaadin-grid-cell-content").all_inner_texts()
        texts = [text.strip() for text in texts]
        head = texts[: texts.index("")] if "" in texts else []
        body = [text for text in texts[len(head) :] if text]
        return [*head, "|", *body] if head and body else []

    found = until(page, rows)
    # The column of ticks has no text.
    columns, cells = found.index("|") - 1, len(found) - found.index("|") - 1
    assert cells % columns == 0, f"a row has empty cells: {found}"
    return f"{cells // columns} rows: {' '.join(found)}"


CHECKS: dict[str, Callable] = {
    "timeseries": check_timeseries,
    "images": check_images,
    "projector": check_projector,
    "hparams": check_hparams,
}


def has_runs(url: str) -> bool:
    """Tells whether TensorBoard answers and names a run."""
    return answer_of(f"{url}data/runs").strip() not in (b"", b"[]")


def main(logdir: Path, out: Path) -> list[str]:
    """Looks at all pages, and returns those that are not as they should be."""
    from playwright.sync_api import Error

    out.mkdir(parents=True, exist_ok=True)
    wrong = []
    command = ("tensorboard.main", f"--logdir={logdir}", "--host=127.0.0.1")
    with (
        serving(*command, ready=has_runs) as url,
        chromium(*WEBGL) as (open_page, strange),
    ):
        for name, check in CHECKS.items():
            page = open_page(1400, 1000, PATIENCE)
            page.goto(f"{url}#{name}")
            try:
                print(f"{name}: {check(page)}", flush=True)
            except (AssertionError, Error) as error:
                print(f"{name}: NOTHING. {error}", flush=True)
                wrong.append(name)
            page.screenshot(path=out / f"{name}.png")
            page.close()
    if strange:
        print(f"The pages asked {', '.join(sorted(strange))}.")
        wrong.append("hosts")
    print(f"Screenshots: {out}. {'All as it should be.' if not wrong else wrong}")
    return wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("logdir", type=Path)
    parser.add_argument("outdir", type=Path)
    arguments = parser.parse_args()
    leave_without("playwright")
    sys.exit(bool(main(arguments.logdir, arguments.outdir)))
