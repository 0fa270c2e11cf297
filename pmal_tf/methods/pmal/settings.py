"""Settings of PMAL: of its mining (Section 4) and of its optimisation (Section 5)."""

from __future__ import annotations

from dataclasses import dataclass

from pmal_tf.mining.settings import MiningSettings
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.settings import Interval, setting

# Those that a model is built with.
MODEL_SETTINGS = (
    *("margin", "prototype_weight", "prototype_mode", "prototype_gradient"),
    *("set_distance", "attention_sharpness", "centre_embeddings"),
)


@dataclass(frozen=True)
class PMALSettings(MiningSettings):
    """PMAL; the defaults are the paper's.

    Raises:
        PmalError: If a value is not allowed, or is given where it has no effect.
    """

    num_models: int = setting(
        2,
        "Number U of pre-trained classifiers.",
        allowed=Interval(low=2),
        common=True,
    )
    embedding_precision: str = setting(
        "trained",
        "Number type of the networks' arithmetic when they embed the training images; "
        "trained: as in training.",
        allowed=("trained", "float32", "mixed_bfloat16", "mixed_float16"),
    )
    mining_repeats: int = setting(
        0,
        "Times that mining is repeated with other classifiers, for a figure of how "
        "much prototypes vary; each trains --num_models more.",
        allowed=Interval(low=0),
    )
    margin: float = setting(
        0.5, "Margin delta of Eq. 9.", allowed=Interval(low=0, high=2), common=True
    )
    prototype_weight: float = setting(
        1.0, "Weight lambda_p of Eq. 10.", allowed=Interval(low=0), common=True
    )
    set_distance: str = setting(
        "attention",
        "Distance to a class: to the attention-weighted mean of its prototypes, Eq. 11 "
        "(attention), or to its nearest prototype (nearest).",
        allowed=("attention", "nearest"),
    )
    attention_sharpness: float = setting(
        0.0,
        "Sharpness s of the attention: SoftMax(s cos(z, p)) in place of Eq. 11's "
        "SoftMax(z p / sqrt(D)), which 0 stands for. The nearest prototype is the "
        "nearest at any.",
        allowed=Interval(low=0),
    )
    centre_embeddings: bool = setting(
        False,
        "Take the mean of all prototypes as the origin: it is subtracted from "
        "embeddings and prototypes before Eq. 11.",
    )
    prototype_mode: str = setting(
        "joint",
        "In every step, all prototypes pass through the network with the batch "
        "(joint), or by themselves in inference mode without a gradient (inference), "
        "or only a few do with the batch while the others stand as they were last "
        "embedded (bank).",
        allowed=("joint", "inference", "bank"),
    )
    prototype_gradient: bool = setting(
        True, "Let the gradient flow through the prototypes that pass with the batch."
    )
    prototype_every: int = setting(
        1,
        "Steps between two embeddings of the prototypes with "
        "--prototype_mode=inference.",
        allowed=Interval(low=1),
    )
    prototype_slice: int = setting(
        6,
        "Prototypes in every step with --prototype_mode=bank.",
        allowed=Interval(low=1),
    )
    init: str = setting(
        "pretrained",
        "Start of the optimisation: pretrained (M^1) or scratch.",
        allowed=("pretrained", "scratch"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        owners = {"prototype_every": "inference", "prototype_slice": "bank"}
        for name, mode in owners.items():
            value, default = getattr(self, name), getattr(type(self), name)
            if value != default and self.prototype_mode != mode:
                raise PmalError(
                    f"`{name}` has an effect with prototype_mode={mode} alone. "
                    f"Received: {name}={value} with "
                    f"prototype_mode={self.prototype_mode}. Leave it out, or add "
                    f"--prototype_mode={mode}."
                )
