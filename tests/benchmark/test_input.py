import pytest

from pmal_tf.benchmark import input as input_benchmark
from pmal_tf.benchmark.settings import BenchmarkSettings
from pmal_tf.runtime.errors import PmalError


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(input_benchmark, "_REPETITIONS", 2)
    monkeypatch.setattr(input_benchmark, "_PIPELINE_SECONDS", 0.1)
    monkeypatch.setattr(input_benchmark, "_STEP_SECONDS", 0.1)


def test_the_pipeline_of_what_is_prepared_is_measured_beside_the_step(tmp_path):
    text, measurements = input_benchmark.run(BenchmarkSettings(data_dir=str(tmp_path)))
    values = {m.name: m for m in measurements}
    assert set(values) == {
        "pipeline_over_step_digits",
        "rand_augment_over_step_digits",
        "first_epoch_over_step_digits",
        "peak_memory",
    }
    pipeline = values["pipeline_over_step_digits"]
    assert pipeline.value == pipeline.ours / pipeline.reference > 5
    assert (
        values["first_epoch_over_step_digits"].ours
        < values["rand_augment_over_step_digits"].ours
        < pipeline.ours
    )
    assert values["peak_memory"].value > 100
    assert "8 pixels, once read at " in text
    assert "Not prepared, so not measured: cifar10, " in text


def test_a_dataset_that_is_named_and_not_there_is_an_error(tmp_path):
    with pytest.raises(PmalError, match="'mnist' is not prepared"):
        input_benchmark.run(
            BenchmarkSettings(datasets=("mnist",), data_dir=str(tmp_path))
        )
