"""The tiled sums against full distance matrices, at sizes where tiles matter."""

import time

import numpy as np
import pytest
import tensorflow as tf
from scipy.spatial.distance import cdist
from topology_oracle import oracle_bound, oracle_distances, oracle_exponent

from pmal_tf.mining import progress, replicas, robustness, tiles
from pmal_tf.mining.robustness import topology_robustness
from pmal_tf.mining.tiles import TilePlan, difference_sums
from pmal_tf.runtime.distribution import open_strategy
from pmal_tf.runtime.errors import PmalError


def spaces_of(rng, count, classes=6, noise=0.2):
    """Two noisy views of the same points, and kernels that leave them as they are."""
    base = rng.normal(size=(count, classes))
    views = [base + noise * rng.normal(size=base.shape) for _ in range(2)]
    return views, [np.eye(classes)] * 2


def within_bound(topology, embeddings, kernels, **options):
    """Computes robustness and compares it with full float64 matrices."""
    result = topology_robustness(embeddings, kernels, topology=topology, **options)
    distances = [oracle_distances(*s) for s in zip(embeddings, kernels, strict=True)]
    expected = oracle_exponent(*distances, topology)
    error = np.abs(result.exponent - expected)
    assert (error <= oracle_bound(expected, distances, topology)).all(), error.max()
    return result


@pytest.mark.parametrize("topology", ["correlation", "chord", "rms"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("count", [3, 383, 384, 385, 2500])
def test_exponents_are_those_of_full_matrices(rng, count, dtype, topology):
    within_bound(topology, *spaces_of(rng, count), dtype=dtype)


def test_two_images_have_topologies_of_one_shape(rng):
    # (0, d) and (0, d'): whatever d and d', Pearson is 1.
    result = topology_robustness(*spaces_of(rng, 2))
    np.testing.assert_allclose(result.exponent, 0.0, atol=1e-6)


@pytest.mark.parametrize("topology", ["correlation", "chord", "rms"])
@pytest.mark.parametrize("copies", [2, 30])
def test_equal_images_are_at_distance_zero(rng, copies, topology):
    embeddings, kernels = spaces_of(rng, 40)
    # Expanded squares of float32 would leave 3e-4 of their norms between them.
    order = rng.permutation(np.repeat(np.arange(40), copies))
    repeated = [z[order] for z in embeddings]
    result = within_bound(topology, repeated, kernels)
    for original in range(40):
        assert len(set(result.exponent[order == original])) == 1


def test_the_distance_to_oneself_is_zero_whatever_rounding_makes_of_it(rng):
    # The same logits in another order: all distances agree, but sums of products are
    # rounded otherwise, and of few images the own one is a large part.
    embeddings = [rng.normal(size=(3, 200))] * 2
    kernel = rng.normal(size=(200, 50))
    kernels = [kernel, kernel[:, rng.permutation(50)]]
    for topology in ("chord", "rms"):
        within_bound(topology, embeddings, kernels)
    # Pearson is 1, and of so few images float32 tells it from 1 by some 1e-6.
    assert (topology_robustness(embeddings, kernels).exponent < 1e-6).all()


def test_views_that_nearly_agree_keep_their_digits(rng):
    within_bound("rms", *spaces_of(rng, 2500, noise=1e-3))


def test_weights_count_samples_several_times(rng):
    first, second = rng.normal(size=(2, 50, 4))
    weight = rng.integers(1, 5, 50)
    plan = TilePlan(50, 16, tf.float64)
    sums = np.zeros((3, 64))
    padded = [tf.constant(np.pad(z, ((0, 14), (0, 0)))) for z in (first, second)]
    assert list(difference_sums(*padded, weight, plan, out=sums)) == [1, 2, 3, 4]
    near, far = cdist(first, first), cdist(second, second)
    for own, values in zip(sums, ((near - far) ** 2, near, far), strict=True):
        np.testing.assert_allclose(own[:50], weight * (values @ weight), rtol=1e-12)
        np.testing.assert_array_equal(own[50:], 0.0)
    alone = np.zeros((1, 64))
    list(difference_sums(*padded, weight, plan, out=alone))
    np.testing.assert_array_equal(alone[0], sums[0])


def test_a_memory_budget_makes_tiles_smaller_down_to_the_least(monkeypatch):
    monkeypatch.setattr(tiles, "blocks_at_once", lambda: 2)
    plan = TilePlan.within(20_000, 6, tf.float32, 512 * 2**20)
    assert (plan.tile, plan.blocks, plan.padded) == (384, 53, 20_352)
    small = TilePlan.within(20_000, 6, tf.float32, 4 * 2**20)
    assert small.tile < 384
    assert TilePlan.memory(20_000, 6, tf.float32, small.tile) <= 4 * 2**20
    # The logits are 0.92 MiB, eight numbers per row 1.22, tiles next to nothing;
    # each further space adds 0.46 MiB, and two more sums 1.53.
    for more, least in (((2,), 3), ((5,), 4), ((2, 3), 4)):
        with pytest.raises(PmalError, match=rf"at least {least} for 20000 images.*=1$"):
            TilePlan.within(20_000, 6, tf.float32, 2**20, *more)


class Killed(BaseException):
    """Stands for a signal that nothing catches."""


@pytest.mark.parametrize("topology", ["correlation", "chord", "rms"])
@pytest.mark.parametrize("killed_after", [1, 2, 5])
def test_a_killed_computation_goes_on_to_the_same_bits(
    rng, killed_after, topology, tmp_path, monkeypatch
):
    # Two blocks of rows a pair, three pairs; one image is there three times, so that
    # sums are weighed by a number that is no power of two.
    (first, second), _ = spaces_of(rng, 600)
    first[:3], second[:3] = first[0], second[0]
    third = first + 0.3 * rng.normal(size=first.shape)
    third[:3] = third[0]
    kernels = [np.eye(6)] * 3
    arguments = ([first, second, third], kernels)
    options = {"topology": topology, "dtype": "float32"}
    whole = topology_robustness(*arguments, **options)
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_FILES", 0.0)
    path = tmp_path / "mining" / "unfinished.npz"
    sums, made = robustness.difference_sums, []

    def counted(*args, **kwargs):
        for result in sums(*args, **kwargs):
            made.append(result)
            yield result
            if len(made) == killed_after:
                raise Killed

    monkeypatch.setattr(robustness, "difference_sums", counted)
    with pytest.raises(Killed):
        topology_robustness(*arguments, **options, unfinished=path)
    assert path.exists()
    resumed = topology_robustness(*arguments, **options, unfinished=path)
    np.testing.assert_array_equal(resumed.exponent, whole.exponent)
    assert len(made) == 6
    assert not path.exists()


def test_numbers_of_other_arguments_or_a_damaged_file_are_not_gone_on_from(
    rng, tmp_path, monkeypatch
):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_FILES", 0.0)
    path = tmp_path / "unfinished.npz"
    saved = np.array([1, 0]), np.arange(8.0).reshape(2, 4)
    progress.Unfinished(path, "these").save(*saved)
    for found, expected in zip(
        progress.Unfinished(path, "these").load(), saved, strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    assert progress.Unfinished(path, "others").load() is None
    path.write_bytes(path.read_bytes()[:100])
    assert progress.Unfinished(path, "these").load() is None


def test_a_fingerprint_tells_numbers_shapes_and_plans_apart(rng):
    points, plan = rng.normal(size=(4, 3)), TilePlan(4, 2, tf.float32)
    prints = {
        progress.fingerprint(plan, points),
        progress.fingerprint(plan, points + 1),
        progress.fingerprint(plan, points.astype(np.float32)),
        progress.fingerprint(plan, points.reshape(3, 4)),
        progress.fingerprint(TilePlan(4, 4, tf.float32), points),
    }
    assert len(prints) == 5
    assert progress.fingerprint(plan, points.copy()) in prints


@pytest.mark.parametrize("topology", ["correlation", "rms"])
@pytest.mark.parametrize("anchors", [0, 300])
def test_replicas_change_no_bit(rng, anchors, topology, monkeypatch):
    # Five blocks of rows over two replicas: the last one is alone.
    monkeypatch.setattr(tiles, "_BEST_TILE", 128)
    embeddings, kernels = spaces_of(rng, 600)
    arguments = (embeddings, kernels)
    options = {"anchors": anchors, "memory_mb": 16, "dtype": "float64"}
    options["topology"] = topology
    alone = topology_robustness(*arguments, **options)
    with open_strategy("mirrored", worker_timeout_seconds=1).scope():
        spread = topology_robustness(*arguments, **options)
    np.testing.assert_array_equal(spread.exponent, alone.exponent)
    assert np.unique(alone.exponent).size == 600


def test_tensors_and_memory_mapped_files_are_taken(rng, tmp_path):
    embeddings, kernels = spaces_of(rng, 100)
    expected = topology_robustness(embeddings, kernels).exponent
    tensors = topology_robustness(
        [tf.constant(z) for z in embeddings], [tf.constant(w) for w in kernels]
    )
    np.testing.assert_array_equal(tensors.exponent, expected)
    np.save(tmp_path / "z.npy", embeddings[0])
    mapped = np.load(tmp_path / "z.npy", mmap_mode="r")
    on_disk = topology_robustness([mapped, embeddings[1]], kernels)
    np.testing.assert_array_equal(on_disk.exponent, expected)


@pytest.mark.parametrize("cores", [1, 3])
def test_the_number_of_cores_changes_no_bit(rng, cores, monkeypatch):
    embeddings, kernels = spaces_of(rng, 2500)
    expected = topology_robustness(embeddings, kernels).exponent
    monkeypatch.setattr(replicas, "blocks_at_once", lambda: cores)
    found = topology_robustness(embeddings, kernels).exponent
    np.testing.assert_array_equal(found, expected)


def test_blocks_come_in_order_whatever_takes_longest(monkeypatch):
    monkeypatch.setattr(replicas, "blocks_at_once", lambda: 4)

    def slow_first(block):
        time.sleep(0.05 if int(block) % 4 == 1 else 0.0)
        return (block,)

    done = list(replicas.on_replicas(slow_first, (), 3, 12))
    assert [number for number, _ in done] == list(range(3, 12))
    assert [int(result[0]) for _, result in done] == list(range(3, 12))
    assert list(replicas.on_replicas(slow_first, (), 3, 3)) == []


def test_a_block_is_compiled_once_for_all_blocks(rng):
    """XLA compiles anew for every value of what it takes for a constant."""
    embeddings, kernels = spaces_of(rng, 16_000, classes=7)
    topology_robustness([z[:321] for z in embeddings], kernels)
    began = time.process_time()
    topology_robustness(embeddings, kernels)
    first = time.process_time() - began
    began = time.process_time()
    topology_robustness(embeddings, kernels)
    # 42 blocks; compiling one takes some 0.2 s, computing all 0.4 s of two cores.
    assert first - (time.process_time() - began) < 2.5


def test_a_full_disk_stops_no_computation(rng, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_FILES", 0.0)
    embeddings, kernels = spaces_of(rng, 2500)
    expected = topology_robustness(embeddings, kernels).exponent

    def full(file, **arrays):
        file.write(b"some")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(progress.np, "savez", full)
    path = tmp_path / "unfinished.npz"
    found = topology_robustness(embeddings, kernels, unfinished=path)
    np.testing.assert_array_equal(found.exponent, expected)
    assert not list(tmp_path.iterdir())
