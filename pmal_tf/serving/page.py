"""What the demo page shows of an answer: values for Gradio's components, by name.

Known and unknown are told apart by words; the colours beside them are Okabe and Ito's
blue and vermilion, which colour-blind readers can tell apart, thin enough for dark and
light text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from pmal_tf.data.decoding.decode import declared_size, decode_image
from pmal_tf.mining.distances import SET_DISTANCES, SetDistance
from pmal_tf.results.scores.registry import scores_in
from pmal_tf.runtime.errors import PmalError
from pmal_tf.serving.client import Answer, ServedModel
from pmal_tf.serving.exported import (
    METADATA,
    ExportedModel,
    find_version,
    read_exported,
)
from pmal_tf.serving.extra_files import load_prototype_images

# Of each component, what changes; those not named are hidden.
Shown = dict[str, dict[str, Any]]

# Prototypes shown, of the nearest class.
_MOST_PROTOTYPES = 5
_MOST_NAMES = 50
_LARGEST_PREVIEW = 320
_SCALE_STEPS = 1000
# A rule's limits beyond this are those of float32, and no scale to draw.
_LARGEST_LIMIT = 1e6
_KNOWN, _UNKNOWN, _NEITHER = "#0072B266", "#D55E0066", "#80808033"


class Prototype(NamedTuple):
    """A training image, [h, w, 3] uint8, and its share in the nearest class's distance.

    The weights of all prototypes of the class sum to 1.
    """

    image: np.ndarray
    example_id: str
    weight: float


class Answerer:
    """Asks an exported model about image files, one at a time.

    `remark` is what a person should know of the choice of the version, or empty.

    Raises:
        PmalError: If there is no exported model, or it is damaged.
    """

    def __init__(self, saved_model: str | Path) -> None:
        folder, self.remark = find_version(Path(saved_model))
        self.exported = read_exported(folder)
        set_distance = self.exported.set_distance
        if set_distance not in (None, *SET_DISTANCES):
            raise PmalError(
                f"`set_distance` in {METADATA} must be one of "
                f"{', '.join(SET_DISTANCES)}. Received: {set_distance!r}. Put a sound "
                "copy back, or take the version of pmal_tf that exported the model."
            )
        self.model = ServedModel(self.exported)
        self._prototypes = load_prototype_images(folder)

    def show(self, path: str | Path) -> Shown:
        """Returns what to show of a file, whose bytes the model gets as they are."""
        path = Path(path)
        contents = path.read_bytes()
        try:
            (answer,) = self.model.answer([contents])
            if answer.error is not None:
                raise PmalError(
                    "The file must be a sound JPEG, PNG, GIF or BMP image. Received: "
                    f"{len(contents):,} bytes; {answer.error}. Try another file."
                )
        except PmalError as error:
            return {
                "verdict": {"value": "No answer", "color": _NEITHER},
                "note": {"value": str(error), "label": f"No answer for {path.name}"},
            }
        file = tf.constant(contents)
        seen = decode_image(file, self.exported.image_size)
        # The central square, turned and coloured as the model takes it.
        side = min(*map(int, declared_size(file)), _LARGEST_PREVIEW)
        images = [
            (decode_image(file, side).numpy(), "central square of the image"),
            (seen.numpy(), f"what the model sees: {len(seen)} x {len(seen)} pixels"),
        ]
        shown = show_answer(answer, self.exported, self.prototypes(seen, answer))
        return {**shown, "images": {"value": images, "label": path.name}}

    def prototypes(self, seen: tf.Tensor, answer: Answer) -> list[Prototype]:
        """Returns the nearest class's prototypes, the weightiest for an image first.

        The one that the model names comes first, also where rounding makes others weigh
        as much; none where the export holds no images. The network has `seen` the image
        as [size, size, 3].
        """
        stored, exported = self._prototypes, self.exported
        if not stored or exported.set_distance is None or answer.distance is None:
            return []
        class_index = np.argmin(list(answer.distance.values()))
        members = np.flatnonzero(stored["class_index"] == class_index)
        # All as one set, since all make the mean that distances may be measured from.
        together = np.ones((1, len(stored["class_index"])), bool)
        others = (stored["class_index"] != class_index)[None, None]
        set_distance = SetDistance(
            exported.set_distance,
            exported.attention_sharpness,
            exported.centre_embeddings,
        )
        _, weights = set_distance(
            self.model.embed(seen)[None], stored["embedding"][None], together, others
        )
        weight, ids = weights.numpy()[0, 0, members], stored["example_id"][members]
        order = np.lexsort((-weight, ids != answer.nearest_prototype))
        return [
            Prototype(stored["image"][members[i]], str(ids[i]), float(weight[i]))
            for i in order[:_MOST_PROTOTYPES]
        ]


def show_answer(
    answer: Answer, exported: ExportedModel, prototypes: Sequence[Prototype] = ()
) -> Shown:
    """Returns the verdict, the score, the probabilities and the prototypes.

    The answer is to an image that could be read; the prototypes are those of the
    nearest class, the weightiest first.
    """
    score, threshold = answer.unknown_score or 0.0, answer.threshold
    is_unknown, distance = answer.is_unknown, answer.distance
    ends = scale_of(score, threshold, exported.threshold_range)
    low, high = (float(f"{end:.3g}") for end in ends)
    scale = {"minimum": low, "maximum": high, "step": (high - low) / _SCALE_STEPS}
    of_known = "Like none" if is_unknown else "One"
    note = (
        f"{of_known} of the known classes: the score {_number(score)} is "
        f"{'' if is_unknown else 'not '}above the threshold {_number(threshold)}."
    )
    probabilities = answer.probabilities or {}
    headers = ["class", "probability"]
    order = sorted(probabilities.items(), key=lambda entry: -entry[1])
    rows = [[name, f"{100 * probability:.1f} %"] for name, probability in order]
    nearest = None
    if distance is not None:
        headers.append("distance")
        rows = [[*row, _number(distance[row[0]])] for row in rows]
        nearest = min(distance, key=distance.__getitem__)
        note += f"\nNearest class: {nearest}, at distance {_number(distance[nearest])}."
    if answer.nearest_prototype is not None and not prototypes:
        note += (
            f"\nNearest prototype: {answer.nearest_prototype} (its image is not stored "
            "with the model)."
        )
    given = ", were it one of the known classes" if is_unknown else ""
    color = _UNKNOWN if is_unknown else _KNOWN
    shown: Shown = {
        "verdict": {"value": answer.class_name, "color": color},
        "note": {"value": note, "label": "Unknown" if is_unknown else "Known"},
        "score": {"value": score, "label": f"Score: {_rule(exported)}", **scale},
        "threshold": {"value": threshold, **scale},
        "likeliest": {"value": probabilities, "label": f"Class probabilities{given}"},
        "classes": {"value": {"headers": headers, "data": rows}},
    }
    if prototypes:
        shown["prototypes"] = {
            "value": [
                (x.image, f"{x.example_id}, weight {100 * x.weight:.1f} %")
                for x in prototypes
            ],
            "label": f"Training images that stand for the class {nearest}; those that "
            "weigh most come first",
        }
    return shown


def describe_model(exported: ExportedModel) -> list[list[str]]:
    """Returns rows on what the model is, and what is promised of it."""
    names, promise = exported.class_names, exported.promise
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    promised = "none: who exported the model chose the threshold"
    if promise is not None:
        promised = (
            f"at most {100 * promise.reject_rate:.1f} % of images like those of the "
            "known classes are rejected, on average over calibration sets. This "
            f"threshold was set on {promise.images} images, by whose luck it may "
            f"reject up to {100 * promise.highest_rate:.1f} %."
        )
    threshold = _number(exported.threshold)
    return [
        [f"{len(names)} known classes", ", ".join(names[:_MOST_NAMES]) + more],
        ["Rule", f"unknown where the score is above {threshold}: {_rule(exported)}"],
        ["Promise", promised],
    ]


def scale_of(
    score: float, threshold: float, limits: tuple[float, float]
) -> tuple[float, float]:
    """Returns the ends of a scale that shows a score and a threshold well apart.

    `limits` are the lowest and highest score of the rule.
    """
    low, high = limits
    if low < -_LARGEST_LIMIT:
        reach = max(1.25 * abs(score - threshold), 0.5 * abs(threshold), 1e-3)
        return threshold - reach, threshold + reach
    # A threshold that is small for the rule would vanish at the left end.
    reach = max(2.0 * (threshold - low), 1.1 * (score - low), 1e-6)
    return low, min(low + reach, max(high, score))


def _rule(exported: ExportedModel) -> str:
    """Says what the score is."""
    known = scores_in([exported.rule])
    return f"{known[0].meaning} ({known[0].title})" if known else exported.rule


def _number(value: float) -> str:
    """Renders a number to four digits, with a minus sign that does not break."""
    return f"{value:.4g}".replace("-", "\u2212")
