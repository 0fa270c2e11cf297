"""The hosts of a run on several machines: who they are, waiting for them, losing one.

TensorFlow reads TF_CONFIG and connects the hosts. What it does not do is say which
address is wrong, whose port is taken, or which host does not come.
"""

from __future__ import annotations

import errno
import faulthandler
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import tensorflow as tf
from absl import logging

from pmal_tf.runtime.errors import PmalError, first_line

_EXAMPLE = (
    'TF_CONFIG=\'{"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
    '"task": {"type": "worker", "index": 0}}\''
)
_LONGEST_SHOWN = 300

_POLL_SECONDS = 0.5
_CONNECT_SECONDS = 1.0
_REMARK_SECONDS = 10.0

# What the losses of a host have in common, by class and by text, as seen in
# TensorFlow 2.21: the connection breaks, heartbeats stop, the host restarted, or a
# collective took longer than `CommunicationOptions` allow.
_LOSS_CLASSES = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
)
_LOSS = re.compile(
    r"(?:Collective ops is aborted by: )+(?P<cause>.*)"
    r"|Collective has timed out"
    r"|unhealthy \(stopped sending heartbeats\)"
    r"|coordination service|/tensorflow\.CoordinationService/"
    r"|from remote target /job:",
    re.IGNORECASE,
)


def read_cluster() -> tuple[str, list[str]]:
    """Returns the addresses, `host:port`, of this process and of all others.

    Raises:
        PmalError: If TF_CONFIG is not set, or not what a synchronous run needs.
    """
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    try:
        cluster = resolver.cluster_spec()
        kind, index = resolver.task_type, resolver.task_id
        hosts = [host for job in cluster.jobs for host in cluster.job_tasks(job)]
    except (AttributeError, TypeError, ValueError) as error:
        raise _wrong(
            "TF_CONFIG must be a JSON object with lists of addresses in its `cluster`, "
            "and the `type` and `index` of this process in its `task`",
            first_line(error),
        ) from error
    counts = {job: cluster.num_tasks(job) for job in cluster.jobs}
    if not counts.keys() <= {"chief", "worker"} or counts.get("chief", 0) > 1:
        raise _wrong(
            "All hosts train alike, so the `cluster` of TF_CONFIG must have a list of "
            "`worker` addresses, at most one `chief`, and nothing else",
            ", ".join(f"{count} of {job}" for job, count in counts.items()),
        )
    if len({_split(host) for host in hosts}) < len(hosts):
        raise _wrong(
            "Every process of TF_CONFIG must have an address of its own",
            ", ".join(hosts),
        )
    try:
        own = cluster.task_address(kind, index)
    except (TypeError, ValueError) as error:
        raise _wrong(
            "The `task` of TF_CONFIG must have the `type` of a host in the `cluster`, "
            "and an `index` below the number of such hosts",
            f"type={kind}, index={index}",
        ) from error
    return own, [host for host in hosts if host != own]


def _wrong(rule: str, received: str) -> PmalError:
    """Returns the error for a TF_CONFIG that breaks a rule."""
    text = os.environ.get("TF_CONFIG")
    shown = "which is not set" if text is None else text[:_LONGEST_SHOWN]
    return PmalError(
        f"{rule}, such as {_EXAMPLE}. Received: {received}, in TF_CONFIG, {shown}. Set "
        "TF_CONFIG on every host; only `task` differs between them."
    )


def _split(address: str) -> tuple[str, int]:
    """Returns the host, in small letters and without IPv6's brackets, and the port."""
    with suppress(ValueError):
        found = urlsplit(f"//{address}")
        if found.netloc == address and found.hostname and found.port:
            return found.hostname, found.port
    raise _wrong(
        "An address in TF_CONFIG must be host:port with a port from 1 to 65535 "
        "([host]:port for IPv6)",
        address,
    )


@contextmanager
def waiting_for_hosts(
    own: str, others: Sequence[str], timeout_seconds: float
) -> Iterator[None]:
    """Waits until all hosts have come, before and within a strategy's constructor.

    `MultiWorkerMirroredStrategy()` starts this host's server, then waits in C++ until
    every host has come: up to an hour, holding Python's interpreter lock, so that no
    signal handler and no thread runs. Hence the hosts meet here first, in Python: each
    listens on the port its server will have, and connects to those of the others.

    The others, whose addresses are `others`, may take `timeout_seconds` to answer; then
    the constructor, called within, as long again before the process ends with status 1.

    Raises:
        PmalError: If another process has the port of this one, or a host does not come.
    """
    with _listening(own, backlog=2 * len(others) + 16):
        _wait_for_answers(others, timeout_seconds)
    logging.info(
        "All hosts of TF_CONFIG have come; TensorFlow has %g s to connect them. If "
        "this process ends here, `cluster` is not the same on all hosts, or something "
        "of an earlier run is left on one.",
        timeout_seconds,
    )
    before = signal.getsignal(signal.SIGTERM)
    # Only a thread outside of Python can end a process that holds the lock. It writes
    # to stderr itself, not to `sys.stderr`, which need not be a file.
    faulthandler.dump_traceback_later(timeout_seconds, exit=True, file=2)
    try:
        yield
    except Exception as error:
        # A second process with this index came before TensorFlow's server.
        if "Could not start gRPC server" in str(error):
            raise _taken(own) from error
        raise
    finally:
        faulthandler.cancel_dump_traceback_later()
        # TensorFlow's constructor takes SIGTERM for a notice of preemption that
        # somebody will ask for, and the process would go on for ever.
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


def _listening(own: str, backlog: int) -> socket.socket:
    """Lets the other hosts connect to this one's port.

    Like TensorFlow's server, on all addresses and without sharing the port: a second
    process with the same index learns it here, where TensorFlow would give no reason.
    """
    dual = socket.has_dualstack_ipv6()
    try:
        # Nobody accepts: the system answers for as many as wait in line.
        return socket.create_server(
            ("", _split(own)[1]),
            family=socket.AF_INET6 if dual else socket.AF_INET,
            dualstack_ipv6=dual,
            backlog=backlog,
        )
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise _taken(own) from error
        raise PmalError(
            "The port of this process must be one that it may listen on. Received: "
            f"{own}: {error.strerror}. Choose a port from 1024 on in "
            "TF_CONFIG, on every host."
        ) from error


def _taken(address: str) -> PmalError:
    """Returns the error for a port that is in use."""
    return PmalError(
        "Every process of TF_CONFIG needs a port and an `index` of its own. Received: "
        f"another process already listens on {address}. End that one, or correct the "
        "`index` of this one, or choose another port in TF_CONFIG on every host."
    )


def _wait_for_answers(others: Sequence[str], timeout_seconds: float) -> None:
    """Connects to the other hosts until each has answered once.

    Once must do: a host that has seen all leaves for TensorFlow, whose server takes its
    time to listen on the port.
    """
    missing = list(others)
    start, remarked = time.monotonic(), False
    while True:
        silent = {host: _reason_of_silence(host) for host in missing}
        missing = [host for host, reason in silent.items() if reason is not None]
        if not missing:
            return
        names = ", ".join(f"{host} ({silent[host]})" for host in missing)
        left = timeout_seconds - (time.monotonic() - start)
        if left <= 0:
            raise PmalError(
                "Every host of TF_CONFIG must come within "
                f"--worker_timeout_seconds={timeout_seconds:g}. Received: no answer "
                f"from {names}. Start the same command there, or let this host reach "
                "that port, or correct TF_CONFIG on every host."
            )
        if not remarked and timeout_seconds - left >= _REMARK_SECONDS:
            remarked = True
            logging.info("Still waiting for %s, up to %.0f s more", names, left)
        time.sleep(min(_POLL_SECONDS, left))


def _reason_of_silence(address: str) -> str | None:
    """Returns why nobody answers at an address, or None where somebody does."""
    try:
        with socket.create_connection(_split(address), _CONNECT_SECONDS) as connection:
            # A connection to a free port of this machine may have been given that very
            # port to leave from, and so have reached itself.
            if connection.getsockname() == connection.getpeername():
                return "Connection refused"
    except OSError as error:
        return error.strerror or str(error)
    except UnicodeError:
        return "not a name of a host"
    return None


def loss_of_host(error: BaseException) -> str | None:
    """Returns what an error says of a lost host, None where it says nothing.

    An operation that fails on this host breaks off its collectives too, but with its
    own kind of error. The first lines of TensorFlow's message are about the graph, and
    the host it names, if it does, is the one that this one was talking to.
    """
    found = _LOSS.search(str(error))
    if found is None or not isinstance(error, _LOSS_CLASSES):
        return None
    rest = str(error)[found.start() :]
    line = (found["cause"] or rest.splitlines()[0]).strip(" :")
    host = re.search(r"/job:(\w+)(?:/replica:\d+)?/task:(\d+)", rest)
    return f"{host[1]} {host[2]}: {line}" if host else line
