"""Robustness at ImageNet-LT's size: time, memory, and the estimate from anchors.

    python tests/acceptance/mining_at_imagenet_scale.py

Random embeddings of 115,846 images and 1,000 classes in two spaces. Computes the exact
robustness and the estimate from 8,192 anchors, says how long each took and what memory
beyond TensorFlow and the inputs, which must stay under 2 GB, and compares the estimate
and its standard error with the exact exponents.
"""

import argparse
import time

import numpy as np
import tensorflow as tf

from pmal_tf.benchmark.memory import peak_extra_memory
from pmal_tf.mining.robustness import Robustness, topology_robustness
from pmal_tf.runtime.environment import hardware

DIMENSION = 256


def random_spaces(count: int, classes: int) -> tuple[list, list, np.ndarray]:
    """Returns two noisy views of clusters of unequal size, kernels, and the classes."""
    generator = np.random.default_rng(0)
    # Long-tailed: a few large classes and many small ones, at least five images each.
    share = np.geomspace(1.0, 1 / 256, classes)
    label = generator.choice(classes, size=count - 5 * classes, p=share / share.sum())
    label = np.concatenate([np.repeat(np.arange(classes), 5), label])
    centres = generator.standard_normal((classes, DIMENSION), np.float32)
    base = centres[label] + generator.standard_normal((count, DIMENSION), np.float32)
    views = []
    for _ in range(2):
        noise = generator.standard_normal((count, DIMENSION), np.float32)
        # Some images are noisier than others, so that robustness differs.
        noise *= generator.uniform(0.1, 1.0, (count, 1)).astype(np.float32)
        views.append(base + noise)
    kernels = [generator.standard_normal((DIMENSION, classes)) / 16 for _ in range(2)]
    return views, kernels, label


def measured(name: str, most_gigabytes: float, **arguments: object) -> Robustness:
    """Computes robustness and prints seconds and memory.

    Raises:
        AssertionError: If it took more memory than it may.
    """
    began = time.perf_counter()
    result, memory = peak_extra_memory(lambda: topology_robustness(**arguments))
    seconds = time.perf_counter() - began
    beyond = f"{memory / 1e9:.2f} GB beyond the inputs"
    print(f"{name}: {seconds:.1f} s, {beyond}", flush=True)
    assert memory < most_gigabytes * 1e9
    return result


def main(
    count: int,
    classes: int,
    anchors: int,
    most_gigabytes: float,
    topology: str = "correlation",
) -> None:
    """Prints times, memory and errors."""
    embeddings, kernels, label = random_spaces(count, classes)
    tf.constant(0.0) + 1.0  # TensorFlow's own memory is taken at its first operation.
    print(f"{count} images, {classes} classes. {hardware()}", flush=True)
    spaces = {"embeddings": embeddings, "kernels": kernels, "topology": topology}
    estimate = measured(
        *(f"{anchors} anchors", most_gigabytes),
        anchors=anchors,
        class_index=label,
        **spaces,
    )
    exact = measured("exact", most_gigabytes, **spaces)
    difference = estimate.exponent - exact.exponent
    ranks = [np.argsort(np.argsort(r.exponent)) for r in (estimate, exact)]
    print(
        f"exponents {exact.exponent.min():.3f} to {exact.exponent.max():.3f}; the "
        f"estimate is off by {np.sqrt(np.mean(difference**2)):.2g} (root mean square; "
        f"largest {np.abs(difference).max():.2g}), its standard error says "
        f"{np.sqrt(np.mean(estimate.standard_error**2)):.2g}; rank correlation "
        f"{np.corrcoef(*ranks)[0, 1]:.5f}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=115_846)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--anchors", type=int, default=8192)
    parser.add_argument("--most_gigabytes", type=float, default=2.0)
    parser.add_argument("--topology", default="correlation")
    main(**vars(parser.parse_args()))
