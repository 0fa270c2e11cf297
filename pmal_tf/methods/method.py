"""What a method of open set recognition declares.

A method is a file or folder of `pmal_tf.methods` with a `METHOD`. It owns its settings,
which become flags and enter the keys of its stages; its stages; and what it is judged
by. Everything else iterates over the methods that are asked for. So that flags are read
without TensorFlow, a method's file loads it inside its functions only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pmal_tf.runtime.errors import PmalError

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from pmal_tf.methods.scorer import Scorer
    from pmal_tf.methods.trial import Trial
    from pmal_tf.runtime.stage import Stage

# From a path in the trial's folder, e.g. `optimize/model.keras`, to where the file is.
PathOf = Callable[[str], Path]


@dataclass(frozen=True)
class NoSettings:
    """Settings of a method that has none."""


class Method:
    """A method; subclasses say what theirs is.

    Attributes:
        name: The value of `--method`.
        title: What tables call it.
        Settings: Dataclass of its settings, made by `runtime.settings.setting`.
        scores: Names of the scores that it is judged by, its own first.
        beside: Methods that are judged beside it by default.
        baseline: The one of these that its results are compared with.
        result_of: Names of the stages that `load` reads from.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    Settings: ClassVar[type] = NoSettings
    scores: ClassVar[tuple[str, ...]] = ("mls", "msp")
    beside: ClassVar[tuple[str, ...]] = ("softmax",)
    baseline: ClassVar[str | None] = "softmax"
    result_of: ClassVar[tuple[str, ...]]

    @property
    def scores_file(self) -> str:
        """What the trial's folder calls the scores of the test images."""
        return f"scores_{self.name}.npz"

    def check(self, trial: Trial, settings: Any) -> None:
        """Checks, before there is any work, that the method can be trained so.

        Raises:
            PmalError: If it cannot.
        """

    def stages(self, trial: Trial, settings: Any) -> list[Stage]:
        """Returns the stages that train it, in order, with an instance of `Settings`.

        Stages of one name are one stage, whichever methods ask for it.
        """
        raise NotImplementedError

    def load(self, path_of: PathOf) -> Scorer:
        """Returns the trained method, from the files of the stages in `result_of`."""
        raise NotImplementedError


class NetworkMethod(Method):
    """A method that trains one network, from scratch, in one stage of its own name.

    A subclass says what stands on the embedding (`head`) and what is minimised
    (`losses`); by default a linear layer and the cross-entropy.
    """

    @property
    def result_of(self) -> tuple[str, ...]:  # type: ignore[override]
        """The stage of its name."""
        return (self.name,)

    def check(self, trial: Trial, settings: Any) -> None:
        """Checks that no setting is given that these losses do not know."""
        smoothing = trial.recipe.label_smoothing
        if smoothing:
            raise PmalError(
                f"The losses of {self.name} take labels as they are. Received: "
                f"label_smoothing={smoothing}. Leave --label_smoothing at 0, or take "
                f"{self.name} out of --method and --compare."
            )

    def head(
        self, embedding: keras.KerasTensor, num_classes: int, settings: Any
    ) -> dict[str, keras.KerasTensor]:
        """Returns `logits` [batch, K], and whatever else the losses need, by name.

        `embedding` is [batch, D], at least float32.
        """
        import keras

        from pmal_tf.backbones.layers import full_precision

        head = keras.layers.Dense(num_classes, dtype=full_precision(), name="logits")
        return {"logits": head(embedding)}

    def losses(
        self, outputs: dict[str, tf.Tensor], label: tf.Tensor, settings: Any
    ) -> dict[str, tf.Tensor]:
        """Returns `loss`, which is minimised, and its parts, [batch] each.

        `outputs` are what `head` returned, and `embedding`; `label` are [batch] class
        indices.
        """
        from pmal_tf.training.losses import classification_loss

        return {"loss": classification_loss(outputs["logits"], label)}

    def stages(self, trial: Trial, settings: Any) -> list[Stage]:
        """Returns the one stage."""
        from pmal_tf.methods.network_stage import network_stage

        return [network_stage(trial, self, settings)]

    def load(self, path_of: PathOf) -> Scorer:
        """Returns the trained network's scorer."""
        from pmal_tf.methods.loading import load_model
        from pmal_tf.methods.scorer import Scorer

        return Scorer(load_model(path_of(f"{self.name}/model.keras")))
