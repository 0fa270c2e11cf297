"""A deep ensemble: several softmax classifiers that answer together.

The members are M^1 .. M^n, which differ by their first weights, the order of the images
and dropout. They say the mean of their logits f_m,

    SoftMax(mean_m f_m)_k = prod_m p_mk^(1/n) / sum_j prod_m p_mj^(1/n),

so that probabilities are the normalised geometric mean of the members': a class must
be probable to all of them, where the arithmetic mean of the source asks for it on
average. Unlike the logarithm of that mean, mean logits keep their level, which the
largest logit rejects by; members that raise different ones cancel each other's. The
embedding is the members' side by side: its squared distances are the sums of theirs.

With PMAL's U classifiers and one more, an ensemble takes as many epochs of training as
PMAL's two stages of equal length, and as many times the arithmetic at inference as it
has members. Source: B. Lakshminarayanan et al., "Simple and Scalable Predictive
Uncertainty Estimation using Deep Ensembles", NeurIPS 2017, without its adversarial
training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pmal_tf.methods.method import PathOf
from pmal_tf.methods.softmax import Softmax
from pmal_tf.runtime.settings import Interval, check_settings, setting

if TYPE_CHECKING:
    import keras

    from pmal_tf.methods.scorer import Scorer
    from pmal_tf.methods.trial import Trial
    from pmal_tf.runtime.stage import Stage, Work

_MODEL = "ensemble/model.keras"


@dataclass(frozen=True)
class EnsembleSettings:
    """Deep ensemble."""

    ensemble_size: int = setting(
        3,
        "Classifiers of the ensemble; one more than --num_models costs as much "
        "training as PMAL.",
        allowed=Interval(low=2),
    )

    def __post_init__(self) -> None:
        check_settings(self)


class Ensemble(Softmax):
    """Softmax classifiers, those of mining among them, with the mean of their logits.

    Their one network is a stage's result, so that it is exported as any other.
    """

    name = "ensemble"
    title = "ensemble"
    Settings = EnsembleSettings
    beside: ClassVar[tuple[str, ...]] = ("softmax",)
    baseline: ClassVar[str | None] = "softmax"
    result_of: ClassVar[tuple[str, ...]] = ("ensemble",)

    def stages(self, trial: Trial, settings: Any) -> list[Stage]:
        """Returns the members' stages, and the one that makes one network of them."""
        from pmal_tf.methods.classifier_stage import classifier_stage
        from pmal_tf.runtime.stage import Stage

        members = [classifier_stage(trial, m) for m in range(settings.ensemble_size)]
        needs = tuple(member.name for member in members)
        # The chief alone does it: nothing is computed.
        merging = Stage(self.name, self.name, _merge, needs, distributed=False)
        return [*members, merging]

    def load(self, path_of: PathOf) -> Scorer:
        """Returns the scorer of the members' one network."""
        from pmal_tf.methods.loading import load_model
        from pmal_tf.methods.scorer import Scorer

        return Scorer(load_model(path_of(_MODEL)))


def _merge(work: Work) -> dict[str, Any]:
    """Writes the network of the members that the stage needs."""
    from pmal_tf.methods.loading import load_model
    from pmal_tf.runtime.files import write_atomically

    paths = [work.path_of(f"{name}/model.keras") for name in work.results]
    network = merged_network([load_model(path) for path in paths])
    write_atomically(work.new_path(_MODEL), network.save)
    return {}


def merged_network(classifiers: Sequence[keras.Model]) -> keras.Model:
    """Returns one network of several classifiers, whose layers it shares.

    It is a functional model from [batch, H, W, 3] images to `{"embedding": [batch, D_1
    + ... + D_n], "logits": [batch, K]}`, at least in float32. Members are layers of it,
    since the names of theirs are the same.

    Raises:
        PmalError: If a classifier does not end in a linear layer.
    """
    import keras

    from pmal_tf.backbones.classifier import embedding_and_logits
    from pmal_tf.backbones.layers import full_precision

    members = [embedding_and_logits(classifier) for classifier in classifiers]
    for number, member in enumerate(members):
        member.name = f"member_{number}"
    image, full = members[0].input, full_precision()
    image = keras.Input(image.shape[1:], dtype=image.dtype, name=image.name)
    said = [member(image) for member in members]
    average = keras.layers.Average(dtype=full, name="logits")
    beside = keras.layers.Concatenate(dtype=full, name="embedding")
    outputs = {
        "embedding": beside([each["embedding"] for each in said]),
        "logits": average([each["logits"] for each in said]),
    }
    return keras.Model(image, outputs, name="ensemble")


METHOD = Ensemble()
