"""Answers as HTML, for the demo page: pure functions from facts to text."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from pmal_tf.results.scores.registry import scores_in
from pmal_tf.serving.explain import Explanation
from pmal_tf.serving.exported import ExportedModel, Promise

_MOST_CLASSES = 10
_MOST_NAMES = 50
# A rule's limits beyond this are those of float32, and no scale to draw.
_LARGEST_LIMIT = 1e6

WAITING = (
    '<div class="pmal pmal-waiting">Drop an image file on the left: the answer '
    "appears here.</div>"
)


def render_answer(answer: Explanation, exported: ExportedModel) -> str:
    """Renders the verdict, the score, the probabilities and the prototypes.

    Args:
        answer: What the model said.
        exported: What the model's folder says of it.
    """
    kind = "unknown" if answer.is_unknown else "known"
    verdict = (
        "Like none of the known classes"
        if answer.is_unknown
        else "One of the known classes"
    )
    parts = [
        f'<div class="pmal pmal-answer pmal-{kind}">',
        '<div class="pmal-verdict" role="status">',
        f'<div class="pmal-name">{html.escape(answer.class_name)}</div>',
        f'<div class="pmal-note">{verdict}</div></div>',
        *_score(answer, exported),
        *_probabilities(answer),
        *_nearest(answer),
        "</div>",
    ]
    return "".join(parts)


def render_images(answer: Explanation, name: str) -> str:
    """Renders the image and what the network sees of it.

    Args:
        answer: What the model said.
        name: The file's name.
    """
    size = answer.seen.shape[0]
    return (
        f'<div class="pmal"><div class="pmal-file">{html.escape(name)}</div>'
        '<div class="pmal-pair">'
        f"{_figure(answer.preview, 'central square of the image', '')}"
        f"{_figure(answer.seen, f'what the model sees: {size} x {size} pixels', '')}"
        "</div></div>"
    )


def render_error(name: str, sentence: str) -> str:
    """Renders what is wrong with a file.

    Args:
        name: The file's name.
        sentence: What to tell.
    """
    return (
        '<div class="pmal pmal-error" role="alert"><div class="pmal-heading">'
        f"&#9888; No answer for {html.escape(name)}</div>"
        f"<p>{html.escape(sentence)}</p></div>"
    )


def render_model(title: str, exported: ExportedModel) -> str:
    """Renders what the model is and what is promised of it.

    Args:
        title: Its name.
        exported: What its folder says of it.
    """
    names = exported.class_names
    shown = ", ".join(html.escape(name) for name in names[:_MOST_NAMES])
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    threshold = _number(exported.threshold)
    facts = [
        (f"{len(names)} known classes", f"{shown}{more}"),
        ("Rule", f"unknown where the score is above {threshold}: {_rule(exported)}"),
        ("Promise", _promise(exported.promise)),
    ]
    rows = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts)
    return (
        f'<div class="pmal pmal-model"><div class="pmal-heading">The model: '
        f"{html.escape(title)}</div><dl>{rows}</dl></div>"
    )


def scale_of(
    score: float, threshold: float, limits: Sequence[float]
) -> tuple[float, float]:
    """Returns the ends of a scale that shows a score and a threshold well apart.

    Args:
        score: The unknown score.
        threshold: Scores above it are unknown.
        limits: Lowest and highest score of the rule.
    """
    low, high = limits
    if low < -_LARGEST_LIMIT:
        reach = max(1.25 * abs(score - threshold), 0.5 * abs(threshold), 1e-3)
        return threshold - reach, threshold + reach
    # A threshold that is small for the rule would vanish at the left end.
    reach = max(2.0 * (threshold - low), 1.1 * (score - low), 1e-6)
    return low, min(low + reach, max(high, score))


def _score(answer: Explanation, exported: ExportedModel) -> Iterator[str]:
    """Renders the unknown score as a bar, with a mark for the threshold."""
    threshold = exported.threshold
    low, high = scale_of(answer.score, threshold, exported.threshold_range)

    def place(value: float) -> str:
        return f"{100 * min(max((value - low) / (high - low), 0.0), 1.0):.2f}%"

    side = "above" if answer.is_unknown else "not above"
    sentence = (
        f"{_number(answer.score)} is {side} the threshold {_number(threshold)}: "
        f"{'unknown' if answer.is_unknown else 'known'}"
    )
    yield '<div class="pmal-heading">Unknown score</div>'
    yield f'<div class="pmal-note">{_rule(exported)}</div>'
    yield (
        f'<div class="pmal-gauge" role="img" aria-label="{sentence}" '
        f'data-score="{answer.score!r}">'
    )
    yield f'<div class="pmal-zone" style="width:{place(answer.score)}"></div>'
    yield f'<div class="pmal-mark" style="left:{place(threshold)}"></div></div>'
    yield '<div class="pmal-scale">'
    # Close to the left end, the word would lie on the number.
    is_clear = threshold - low > 0.15 * (high - low)
    yield f"<span>{_number(low) if is_clear else ''}</span>"
    yield f'<span class="pmal-at" style="left:{place(threshold)}">threshold</span>'
    yield f"<span>{_number(high)}</span></div><div>{sentence}.</div>"


def _probabilities(answer: Explanation) -> Iterator[str]:
    """Renders the likeliest classes, the likeliest first."""
    order = sorted(answer.probabilities.items(), key=lambda entry: -entry[1])
    yield '<div class="pmal-heading">Class probabilities</div>'
    if answer.is_unknown:
        yield '<div class="pmal-note">were it one of the known classes</div>'
    yield '<div class="pmal-classes">'
    for class_name, probability in order[:_MOST_CLASSES]:
        percent = f"{100 * probability:.1f}"
        name = html.escape(class_name)
        yield f'<span class="pmal-class" title="{name}">{name}</span>'
        yield f'<span class="pmal-track"><i style="width:{percent}%"></i></span>'
        yield f'<span class="pmal-percent">{percent} %</span>'
    yield "</div>"
    if len(order) > _MOST_CLASSES:
        rest = 100 * sum(probability for _, probability in order[_MOST_CLASSES:])
        others = f"{len(order) - _MOST_CLASSES} other classes: {rest:.1f} %"
        yield f'<div class="pmal-note">{others}</div>'


def _nearest(answer: Explanation) -> Iterator[str]:
    """Renders the nearest class and its prototypes, where the model has such."""
    if answer.nearest_class is not None and answer.distance is not None:
        yield '<div class="pmal-heading">Nearest class</div>'
        yield (
            f"<div>{html.escape(answer.nearest_class)}, at distance "
            f"{_number(answer.distance)}</div>"
        )
    if answer.nearest_prototype is None:
        return
    yield '<div class="pmal-heading">Nearest prototypes</div>'
    if not answer.prototypes:
        identifier = html.escape(answer.nearest_prototype)
        yield f"<div>{identifier} (its image is not stored with the model)</div>"
        return
    yield (
        '<div class="pmal-note">training images that stand for the nearest class; '
        "those that weigh most come first</div>"
    )
    yield '<div class="pmal-prototypes">'
    for prototype in answer.prototypes:
        yield _figure(
            prototype.image,
            f"class {prototype.class_name}",
            f"{prototype.example_id}\nweight {100 * prototype.weight:.1f} %",
        )
    yield "</div>"


def _figure(image: np.ndarray, caption: str, details: str) -> str:
    """Renders an image with a caption; small images keep their pixels."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    encoded = base64.b64encode(buffer.getvalue()).decode()
    lines = "".join(f"<small>{html.escape(x)}</small>" for x in details.splitlines())
    return (
        f'<figure><img alt="{html.escape(caption)}" '
        f'src="data:image/png;base64,{encoded}">'
        f"<figcaption>{html.escape(caption)}{lines}</figcaption></figure>"
    )


def _rule(exported: ExportedModel) -> str:
    """Says what the score is."""
    known = scores_in([exported.rule])
    if not known:
        return html.escape(exported.rule)
    return html.escape(f"{known[0].meaning} ({known[0].title})")


def _promise(promise: Promise | None) -> str:
    """Says what the threshold promises."""
    if promise is None:
        return "none: who exported the model chose the threshold"
    return (
        f"at most {100 * promise.reject_rate:.1f} % of images like those of the known "
        "classes are rejected, on average over calibration sets. This threshold was "
        f"set on {promise.images} images, by whose luck it may reject up to "
        f"{100 * promise.highest_rate:.1f} %."
    )


def _number(value: float) -> str:
    """Renders a number to four digits, with a minus sign that does not break."""
    text = f"{value:.4g}" if math.isfinite(value) else str(value)
    return text.replace("-", "\u2212") if text.startswith("-") else text
