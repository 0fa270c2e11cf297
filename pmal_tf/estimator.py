"""Open set classifiers as scikit-learn has them: from arrays to an answer.

`OpenSetClassifier(method=...)` trains any method of `pmal_tf.methods`, `PMALClassifier`
the default one. Their parameters are the settings of the same names, found where the
flags of `python -m pmal_tf.run` are; they are stored as given and checked by `fit`.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from pmal_tf.data.arrays import checked_images, checked_labels, collected
from pmal_tf.data.images import LabelledImages, Source
from pmal_tf.data.settings import AUGMENTATION
from pmal_tf.data.trial_images import TrialImages
from pmal_tf.methods import registry
from pmal_tf.methods.scorer import Scorer
from pmal_tf.methods.trial import Trial
from pmal_tf.results.calibration import WITHHELD, calibrate
from pmal_tf.results.scores.score import Score
from pmal_tf.results.settings import EvaluationSettings
from pmal_tf.runtime.errors import PmalError, first_line
from pmal_tf.runtime.files import save_arrays
from pmal_tf.runtime.precision import check_precision, in_precision
from pmal_tf.runtime.settings import settings_in
from pmal_tf.runtime.stage import METRICS, Work
from pmal_tf.serving.answers import UNKNOWN, UNKNOWN_ID, rejection_score
from pmal_tf.serving.export import export_saved_model
from pmal_tf.workflow.config import GROUPS, Config
from pmal_tf.workflow.engine import merged

# The settings of every method: two whole groups, and some of the others.
_GROUPS = ("network", "recipe")
_SINGLE = {
    *("seed", "augment", *AUGMENTATION),
    *("calibration_fraction", "reject_rate", "rule"),
}
# Not those of a benchmark: a threshold is wanted, and digits are not to be mirrored.
_DEFAULTS = {"calibration_fraction": 0.1, "augment": "off"}
# What the arrays of a file are called, beside statistics.
_STATE, _FILE = "state", "file:"


def _with_parameters(*methods: str, **first: str) -> Callable[[type], type]:
    """Gives a class a constructor that takes, and documents, the methods' settings."""
    fields = [field for owner, field in registry.owners().values() if owner in methods]
    for name, group in GROUPS.items():
        fields += [
            field
            for field in settings_in(group)
            if name in _GROUPS or field.name in _SINGLE
        ]
    defaults = {f.name: _DEFAULTS.get(f.name, f.default) for f in fields}
    defaults = first | defaults

    def add(made: type) -> type:
        made.__annotations__ = {name: type(value) for name, value in defaults.items()}
        for name, value in defaults.items():
            setattr(made, name, value)
        helps = "".join(f"\n    {f.name}: {f.metadata['help']}" for f in fields)
        made.__doc__ = f"{made.__doc__}\nArgs:{helps}\n"
        return dataclass(kw_only=True, eq=False, repr=False)(made)

    return add


class _Classifier(ClassifierMixin, BaseEstimator):
    """What classifiers by all methods do; see `OpenSetClassifier`."""

    method: str

    def fit(self, X: Any, y: Any = None) -> Self:
        """Trains the method from nothing, and sets the threshold.

        Seeds Python's, NumPy's and Keras' generators on the way.

        Args:
            X: [n, h, w, 3] RGB images on the 0-255 scale, uint8 or other numbers; or a
                finite `tf.data.Dataset` of (image, label), batched or not.
            y: [n] labels of known classes, integers or strings; None with a dataset.

        Raises:
            PmalError: If images or labels are not so, or a parameter is not allowed.
        """
        config = self._config()
        X, y = collected(X, y)
        image = checked_images(X)
        if config.data.rand_augment and image.dtype != np.uint8:
            raise PmalError(
                f"RandAugment works on images of type uint8. Received: {image.dtype}, "
                f"with rand_augment={config.data.rand_augment}. Convert X, or leave "
                "rand_augment at 0."
            )
        label = checked_labels(y, len(image), (UNKNOWN_ID, UNKNOWN))
        classes, first, index = np.unique(label, return_index=True, return_inverse=True)
        ids = np.arange(len(image)).astype(str)
        given = LabelledImages(image, index.astype(np.int32), ids)
        names = tuple(map(str, classes))
        # Nothing is tested here, but every known class must have a test image.
        source = Source(
            name="arrays",
            class_names=names,
            natural=True,
            load=lambda: (given, given.take(first)),
            own_split=(names, ()),
        )
        network = config.network.resolved()
        check_precision(network.precision)
        with tempfile.TemporaryDirectory() as folder:
            images = TrialImages(config.data, 0, config.run.seed, Path(folder))
            vars(images)["source"] = source  # Not the one that settings name.
            trial = Trial(
                0, config.run.seed, images, network, config.recipe, config.devices
            )
            with in_precision(network.precision):
                self._train(config, trial)
        self.classes_, self.image_shape_ = classes, image.shape[1:]
        if self._score.statistics is not None:
            outputs = self.scorer_.outputs(images.train.image)
            self._statistics = self._score.statistics(outputs, images.train.label)
        self.threshold_: float | None = None
        self.calibration_: dict[str, Any] | None = None
        if len(images.calibration):
            self.calibrate(images.calibration.image)
        return self

    def _config(self) -> Config:
        """Returns the parameters as a run has them, checked."""
        # Those of methods that are not in use stand at their defaults.
        defaults = {n: field.default for n, (_, field) in registry.owners().items()}
        given = {
            name: value.item() if isinstance(value, np.generic) else value
            for name, value in self.get_params(deep=False).items()
            if name not in defaults or value != defaults[name]
        }
        return Config(**{"method": self.method, **given}, compare=(), tensorboard=False)

    def _train(self, config: Config, trial: Trial) -> None:
        """Runs the method's stages; keeps the files that its model is read from."""
        method, folder = config.own_method, trial.images.folder
        settings = config.methods[method.name]
        method.check(trial, settings)
        for stage in merged(method.stages(trial, settings)):
            needs = dict.fromkeys(stage.needs, folder)
            stage.run(Work(stage.name, "", folder, folder, needs))
        read = []

        def path_of(name: str) -> Path:
            read.append(name)
            return folder / name

        self.method_, self.rule_ = method.name, config.rule
        self.__dict__ |= {"scorer_": method.load(path_of), "_statistics": {}}
        self.__dict__.pop("_score", None)
        self._files = {name: (folder / name).read_bytes() for name in read}
        lines = (folder / METRICS).read_text(encoding="utf-8").splitlines()
        self.history_ = [json.loads(line) for line in lines]

    @cached_property
    def scorer_(self) -> Scorer:
        """The trained method; PMAL's has the Keras `model` and the `prototypes`."""
        check_is_fitted(self, "classes_")
        with tempfile.TemporaryDirectory() as folder:
            for name, content in self._files.items():
                path = Path(folder, name)
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)
            return registry.get_method(self.method_).load(Path(folder).joinpath)

    @cached_property
    def _score(self) -> Score:
        """The score that says what is unknown."""
        return rejection_score(self.scorer_, self.rule_)

    def _answers(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """Returns [n, K] logits and [n] scores; checks the images."""
        check_is_fitted(self, "classes_")
        X, _ = collected(X)
        outputs = self.scorer_.outputs(checked_images(X, tuple(self.image_shape_)))
        return outputs["logits"], self._score.values(outputs, self._statistics)

    def calibrate(self, X: Any, *, reject_rate: float | None = None) -> Self:
        """Sets the threshold above which an image is unknown.

        `fit` does so on the share `calibration_fraction`, which it withholds from
        training. A further image like these is rejected with a probability of at most
        `reject_rate`; `calibration_` says what is promised.

        Args:
            X: Images of known classes that training never saw, as in `fit`.
            reject_rate: By default the parameter of this name.
        """
        scores, score = self._answers(X)[1], self._score
        rate = self.reject_rate if reject_rate is None else reject_rate
        EvaluationSettings(reject_rate=rate)  # Checks it.
        given, none = {score.field: scores}, {score.field: scores[:0]}
        found = calibrate(given, none, none, reject_rate=rate, source=WITHHELD)
        threshold = found["rules"][score.field]["threshold"]
        self.calibration_ = found
        # A distance of 0 may be computed as a little less.
        self.threshold_ = float(np.clip(threshold, score.low, score.high))
        return self

    def _set_threshold(self) -> float:
        """Returns the threshold, which must have been set."""
        check_is_fitted(self, "classes_")
        if self.threshold_ is None:
            raise PmalError(
                "A threshold must say above which score an image is unknown. Received: "
                "a model without one. Call `calibrate` with images of known classes "
                "that training never saw, or fit with calibration_fraction above 0."
            )
        return self.threshold_

    def predict(self, X: Any) -> np.ndarray:
        """Returns [n] labels; unknown is -1 among integers, `unknown` among strings."""
        threshold, (logits, scores) = self._set_threshold(), self._answers(X)
        label = self.classes_[logits.argmax(axis=1)]
        unknown = UNKNOWN if label.dtype.kind == "U" else UNKNOWN_ID
        return np.where(scores > threshold, unknown, label)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Returns [n, K] probabilities of the known classes, in order of `classes_`."""
        return softmax(self._answers(X)[0].astype(np.float64), axis=1)

    def score_unknown(self, X: Any) -> np.ndarray:
        """Returns [n] scores by `rule_`; larger means more likely unknown."""
        return self._answers(X)[1]

    def export(self, folder: str | Path, *, xla: bool = False) -> None:
        """Writes a SavedModel with the threshold inside, as `pmal_tf.run` does.

        Args:
            folder: The version folder to make, e.g. `saved_models/mine/1`.
            xla: Whether to add the signature `serving_images_xla`.
        """
        threshold, method = self._set_threshold(), registry.get_method(self.method_)
        export_saved_model(
            self.scorer_,
            folder,
            class_names=[str(name) for name in self.classes_],
            threshold=threshold,
            rule=self.rule_,
            xla=xla,
            metadata={"method": method.title, "calibration": self.calibration_},
            statistics=self._statistics,
        )

    def save(self, path: str | Path) -> None:
        """Writes all of the classifier into one file, e.g. `mine.npz`."""
        check_is_fitted(self, "classes_")
        state = self.__getstate__()
        files, statistics = state.pop("_files"), state.pop("_statistics")
        state |= {"class": type(self).__name__, "classes_": self.classes_.tolist()}
        arrays = {_STATE: np.array(json.dumps(state, default=np.generic.item))}
        arrays |= {f"{_FILE}{n}": np.frombuffer(c, np.uint8) for n, c in files.items()}
        save_arrays(Path(path), {**arrays, **statistics})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Returns the classifier that `save` wrote.

        Raises:
            PmalError: If there is none of this class.
        """
        try:
            # Opened here: NumPy leaves a file open that turns out to be damaged.
            with Path(path).open("rb") as file, np.load(file) as stored:
                arrays = dict(stored)
            state = json.loads(str(arrays.pop(_STATE)))
            if (given := state.pop("class")) != cls.__name__:
                raise ValueError(f"a {given}")
        except (
            OSError,
            EOFError,
            ValueError,
            KeyError,
            TypeError,
            zipfile.BadZipFile,
            zlib.error,
        ) as error:
            raise PmalError(
                f"The file must be what {cls.__name__}.save wrote. Received: {path}: "
                f"{first_line(error)}"
            ) from error
        files = [name for name in arrays if name.startswith(_FILE)]
        contents = {n.removeprefix(_FILE): arrays.pop(n).tobytes() for n in files}
        state |= {"_files": contents, "_statistics": arrays}
        made = cls()
        made.__dict__ |= {**state, "classes_": np.array(state["classes_"])}
        return made

    def __getstate__(self) -> dict[str, Any]:
        # The model is made again from its files.
        made_again = ("scorer_", "_score")
        return {n: v for n, v in super().__getstate__().items() if n not in made_again}


@_with_parameters(*registry.all_methods(), method=registry.DEFAULT)
class OpenSetClassifier(_Classifier):
    """Classifies images of known classes, and answers unknown to any other.

    After `fit` there are `classes_`, `threshold_`, `calibration_` (what is promised of
    it), `history_` (an entry per epoch of every stage) and `scorer_`. `method` names
    the method; parameters of other methods must stand at their defaults.
    """


@_with_parameters(registry.DEFAULT)
class PMALClassifier(_Classifier):
    """`OpenSetClassifier` by Prototype Mining And Learning."""

    method = registry.DEFAULT
