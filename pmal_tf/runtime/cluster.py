"""The hosts of a run on several machines: who they are, and waiting for all of them.

Needs no TensorFlow: a mistake in TF_CONFIG is told before it loads.
"""

from __future__ import annotations

import errno
import faulthandler
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from absl import logging

from pmal_tf.runtime.errors import PmalError, first_line

_EXAMPLE = (
    'TF_CONFIG=\'{"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
    '"task": {"type": "worker", "index": 0}}\''
)
# TensorFlow numbers the hosts in this order.
_TASK_TYPES = ("chief", "worker")
_LONGEST_SHOWN = 300

_KNOCK_EVERY_SECONDS = 0.5
_CONNECT_SECONDS = 1.0
# Not `sys.stderr`, which need not be a file.
_STDERR = 2

# What the losses of a host have in common, by class and by text, as seen in
# TensorFlow 2.21: the connection breaks, heartbeats stop, the host restarted, or a
# collective took longer than `CommunicationOptions` allow.
_LOSS_CLASSES = frozenset(
    {
        "AbortedError",
        "CancelledError",
        "DeadlineExceededError",
        "FailedPreconditionError",
        "InternalError",
        "UnavailableError",
    }
)
_LOSS = re.compile(
    r"(?:Collective ops is aborted by: )+(?P<cause>.*)"
    r"|Collective has timed out"
    r"|unhealthy \(stopped sending heartbeats\)"
    r"|coordination service|/tensorflow\.CoordinationService/"
    r"|from remote target /job:",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Cluster:
    """The hosts of a run.

    Attributes:
        hosts: Their addresses, `host:port`, in TensorFlow's order: the chief, if one is
            named, then the workers.
        index: The place of this process among them.
    """

    hosts: tuple[str, ...]
    index: int

    @property
    def own(self) -> str:
        """The address of this process."""
        return self.hosts[self.index]

    @property
    def others(self) -> tuple[str, ...]:
        """The addresses of all other processes."""
        return self.hosts[: self.index] + self.hosts[self.index + 1 :]

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.index == 0


def read_cluster(text: str | None) -> Cluster:
    """Reads the hosts from the value of the environment variable TF_CONFIG.

    Args:
        text: The value; None if it is not set.

    Raises:
        PmalError: If it is not set, or not of the form that a synchronous run needs.
    """
    if text is None:
        raise _wrong(
            "With --strategy=multi_worker the environment variable TF_CONFIG must name "
            "the hosts",
            "TF_CONFIG is not set",
        )
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise _wrong(
            "TF_CONFIG must be JSON", f"{_shown(text)}, where {error}"
        ) from error
    if not isinstance(config, dict):
        raise _wrong("TF_CONFIG must be a JSON object", _shown(config))
    jobs = _read_jobs(config.get("cluster"))
    hosts = tuple(address for kind in _TASK_TYPES for address in jobs.get(kind, ()))
    _check_different(hosts)
    return Cluster(hosts, _read_index(config.get("task"), jobs))


def _wrong(rule: str, received: str) -> PmalError:
    """Returns the error for a TF_CONFIG that breaks a rule."""
    return PmalError(
        f"{rule}, such as {_EXAMPLE}. Received: {received}. Set TF_CONFIG on every "
        "host; only `task` differs between them."
    )


def _shown(value: Any) -> str:
    """Returns a part of TF_CONFIG as JSON, cut where it is very long."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _read_jobs(cluster: Any) -> dict[str, list[str]]:
    """Returns the addresses of each type of task.

    Raises:
        PmalError: If `cluster` is not of that form.
    """
    rule = "TF_CONFIG must have a `cluster` with a list of `worker` addresses"
    if not isinstance(cluster, dict):
        received = "no `cluster`" if cluster is None else f"cluster={_shown(cluster)}"
        raise _wrong(rule, received)
    unknown = [kind for kind in cluster if kind not in _TASK_TYPES]
    if unknown:
        raise _wrong(
            "All hosts train alike, so the `cluster` of TF_CONFIG must have no others "
            "than `worker` and at most one `chief`",
            ", ".join(unknown),
        )
    if not cluster:
        raise _wrong(rule, "cluster={}")
    for kind, addresses in cluster.items():
        if not isinstance(addresses, list) or not addresses:
            raise _wrong(rule, f"{kind}={_shown(addresses)}")
        for address in addresses:
            _split(address)
    if len(cluster.get("chief", ())) > 1:
        raise _wrong(
            "TF_CONFIG must have at most one `chief`",
            f"chief={_shown(cluster['chief'])}",
        )
    return cluster


def _split(address: Any) -> tuple[str, int]:
    """Returns the host, without the brackets of IPv6, and the port of an address.

    Raises:
        PmalError: If it is no address.
    """
    found = isinstance(address, str) and re.fullmatch(
        r"(?:\[([\w:.%]+)\]|([^\s:/\[\]]+)):([0-9]{1,5})", address
    )
    if not found or not 1 <= int(found[3]) <= 65535:
        raise _wrong(
            "An address in TF_CONFIG must be host:port with a port from 1 to 65535 "
            "([host]:port for IPv6)",
            _shown(address),
        )
    return found[1] or found[2], int(found[3])


def _check_different(hosts: Sequence[str]) -> None:
    """Checks that no two processes share an address.

    Raises:
        PmalError: If two do.
    """
    seen: set[tuple[str, int]] = set()
    for address in hosts:
        host, port = _split(address)
        if (host.lower(), port) in seen:
            raise _wrong(
                "Every process of TF_CONFIG must have an address of its own",
                f"{address} twice",
            )
        seen.add((host.lower(), port))


def _read_index(task: Any, jobs: dict[str, list[str]]) -> int:
    """Returns the place of this process in TensorFlow's order.

    Raises:
        PmalError: If `task` names none of the processes.
    """
    if not isinstance(task, dict):
        raise _wrong(
            "TF_CONFIG must have a `task` with the `type` and `index` of this process",
            "no `task`" if task is None else f"task={_shown(task)}",
        )
    kind, index = task.get("type"), task.get("index")
    if kind not in list(jobs):  # A list, as `kind` may be anything.
        raise _wrong(
            f"The `type` of the `task` must be in the `cluster`: {' or '.join(jobs)}",
            f"type={_shown(kind)}",
        )
    count = len(jobs[kind])
    # JSON's true and false are integers to Python.
    if type(index) is not int or not 0 <= index < count:
        raise _wrong(
            f"The `index` of a {kind} must be an integer from 0 to {count - 1}",
            f"index={json.dumps(index)}",
        )
    return index + (len(jobs.get("chief", ())) if kind == "worker" else 0)


@contextmanager
def waiting_for_hosts(
    cluster: Cluster, timeout_seconds: float, *, remark_seconds: float = 10.0
) -> Iterator[None]:
    """Waits until all hosts have come, before and within a strategy's constructor.

    `MultiWorkerMirroredStrategy()` starts this host's server, then waits in C++ until
    every host has come: up to an hour, holding Python's interpreter lock, so that no
    signal handler and no thread runs. Hence the hosts meet here first, in Python: each
    listens on the port its server will have, and knocks at those of the others.

    Args:
        cluster: The hosts.
        timeout_seconds: How long the others may take to answer, and then again how long
            the constructor may take to return before the process ends with status 1.
        remark_seconds: When to tell, once, that hosts are still missing.

    Yields:
        Nothing; the constructor is to be called within.

    Raises:
        PmalError: If another process has the port of this one, or a host does not come.
    """
    with _listening(cluster):
        _wait_for_answers(cluster.others, timeout_seconds, remark_seconds)
    logging.info(
        "All hosts of TF_CONFIG have come; TensorFlow has %g s to connect them. If "
        "this process ends here, `cluster` is not the same on all hosts, or something "
        "of an earlier run is left on one.",
        timeout_seconds,
    )
    with _terminating_as_before(), _ending_after(timeout_seconds):
        try:
            yield
        except Exception as error:
            # A second process with this index came before TensorFlow's server.
            if "Could not start gRPC server" in str(error):
                raise _taken(cluster.own) from error
            raise


@contextmanager
def _listening(cluster: Cluster) -> Iterator[None]:
    """Lets the other hosts knock at this one's port.

    Like TensorFlow's server, on all addresses of the machine, and without sharing the
    port (TensorFlow turns off gRPC's SO_REUSEPORT): a second process with the same
    index is told here, where TensorFlow would give no reason.

    Raises:
        PmalError: If it cannot.
    """
    dual = socket.has_dualstack_ipv6()
    try:
        # Nobody accepts: the system answers for as many as wait in line.
        server = socket.create_server(
            ("", _split(cluster.own)[1]),
            family=socket.AF_INET6 if dual else socket.AF_INET,
            dualstack_ipv6=dual,
            backlog=2 * len(cluster.hosts) + 16,
        )
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise _taken(cluster.own) from error
        raise PmalError(
            "The port of this process must be one that it may listen on. Received: "
            f"{cluster.own}: {error.strerror}. Choose a port from 1024 on in "
            "TF_CONFIG, on every host."
        ) from error
    with server:
        yield


def _taken(address: str) -> PmalError:
    """Returns the error for a port that is in use."""
    return PmalError(
        "Every process of TF_CONFIG needs a port and an `index` of its own. Received: "
        f"another process already listens on {address}. End that one, or correct the "
        "`index` of this one, or choose another port in TF_CONFIG on every host."
    )


def _wait_for_answers(
    others: Sequence[str], timeout_seconds: float, remark_seconds: float
) -> None:
    """Knocks at the other hosts until each has answered once.

    Once must do: a host that has seen all leaves for TensorFlow, whose server takes its
    time to listen on the port.

    Raises:
        PmalError: If one does not.
    """
    missing = dict.fromkeys(others, "")
    start, remarked = time.monotonic(), False
    while True:
        asked = {address: _reason_of_silence(address) for address in missing}
        missing = {address: why for address, why in asked.items() if why is not None}
        if not missing:
            return
        names = ", ".join(f"{address} ({why})" for address, why in missing.items())
        waited = time.monotonic() - start
        if waited >= timeout_seconds:
            raise PmalError(
                "Every host of TF_CONFIG must come within "
                f"--worker_timeout_seconds={timeout_seconds:g}. Received: no answer "
                f"from {names}. Start the same command there, or let this host reach "
                "that port, or correct TF_CONFIG on every host."
            )
        if not remarked and waited >= remark_seconds:
            remarked = True
            logging.info(
                "Still waiting for %s, up to %.0f s more",
                names,
                timeout_seconds - waited,
            )
        time.sleep(min(_KNOCK_EVERY_SECONDS, timeout_seconds - waited))


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


@contextmanager
def _terminating_as_before() -> Iterator[None]:
    """Gives SIGTERM back to whom it belonged.

    TensorFlow's constructor takes it for a notice of preemption that somebody will ask
    for, and the process would go on for ever.
    """
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and handler is not None:
            signal.signal(signal.SIGTERM, handler)


@contextmanager
def _ending_after(seconds: float) -> Iterator[None]:
    """Ends the process with status 1 if the block takes longer.

    Only a thread outside of Python can: see `waiting_for_hosts`. This one tells where
    the process was, on stderr, and nothing else.
    """
    faulthandler.dump_traceback_later(seconds, exit=True, file=_STDERR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def is_lost_worker(error: BaseException) -> bool:
    """Tells whether TensorFlow raised an error because another host was lost.

    By name and text, so that it can be asked without TensorFlow. An operation that
    fails on this host breaks off its collectives too, but with its own kind of error.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & _LOSS_CLASSES and _LOSS.search(str(error)))


def reason_of_loss(error: BaseException) -> str:
    """Returns what such an error says of the other host, in a line.

    The first lines of TensorFlow's message are about the graph, and the host it names,
    if it does, is the one that this one was talking to.
    """
    found = _LOSS.search(str(error))
    if found is None:
        return first_line(error)
    rest = str(error)[found.start() :]
    line = (found["cause"] or rest.splitlines()[0]).strip(" :")
    host = re.search(r"/job:(\w+)(?:/replica:\d+)?/task:(\d+)", rest)
    return f"{host[1]} {host[2]}: {line}" if host else line
