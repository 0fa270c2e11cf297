"""From a trained model and test images to scores and metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pmal_tf.data.images import LabelledImages
from pmal_tf.results.metrics import closed_set_metrics, open_set_metrics
from pmal_tf.results.scores.score import Score
from pmal_tf.runtime.files import save_arrays


@dataclass(frozen=True)
class ImageScores:
    """What a model said of every test image; the content of `scores.npz`.

    Attributes:
        example_id: [n] strings; `is_unknown` is [n] boolean.
        class_index: [n] true class, -1 for unknown classes.
        predicted: [n] class of the largest logit.
        scores: [n] float64 by the field of each score.
        kept: `distance` [n, K] and `embedding` [n, D], where the model has them.
    """

    example_id: np.ndarray
    is_unknown: np.ndarray
    class_index: np.ndarray
    predicted: np.ndarray
    scores: dict[str, np.ndarray]
    kept: dict[str, np.ndarray]

    def scores_of(self, chosen: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the scores of the images chosen by [n] booleans, by field."""
        return {field: score[chosen] for field, score in self.scores.items()}

    def save(self, path: Path) -> None:
        """Writes all arrays under their names."""
        named = {n: v for n, v in vars(self).items() if isinstance(v, np.ndarray)}
        save_arrays(path, {**named, **self.scores, **self.kept})


def computable(
    scores: Sequence[Score], outputs: Mapping[str, np.ndarray]
) -> tuple[Score, ...]:
    """Returns the scores for which a model's outputs suffice."""
    return tuple(s for s in scores if all(outputs.get(n) is not None for n in s.needs))


def score_images(
    outputs: Mapping[str, np.ndarray],
    images: LabelledImages,
    scores: Sequence[Score],
    statistics: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> ImageScores:
    """Scores test images, labels -1 for unknown classes, from a model's outputs.

    `statistics` are what some scores measure against, by the scores' names.
    """
    fitted = statistics or {}
    return ImageScores(
        example_id=images.example_id,
        is_unknown=images.is_unknown,
        class_index=images.label,
        predicted=outputs["logits"].argmax(axis=1).astype(np.int32),
        scores={s.field: s.values(outputs, fitted.get(s.name, {})) for s in scores},
        kept={n: outputs[n] for n in ("distance", "embedding") if n in outputs},
    )


def summarise(scores: ImageScores, num_classes: int) -> dict:
    """Computes the metrics of one model, as they stand in `result.json`.

    Returns:
        `acc`, `macro_f1`, and for each score a dict of `open_set_metrics`, or None
        where no image is unknown.
    """
    unknown, known = scores.is_unknown, ~scores.is_unknown
    class_index, predicted = scores.class_index[known], scores.predicted[known]
    result: dict = closed_set_metrics(class_index, predicted, num_classes)
    correct = predicted == class_index
    for field, score in scores.scores.items():
        result[field] = (
            open_set_metrics(score[known], score[unknown], correct)
            if unknown.any()
            else None
        )
    return result
