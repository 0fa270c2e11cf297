"""One softmax classifier, trained for as many epochs as all stages of PMAL together.

What PMAL reaches with U pre-trained classifiers and a second stage, more training of
one network may reach as well. This one starts from M^1's weights and sees images in
M^1's order, so that from M^1 it differs by length only; the schedule is stretched to
it. Prototypes that pass with a batch are not counted as images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from pmal_tf.methods.softmax import Softmax
from pmal_tf.runtime.settings import Interval, check_settings, setting

if TYPE_CHECKING:
    from pmal_tf.methods.trial import Trial
    from pmal_tf.runtime.stage import Stage
    from pmal_tf.training.recipe import Recipe


@dataclass(frozen=True)
class SoftmaxLongSettings:
    """Softmax, trained longer."""

    long_epochs: int = setting(
        0,
        "Epochs of the classifier of softmax_long; 0: those of PMAL with two "
        "classifiers, 2 times --epochs and --optimize_epochs.",
        allowed=Interval(low=0),
    )

    def __post_init__(self) -> None:
        check_settings(self)


class SoftmaxLong(Softmax):
    """M^1, had it been trained for longer."""

    name = "softmax_long"
    title = "softmax (long)"
    Settings = SoftmaxLongSettings
    beside: ClassVar[tuple[str, ...]] = ("softmax",)
    baseline: ClassVar[str | None] = "softmax"
    result_of: ClassVar[tuple[str, ...]] = ("softmax_long",)

    def check(self, trial: Trial, settings: Any) -> None:
        """Checks that the longer recipe is allowed too."""
        stretched(trial.recipe, settings.long_epochs)

    def stages(self, trial: Trial, settings: Any) -> list[Stage]:
        """Returns the one stage."""
        from pmal_tf.methods.classifier_stage import classifier_stage

        longer = replace(trial, recipe=stretched(trial.recipe, settings.long_epochs))
        return [classifier_stage(longer, 0, name=self.name, kind=self.name)]


def stretched(recipe: Recipe, epochs: int) -> Recipe:
    """Returns a recipe of `epochs` epochs; 0: of twice its own and the second stage's.

    Cosines and the triangle end with the last step anyway; the drops of the step
    schedule move apart in proportion. The warm-up keeps its length.

    Raises:
        PmalError: If so short a recipe is not allowed.
    """
    epochs = epochs or 2 * recipe.epochs + recipe.continued.epochs
    drop_every = max(1, round(recipe.drop_every * epochs / recipe.epochs))
    return replace(recipe.first, epochs=epochs, drop_every=drop_every)


METHOD = SoftmaxLong()
