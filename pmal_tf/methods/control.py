"""The control: M^1 trained on with the plain loss, for as long as PMAL was.

Most of what two-stage training gains may be the second stage's warm start; only against
this model can one see what the prototypes added. Order and augmentation are those of
the optimisation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pmal_tf.methods.softmax import Softmax

if TYPE_CHECKING:
    from pmal_tf.methods.trial import Trial
    from pmal_tf.runtime.stage import Stage


class Control(Softmax):
    """A softmax classifier that goes on from M^1."""

    name = "control"
    title = "control (M^1 trained on)"
    beside = ("softmax",)
    baseline = "softmax"
    result_of = ("control",)

    def stages(self, trial: Trial, settings: Any) -> list[Stage]:
        """Returns M^1's stage, and the one that goes on from it."""
        from pmal_tf.methods.classifier_stage import trained_on_stage

        first = super().stages(trial, settings)
        return [*first, trained_on_stage(trial, "control", first[0].name, "optimize")]


METHOD = Control()
