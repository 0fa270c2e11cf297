"""A page in the browser that answers for dropped images.

    pip install -e '.[demo]'
    python -m pmal_tf.demo --saved_model=saved_models/digits/trial_0/1

The page is served on this machine alone, and asks nothing of the internet.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from absl import app, flags, logging

from pmal_tf.runtime.console import plain_messages
from pmal_tf.runtime.errors import PmalError, first_line

if TYPE_CHECKING:
    from pmal_tf.serving.page import Answerer

_LOCAL = "127.0.0.1"
# Seconds after which the server deletes what was uploaded, and how often it looks.
_KEEP_UPLOADS = 600
_WAITING = "Drop an image file on the left: the answer appears here."
# Small images keep their pixels, captions are shown whole, and titles cover no image.
_STYLE = """
.grid-wrap img, .preview img { image-rendering: pixelated; }
.grid-wrap .caption-label { white-space: normal; max-width: 100%; }
.grid-wrap { padding-top: 36px !important; }
"""
_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
_FIXED_WIDTH_FONTS = ("ui-monospace", "Consolas", "monospace")


def build_page(answerer: Answerer) -> Any:
    """Lays out the page; returns Gradio's `Blocks`, to be launched.

    Raises:
        PmalError: If Gradio is not installed.
    """
    gradio = _import_gradio()
    from pmal_tf.serving.page import describe_model

    hidden: dict[str, Any] = {"visible": False, "interactive": False}
    slider = hidden | {"buttons": []}
    gallery = slider | {"object_fit": "contain", "format": "png", "fit_columns": False}
    parts: dict[str, Any] = {}
    with gradio.Blocks(
        title="pmal_tf: known or unknown?",
        analytics_enabled=False,
        delete_cache=(_KEEP_UPLOADS, _KEEP_UPLOADS),
    ) as page:
        gradio.Markdown("# Known or unknown?")
        with gradio.Row():
            with gradio.Column(scale=2, min_width=320):
                # A gradio.Image would refuse broken files before they reach the
                # model, whose own sentence is to be shown.
                label = "An image: JPEG, PNG, GIF or BMP, up to 64 MB"
                dropped = gradio.File(label=label, height=180)
                parts["images"] = gradio.Gallery(columns=2, **gallery)
                parts["classes"] = gradio.Dataframe(
                    label="All classes", wrap=True, **hidden
                )
            with gradio.Column(scale=3, min_width=320):
                parts["verdict"] = gradio.Label(show_label=False, visible=False)
                parts["note"] = gradio.Textbox(
                    _WAITING, label="Answer", lines=2, interactive=False
                )
                parts["score"] = gradio.Slider(**slider)
                parts["threshold"] = gradio.Slider(label="Threshold", **slider)
                parts["likeliest"] = gradio.Label(
                    num_top_classes=10, show_heading=False, visible=False
                )
                parts["prototypes"] = gradio.Gallery(columns=3, **gallery)
        gradio.Dataframe(
            describe_model(answerer.exported),
            headers=["The model", answerer.exported.title],
            column_widths=["20%", "80%"],
            wrap=True,
            interactive=False,
        )

        def answer(path: str | None) -> list[Any]:
            shown = {"note": {"value": _WAITING, "label": "Answer"}}
            if path is not None:
                shown = answerer.show(path)
            updates = [
                gradio.update(visible=name in shown, **shown.get(name, {}))
                for name in parts
            ]
            # The first output empties the drop area, which takes one file at a time.
            return [None, *updates]

        dropped.upload(
            answer,
            dropped,
            [dropped, *parts.values()],
            show_progress="hidden",
            api_visibility="private",
        )
    return page


def launch(page: Any, host: str, port: int, *, open_browser: bool) -> str:
    """Serves what `build_page` returned, in threads of its own; returns the URL.

    Raises:
        PmalError: If the port cannot be had.
    """
    gradio = _import_gradio()
    # Fonts given by name are the reader's own; Gradio's default theme brings files.
    theme = gradio.themes.Default(font=_FONTS, font_mono=_FIXED_WIDTH_FONTS)
    try:
        _, url, _ = page.launch(
            server_name=host,
            server_port=port,
            inbrowser=open_browser,
            share=False,
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
            run_history=False,
            footer_links=[],
            max_file_size="64mb",
            prevent_thread_lock=True,
            quiet=True,
            theme=theme,
            css=_STYLE,
        )
    except OSError as error:
        raise PmalError(
            "`host` must be an address of this machine, and `port` a port that no "
            f"other program uses. Received: host={host}, port={port}. "
            "Choose another --port."
        ) from error
    return url


def _import_gradio() -> Any:
    """Returns the module; it must not report its use to its makers."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise PmalError(
            "The demo needs Gradio, which is an optional dependency. Received: "
            f"{first_line(error)}. Install it with `pip install -e '.[demo]'`."
        ) from error
    return gradio


def _has_display() -> bool:
    """Tells whether a browser can be opened here."""
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _main(argv: list[str]) -> None:
    """Serves the page that the flags ask for, until Ctrl-C."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    values = flags.FLAGS
    plain_messages()
    try:
        # What is missing is reported before TensorFlow's seconds of loading.
        _import_gradio()
        from pmal_tf.serving.page import Answerer

        answerer = Answerer(values.saved_model)
        if answerer.remark:
            sys.stderr.write(f"{answerer.remark}\n")
        page = build_page(answerer)
        url = launch(page, values.host, values.port, open_browser=values.open)
    except PmalError as error:
        sys.exit(f"Error: {error}")
    if values.host not in (_LOCAL, "localhost"):
        logging.warning(
            "Whoever reaches this machine at %s can use the page.", values.host
        )
    sys.stdout.write(f"The page is at {url} ; Ctrl-C stops it.\n")
    sys.stdout.flush()
    page.block_thread()


if __name__ == "__main__":
    flags.DEFINE_string(
        "saved_model",
        None,
        "Folder of an exported model, or the one above it for its newest version.",
        required=True,
    )
    flags.DEFINE_string("host", _LOCAL, "Address to serve at; 0.0.0.0 for everyone.")
    flags.DEFINE_integer(
        "port", 7860, "Port to serve at.", lower_bound=1, upper_bound=65535
    )
    flags.DEFINE_boolean("open", _has_display(), "Whether to open the browser.")
    app.run(_main)
