"""Prototype Mining And Learning (PMAL, AAAI 2022), Sections 4 and 5."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pmal_tf.methods.method import Method, PathOf
from pmal_tf.methods.pmal.settings import PMALSettings

if TYPE_CHECKING:
    from pmal_tf.methods.scorer import Scorer
    from pmal_tf.methods.trial import Trial
    from pmal_tf.runtime.stage import Stage


class PMAL(Method):
    """Classifiers, prototypes mined in their embeddings, training against these."""

    name = "pmal"
    title = "PMAL"
    Settings = PMALSettings
    scores = ("dr", "msp", "mls", "class_mean")
    baseline = "control"
    result_of = ("optimize", "mining")
    # Of the paper itself: other methods name theirs.
    scores_file = "scores.npz"

    def check(self, trial: Trial, settings: Any) -> None:
        """Checks that there can be so few anchors."""
        from pmal_tf.mining.anchors import LEAST_PER_CLASS, check_anchors

        if settings.topology_anchors:
            least = LEAST_PER_CLASS * trial.num_classes
            check_anchors(settings.topology_anchors, least)

    def stages(self, trial: Trial, settings: Any) -> list[Stage]:
        """Returns those of mining, and the optimisation."""
        from pmal_tf.methods.pmal.mine_stages import mining_stages
        from pmal_tf.methods.pmal.optimize_stage import optimize_stage

        return [*mining_stages(trial, settings), optimize_stage(trial, settings)]

    def load(self, path_of: PathOf) -> Scorer:
        """Returns the optimised model's scorer."""
        from pmal_tf.methods.loading import load_model
        from pmal_tf.methods.pmal.prototypes import Prototypes

        model = load_model(path_of("optimize/model.keras"))
        return model.scorer(Prototypes.load(path_of("mining/prototypes.npz")))


METHOD = PMAL()
