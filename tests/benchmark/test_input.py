import keras
import pytest

from pmal_tf.benchmark import input as input_benchmark
from pmal_tf.benchmark.settings import BenchmarkSettings
from pmal_tf.runtime.errors import PmalError


@pytest.fixture
def quick(monkeypatch):
    """A network that compiles quickly; whatever is timed takes half a second."""

    def network(name, shape, num_classes):
        scale, flat = keras.layers.Rescaling(1 / 255), keras.layers.Flatten()
        layers = [keras.Input(shape), scale, flat, keras.layers.Dense(num_classes)]
        return keras.Sequential(layers)

    def half_a_second(work, repetitions, least_seconds):
        work()
        return [[0.5] * repetitions]

    monkeypatch.setattr(input_benchmark, "build_classifier", network)
    monkeypatch.setattr(input_benchmark, "time_in_turn", half_a_second)


@pytest.mark.usefixtures("quick")
def test_the_pipeline_of_what_is_prepared_is_measured_beside_the_step(tmp_path):
    text, measurements = input_benchmark.run(BenchmarkSettings(data_dir=str(tmp_path)))
    values = {m.name: m for m in measurements}
    assert set(values) == {
        "pipeline_over_step_digits",
        "rand_augment_over_step_digits",
        "first_epoch_over_step_digits",
        "peak_memory",
    }
    for name in ("pipeline", "rand_augment"):
        found = values[f"{name}_over_step_digits"]
        assert (found.value, found.ours, found.reference) == (1.0, 256.0, 256.0)
        assert found.samples == ([256.0] * 5, [256.0] * 5)
    assert 0 < values["first_epoch_over_step_digits"].ours < 256
    assert values["peak_memory"].value > 100
    assert "8 pixels, once read at " in text
    assert "Not prepared, so not measured: cifar10, " in text


def test_a_dataset_that_is_named_and_not_there_is_an_error(tmp_path):
    with pytest.raises(PmalError, match="'mnist' is not prepared"):
        input_benchmark.run(
            BenchmarkSettings(datasets=("mnist",), data_dir=str(tmp_path))
        )
