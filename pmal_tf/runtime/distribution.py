"""Several replicas, on one host or on several, by `tf.distribute`.

A run names its strategy once (`using`); whatever needs to know asks here. Outside of a
run it is the strategy whose scope the caller is in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import tensorflow as tf

from pmal_tf.runtime.cluster import loss_of_host, read_cluster, waiting_for_hosts
from pmal_tf.runtime.errors import PmalError

# One of each per process: two would use the same keys for their collectives.
_OPENED: dict[str, tf.distribute.Strategy] = {}


def open_strategy(name: str, worker_timeout_seconds: int) -> tf.distribute.Strategy:
    """Returns the strategy of a run.

    Args:
        name: `default`: one device. `mirrored`: all GPUs of this host, or all its
            logical CPU devices where there is none. `multi_worker`: all devices of all
            hosts that the environment variable TF_CONFIG names.
        worker_timeout_seconds: How long to wait for those hosts.

    Raises:
        PmalError: If TF_CONFIG cannot be used, or a host does not come.
    """
    if name == "default":
        return tf.distribute.get_strategy()
    if name == "mirrored" and name not in _OPENED:
        devices = tf.config.list_logical_devices("GPU")
        devices = devices or tf.config.list_logical_devices("CPU")
        _OPENED[name] = tf.distribute.MirroredStrategy([each.name for each in devices])
    elif name not in _OPENED:
        own, others = read_cluster()
        with waiting_for_hosts(own, others, worker_timeout_seconds):
            _OPENED[name] = tf.distribute.MultiWorkerMirroredStrategy()
    return _OPENED[name]


class _Run:
    """The strategy of the run, if there is one."""

    strategy: tf.distribute.Strategy | None = None


@contextmanager
def using(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Makes a strategy that of the run."""
    _Run.strategy = strategy
    try:
        yield
    finally:
        _Run.strategy = None


def current() -> tf.distribute.Strategy:
    """Returns the strategy in use."""
    return _Run.strategy or tf.distribute.get_strategy()


def replicas() -> int:
    """Returns how many replicas share a global batch."""
    return current().num_replicas_in_sync


def local_replicas() -> int:
    """Returns how many of them this host has."""
    if replicas() == 1:  # The default strategy knows of no devices.
        return 1
    return len(current().extended.worker_devices)


def several_hosts() -> bool:
    """Tells whether some replicas are on other hosts."""
    return local_replicas() < replicas()


def is_chief() -> bool:
    """Tells whether this process is the one that writes files."""
    return current().extended.should_checkpoint


def any_host(values: Sequence[bool]) -> list[bool]:
    """Returns, for each position, whether it is true on any host; all hosts must ask.

    Hosts that decide by a clock or a signal would otherwise part ways.
    """
    if not several_hosts():
        return list(values)
    strategy = current()
    own = tf.constant(values, tf.float32)
    with strategy.scope():
        each = strategy.experimental_distribute_values_from_function(lambda _: own)
        total = strategy.reduce(tf.distribute.ReduceOp.SUM, each, axis=None)
    return [bool(value > 0) for value in total.numpy()]


def wait_for_all_hosts() -> None:
    """Returns once every host has come here, and so sees what the chief wrote before.

    The hosts must share the folders of the run.
    """
    any_host([False])


def on_all_replicas(
    function: Callable[[tf.Tensor], Mapping[str, tf.Tensor]], signature: tf.TensorSpec
) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """Spreads a function over the replicas of the strategy in use.

    The function takes [size, ...] rows, of a replica's `signature`, to a dict of
    [size, ...] tensors; what is returned takes [size * replicas, ...] rows, the same on
    every host, to [size * replicas, ...] tensors, the same on every host again.
    """
    strategy, gathers = current(), several_hosts()
    size, *shape = signature.shape

    @tf.function
    def compute(rows: tf.Tensor) -> dict[str, tf.Tensor]:
        def one() -> dict[str, tf.Tensor]:
            context = tf.distribute.get_replica_context()
            begin = context.replica_id_in_sync_group * size
            own = tf.ensure_shape(rows[begin : begin + size], signature.shape)
            results = dict(function(own))
            if gathers:
                results = {n: context.all_gather(v, 0) for n, v in results.items()}
            return results

        collected = {}
        for name, value in strategy.run(one).items():
            parts = strategy.experimental_local_results(value)
            # Where hosts have gathered, every replica holds all rows.
            collected[name] = parts[0] if gathers else tf.concat(parts, 0)
        return collected

    everywhere = tf.TensorSpec((size * replicas(), *shape), signature.dtype)
    return compute.get_concrete_function(everywhere)


@contextmanager
def report_lost_hosts() -> Iterator[None]:
    """Turns what TensorFlow raises when another host is lost into a `PmalError`."""
    try:
        yield
    except tf.errors.OpError as error:
        loss = loss_of_host(error)
        if loss is None or not several_hosts():
            raise
        raise PmalError(
            "Every host must stay until the run is done. Received: another host was "
            f"lost: {loss}. Finished stages and checkpoints are kept: start the same "
            "command again on all hosts, or on fewer with another TF_CONFIG."
        ) from error
