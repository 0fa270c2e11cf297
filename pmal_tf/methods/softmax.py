"""A classifier trained with the cross-entropy, Eq. 1: M^1 of the paper."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pmal_tf.methods.method import Method, PathOf

if TYPE_CHECKING:
    from pmal_tf.methods.scorer import Scorer
    from pmal_tf.methods.trial import Trial
    from pmal_tf.runtime.stage import Stage


class Softmax(Method):
    """The first of the classifiers that mining needs, judged by itself."""

    name = "softmax"
    title = "softmax (M^1)"
    scores = ("mls", "msp", "class_mean")
    beside: ClassVar[tuple[str, ...]] = ()
    baseline: ClassVar[str | None] = None
    result_of: ClassVar[tuple[str, ...]] = ("pretrain_0",)

    def stages(self, trial: Trial, settings: Any) -> list[Stage]:
        """Returns the one stage, which PMAL has too."""
        from pmal_tf.methods.classifier_stage import classifier_stage

        return [classifier_stage(trial, 0)]

    def load(self, path_of: PathOf) -> Scorer:
        """Returns the classifier's scorer."""
        from pmal_tf.backbones.classifier import embedding_and_logits
        from pmal_tf.methods.loading import load_model
        from pmal_tf.methods.scorer import Scorer

        (stage,) = self.result_of
        classifier = load_model(path_of(f"{stage}/model.keras"))
        return Scorer(embedding_and_logits(classifier))


METHOD = Softmax()
