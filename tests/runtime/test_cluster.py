"""Hosts of a run: what TF_CONFIG says, and waiting for them, with plain sockets."""

import concurrent.futures
import json
import signal
import socket
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import tensorflow as tf

from pmal_tf.runtime import cluster as module
from pmal_tf.runtime.cluster import loss_of_host, read_cluster, waiting_for_hosts
from pmal_tf.runtime.errors import PmalError

WORKER_0 = {"type": "worker", "index": 0}
CHIEF = {"type": "chief", "index": 0}


def config(cluster, task):
    return json.dumps({"cluster": cluster, "task": task})


@pytest.fixture
def read(monkeypatch):
    def read(text):
        monkeypatch.setenv("TF_CONFIG", text)
        return read_cluster()

    return read


def free_addresses(count):
    """Addresses on free ports of this machine."""
    sockets = [socket.create_server(("", 0)) for _ in range(count)]
    found = [f"127.0.0.1:{server.getsockname()[1]}" for server in sockets]
    for server in sockets:
        server.close()
    return found


def port_of(address):
    return int(address.rpartition(":")[2])


@pytest.fixture
def watch(monkeypatch):
    """Calls to the thread that ends the process; it does not run."""
    calls = []
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.05)
    stand_in = SimpleNamespace(
        dump_traceback_later=lambda seconds, exit, file: calls.append((seconds, exit)),
        cancel_dump_traceback_later=lambda: calls.append("cancelled"),
    )
    monkeypatch.setattr(module, "faulthandler", stand_in)
    return calls


# --- TF_CONFIG ---


@pytest.mark.parametrize(
    ("task", "own", "workers"),
    [
        (CHIEF, "boss:7", []),
        (CHIEF, "boss:7", ["a:1", "[::1]:65535"]),
        (WORKER_0, "a:1", ["a:1", "[::1]:65535"]),
        ({"type": "worker", "index": 1}, "[::1]:65535", ["a:1", "[::1]:65535"]),
    ],
)
def test_the_own_address_is_that_of_the_task(task, own, workers, read):
    jobs = {"worker": workers, "chief": ["boss:7"]}
    jobs = {job: hosts for job, hosts in jobs.items() if hosts}
    others = {"boss:7", *workers} - {own}
    found = read(config(jobs, {**task, "what": "schedulers add"}))
    assert (found[0], set(found[1])) == (own, others)


ONE = {"worker": ["a:1"]}
WRONG = {
    "empty": ("", "JSON object.*Received: Expecting value"),
    "no JSON": ("{'cluster': 1}", "JSON object.*Expecting property.*{'cluster': 1}"),
    "a list": ('["a:1"]', r'type=None, index=None, in TF_CONFIG, \["a:1"\]'),
    "a number": ("3", "JSON object"),
    "no cluster": ('{"task": {}}', "a host in the `cluster`"),
    "cluster a list": (config(["a:1"], WORKER_0), "JSON object"),
    "cluster empty": (config({}, WORKER_0), "type=worker, index=0"),
    "no workers": (config({"worker": []}, WORKER_0), "JSON object with lists"),
    "worker a string": (config({"worker": "a:1"}, WORKER_0), "JSON object"),
    "ps": (config({**ONE, "ps": ["b:1"]}, WORKER_0), "nothing else.*1 of ps"),
    "two chiefs": (config({**ONE, "chief": ["b:1", "c:1"]}, WORKER_0), "2 of chief"),
    "no port": (config({"worker": ["a"]}, WORKER_0), "host:port.*Received: a,"),
    "no host": (config({"worker": [":1"]}, WORKER_0), "Received: :1,"),
    "port 0": (config({"worker": ["a:0"]}, WORKER_0), "Received: a:0,"),
    "port 65536": (config({"worker": ["a:65536"]}, WORKER_0), "Received: a:65536,"),
    "port no number": (config({"worker": ["a:http"]}, WORKER_0), "Received: a:http,"),
    "scheme": (config({"worker": ["grpc://a:1"]}, WORKER_0), "Received: grpc://a:1,"),
    "bare IPv6": (config({"worker": ["::1:123"]}, WORKER_0), "Received: ::1:123,"),
    "no string": (config({"worker": [2222]}, WORKER_0), "JSON object"),
    "twice": (config({"worker": ["a:1", "A:01"]}, WORKER_0), "own.*: a:1, A:01,"),
    "chief twice": (config({**ONE, "chief": ["a:1"]}, WORKER_0), "of its own"),
    "no task": (json.dumps({"cluster": ONE}), "`task`.*type=None, index=None"),
    "task a number": (config(ONE, 0), "JSON object"),
    "no type": (config(ONE, {"index": 0}), "type=None, index=0"),
    "other type": (config(ONE, {"type": "ps", "index": 0}), "type=ps, index=0"),
    "type a list": (config(ONE, {"type": [], "index": 0}), r"type=\[\], index=0"),
    "absent chief": (config(ONE, {"type": "chief", "index": 0}), "type=chief"),
    "no index": (config(ONE, {"type": "worker"}), "index=None"),
    "index too high": (config(ONE, {"type": "worker", "index": 1}), "index=1"),
    "index negative": (config(ONE, {"type": "worker", "index": -1}), "index=-1"),
    "index a word": (config(ONE, {"type": "worker", "index": "x"}), "JSON object"),
}


@pytest.mark.parametrize(("text", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_tf_config_is_an_error_with_an_example(text, said, read):
    with pytest.raises(PmalError, match=said) as caught:
        read(text)
    message = str(caught.value)
    example = message.partition("such as TF_CONFIG='")[2].partition("'")[0]
    assert read(example) == ("host1:2222", ["host2:2222"])


def test_a_tf_config_that_is_not_set_or_very_long_is_not_printed(monkeypatch, read):
    with pytest.raises(PmalError) as caught:
        read("x" * 10_000)
    assert len(str(caught.value)) < 1000
    monkeypatch.delenv("TF_CONFIG")
    with pytest.raises(PmalError, match="in TF_CONFIG, which is not set"):
        read_cluster()


# --- Waiting ---


def test_hosts_that_wait_for_each_other_meet(watch):
    """Each connects to the other's port, where only the waiting itself listens."""
    hosts = free_addresses(2)
    met = threading.Barrier(2)

    def wait(index):
        with waiting_for_hosts(hosts[index], [hosts[1 - index]], 20):
            # The constructor takes the port over.
            with socket.create_server(("", port_of(hosts[index]))):
                met.wait(20)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        for done in [pool.submit(wait, 0), pool.submit(wait, 1)]:
            done.result()
    assert sorted(map(str, watch)) == sorted(["(20, True)", "cancelled"] * 2)


def test_a_host_that_answered_once_has_come(watch):
    own, *others = free_addresses(3)
    left, late = map(port_of, others)

    def come_and_go():
        for port in (left, late):
            with socket.create_server(("127.0.0.1", port)) as server:
                server.accept()[0].close()

    with concurrent.futures.ThreadPoolExecutor() as pool:
        done = pool.submit(come_and_go)
        with waiting_for_hosts(own, others, 20):
            assert module._reason_of_silence(others[0]) == "Connection refused"
        done.result()


def test_hosts_that_do_not_come_are_named(watch, monkeypatch):
    logged = []
    monkeypatch.setattr(module.logging, "info", lambda text, *a: logged.append(a[0]))
    monkeypatch.setattr(module, "_REMARK_SECONDS", 0)
    own, there, absent = free_addresses(3)
    missing = f"{absent} (Connection refused)"
    with (
        socket.create_server(("127.0.0.1", port_of(there))),
        pytest.raises(PmalError) as caught,
        waiting_for_hosts(own, [there, absent], 0.5),
    ):
        pytest.fail("The constructor would block.")
    assert (
        "within --worker_timeout_seconds=0.5. Received: no answer from "
        f"{missing}. Start the same command there" in str(caught.value)
    )
    assert logged == [missing]  # Once, though it tried several times since.
    assert watch == []


@pytest.mark.parametrize("name", ["a..b", f"{'a' * 64}.b"])
def test_what_cannot_be_the_name_of_a_host_is_no_crash(name):
    assert module._reason_of_silence(f"{name}:1") == "not a name of a host"


def test_a_connection_to_itself_is_no_answer(monkeypatch):
    def to_itself(*_):
        own = socket.socket()
        own.bind(("127.0.0.1", 0))
        own.connect(own.getsockname())
        return own

    monkeypatch.setattr(module.socket, "create_connection", to_itself)
    assert module._reason_of_silence("127.0.0.1:1") == "Connection refused"


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_port_of_another_process_is_an_error(watch, address):
    """Even of one that would share it, as gRPC's servers do by default."""
    (own,) = free_addresses(1)
    with socket.socket() as other:
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            other.setsockopt(socket.SOL_SOCKET, option, 1)
        other.bind((address, port_of(own)))
        other.listen()
        said = f"another process already listens on {own}"
        with pytest.raises(PmalError, match=said), waiting_for_hosts(own, [], 20):
            pytest.fail("The constructor would fail.")


def test_a_port_that_may_not_be_used_is_an_error(watch, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module.socket, "create_server", denied)
    said = "Received: a:80: Permission denied. Choose a port from 1024 on"
    with (
        pytest.raises(PmalError, match=said),
        waiting_for_hosts("a:80", [], 1),
    ):
        pytest.fail("The constructor would fail.")


def test_connections_of_a_run_that_has_just_ended_do_not_matter(watch):
    (own,) = free_addresses(1)
    address = ("127.0.0.1", port_of(own))
    with socket.create_server(address) as server:
        client = socket.create_connection(address)
        # Whoever closes first keeps the connection for a minute (TIME_WAIT).
        server.accept()[0].close()
        client.close()
    with waiting_for_hosts(own, [], 20):
        pass


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        # The port was taken in the last moment.
        (
            tf.errors.UnknownError(None, None, "Could not start gRPC server"),
            PmalError,
            "another process already listens on 127.0.0.1:",
        ),
        (ValueError("other"), ValueError, "other"),
    ],
)
def test_errors_of_the_constructor(watch, error, kind, said):
    (own,) = free_addresses(1)
    with pytest.raises(kind, match=said), waiting_for_hosts(own, [], 20):
        raise error
    assert watch == [(20, True), "cancelled"]


def test_sigterm_ends_the_process_as_before(watch):
    def before(*_):
        pass

    original = signal.signal(signal.SIGTERM, before)
    try:
        with waiting_for_hosts(*free_addresses(1), [], 20):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # As TensorFlow does.
        assert signal.getsignal(signal.SIGTERM) is before
    finally:
        signal.signal(signal.SIGTERM, original)


def test_a_constructor_that_does_not_return_ends_the_process():
    """It holds the interpreter's lock, so that nothing in Python could."""
    code = (
        "import ctypes, sys, unittest.mock\n"
        "sys.modules['tensorflow'] = unittest.mock.MagicMock()\n"  # Slow to load.
        "from pmal_tf.runtime.cluster import waiting_for_hosts\n"
        f"with waiting_for_hosts({free_addresses(1)[0]!r}, [], 0.3):\n"
        "    ctypes.PyDLL(None).sleep(60)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert process.returncode == 1
    assert "Timeout" in process.stderr


# --- Losses ---

# Texts of TensorFlow 2.21, with two processes of which one was killed, stopped or
# restarted, or had been given a time-out.
GRAPH = "Graph execution error:\n\nDetected at node CollectiveReduceV2 defined at:\n\n"
AGAIN = "\nThe error could be from a previous operation. Restart your program to reset."
LOSSES = [
    (
        tf.errors.UnavailableError,
        f"{GRAPH}Collective ops is aborted by: recvmsg:Connection reset by peer\n"
        "Additional GRPC error information from remote target "
        "/job:worker/replica:0/task:1 while calling /tensorflow.WorkerService/RecvBuf:"
        f"{AGAIN}",
        "worker 1: recvmsg:Connection reset by peer",
    ),
    (
        tf.errors.UnavailableError,
        f"{GRAPH}Collective ops is aborted by: Collective ops is aborted by: Socket "
        "closed\nAdditional GRPC error information from remote target "
        f"/job:chief/replica:0/task:0 while calling /tensorflow.X:{AGAIN}",
        "chief 0: Socket closed",
    ),
    (
        tf.errors.UnavailableError,
        "Collective ops is aborted by: Error reported from /job:worker/task:2: The "
        "following tasks are unhealthy (stopped sending heartbeats):\n"
        "/job:worker/replica:0/task:2\nThe tasks have crashed.",
        "worker 2: Error reported from /job:worker/task:2: The following tasks are "
        "unhealthy (stopped sending heartbeats)",
    ),
    (
        tf.errors.DeadlineExceededError,
        f"{GRAPH}Collective ops is aborted by: Deadline Exceeded\n\n"
        f"RPC: /tensorflow.CoordinationService/Heartbeat{AGAIN}",
        "Deadline Exceeded",
    ),
    (
        tf.errors.DeadlineExceededError,
        f"{GRAPH}Collective has timed out during execution.\n\t [[{{node X}}]]",
        "Collective has timed out during execution.",
    ),
    (
        tf.errors.InternalError,
        "Collective ops is aborted by: unexpected exception in check alive: x",
        "unexpected exception in check alive: x",
    ),
]


@pytest.mark.parametrize(("kind", "text", "reason"), LOSSES)
def test_losses_of_other_hosts_are_known(kind, text, reason):
    assert loss_of_host(kind(None, None, text)) == reason


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.InvalidArgumentError(None, None, "Incompatible shapes: [3] vs. [5]"),
        # The operation that failed has broken off the collectives of its own host.
        tf.errors.InvalidArgumentError(
            None, None, f"Collective ops is aborted by: Incompatible shapes.{AGAIN}"
        ),
        tf.errors.ResourceExhaustedError(
            None, None, "OOM when allocating tensor on /job:worker/replica:0/task:1"
        ),
        tf.errors.UnavailableError(None, None, "Error executing an HTTP request"),
        tf.errors.DeadlineExceededError(None, None, "Timed out reading a file"),
        concurrent.futures.CancelledError(),
        KeyboardInterrupt(),
        ConnectionResetError("Connection reset by peer"),
        PmalError("Collective ops is aborted by: x"),
    ],
)
def test_errors_of_this_host_are_no_losses(error):
    assert loss_of_host(error) is None
