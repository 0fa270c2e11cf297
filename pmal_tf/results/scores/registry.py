"""The scores by name: every file of this folder that has a `SCORE`."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from pmal_tf.results import scores
from pmal_tf.results.scores.score import Score
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.plugins import found_in


@functools.cache
def all_scores() -> dict[str, Score]:
    """Returns every score by its name, without loading TensorFlow."""
    return {score.name: score for score in found_in(scores, "SCORE")}


def score_names() -> tuple[str, ...]:
    """Returns what scores may be called: by their names, and as files call them."""
    fields = (score.field for score in all_scores().values())
    return tuple(dict.fromkeys((*all_scores(), *fields)))


def get_score(name: str) -> Score:
    """Returns a score by its name, or by what files call it.

    Raises:
        PmalError: If there is none.
    """
    for score in all_scores().values():
        if name in (score.name, score.field):
            return score
    raise PmalError(
        f"A score must be one of {', '.join(all_scores())}. Received: {name!r}"
    )


def get_scores(names: Iterable[str]) -> tuple[Score, ...]:
    """Returns scores in the order of their names, each once; see `get_score`."""
    return tuple(dict.fromkeys(get_score(name) for name in names))


def scores_in(fields: Iterable[str]) -> tuple[Score, ...]:
    """Returns the scores that a file has, in the order of its fields."""
    by_field = {score.field: score for score in all_scores().values()}
    return tuple(by_field[field] for field in fields if field in by_field)
