"""Hosts of a run: what TF_CONFIG says, and waiting for them, with plain sockets."""

import concurrent.futures
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import tensorflow as tf

from pmal_tf.runtime import cluster as module
from pmal_tf.runtime.cluster import (
    Cluster,
    is_lost_worker,
    read_cluster,
    reason_of_loss,
    waiting_for_hosts,
)
from pmal_tf.runtime.errors import PmalError

WORKER_0 = {"type": "worker", "index": 0}


def config(cluster, task):
    return json.dumps({"cluster": cluster, "task": task})


def free_ports(count):
    sockets = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


def local_cluster(count, index=0):
    hosts = tuple(f"127.0.0.1:{port}" for port in free_ports(count))
    return Cluster(hosts, index)


def port_of(address):
    return int(address.rpartition(":")[2])


@pytest.fixture
def logged(monkeypatch):
    """What was logged."""
    lines = []
    monkeypatch.setattr(module.logging, "info", lambda text, *a: lines.append(text % a))
    return lines


@pytest.fixture
def watch(monkeypatch):
    """What the thread that ends the process was told; it does not run."""
    told = []
    monkeypatch.setattr(module, "_KNOCK_EVERY_SECONDS", 0.05)
    stand_in = SimpleNamespace(
        dump_traceback_later=lambda seconds, exit, file: told.append((seconds, exit)),
        cancel_dump_traceback_later=lambda: told.append("cancelled"),
    )
    monkeypatch.setattr(module, "faulthandler", stand_in)
    return told


# --- TF_CONFIG ---


def test_workers_come_in_the_order_of_their_indices():
    cluster = read_cluster(
        config({"worker": ["a:1", "b:2", "c:65535"]}, {"type": "worker", "index": 1})
    )
    assert cluster == Cluster(("a:1", "b:2", "c:65535"), 1)
    assert cluster.own == "b:2"
    assert cluster.others == ("a:1", "c:65535")
    assert not cluster.is_chief


@pytest.mark.parametrize(
    ("task", "own"),
    [({"type": "chief", "index": 0}, "boss:7"), (WORKER_0, "a:1")],
)
def test_the_chief_comes_before_the_workers_as_in_tensorflow(task, own, monkeypatch):
    text = config({"worker": ["a:1", "b:2"], "chief": ["boss:7"]}, task)
    cluster = read_cluster(text)
    assert cluster.hosts == ("boss:7", "a:1", "b:2")
    assert cluster.own == own
    assert cluster.is_chief == (own == "boss:7")

    from tensorflow.python.distribute import multi_worker_util

    monkeypatch.setenv("TF_CONFIG", text)
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    its = (resolver.cluster_spec(), resolver.task_type, resolver.task_id)
    assert cluster.index == multi_worker_util.id_in_cluster(*its)
    assert cluster.is_chief == multi_worker_util.is_chief(*its)


def test_a_chief_may_be_alone():
    text = config({"chief": ["a:1"]}, {"type": "chief", "index": 0})
    assert read_cluster(text) == Cluster(("a:1",), 0)


def test_addresses_may_be_of_ipv6():
    assert read_cluster(config({"worker": ["[::1]:123"]}, WORKER_0)).own == "[::1]:123"


def test_what_schedulers_add_is_not_minded():
    text = json.dumps(
        {
            "cluster": {"worker": ["a:1"]},
            "task": {**WORKER_0, "trial": "3"},
            "environment": "cloud",
        }
    )
    assert read_cluster(text).index == 0


ONE = {"worker": ["a:1"]}
WRONG = {
    "not set": (None, "TF_CONFIG is not set"),
    "empty": ("", "Received: , where Expecting value"),
    "no JSON": ("{'cluster': 1}", "Received: {'cluster': 1}, where Expecting property"),
    "a list": ('["a:1"]', 'Received: ["a:1"]'),
    "no cluster": ('{"task": {}}', "Received: no `cluster`"),
    "cluster a list": (config(["a:1"], WORKER_0), 'Received: cluster=["a:1"]'),
    "cluster empty": (config({}, WORKER_0), "Received: cluster={}"),
    "no workers": (config({"worker": []}, WORKER_0), "Received: worker=[]"),
    "worker a string": (config({"worker": "a:1"}, WORKER_0), "Received: worker=a:1"),
    "ps": (config({**ONE, "ps": ["b:1"], "evaluator": []}, WORKER_0), "ps, evaluator."),
    "two chiefs": (
        config({**ONE, "chief": ["b:1", "c:1"]}, WORKER_0),
        'Received: chief=["b:1", "c:1"]',
    ),
    "no port": (config({"worker": ["a"]}, WORKER_0), "Received: a."),
    "no host": (config({"worker": [":1"]}, WORKER_0), "Received: :1."),
    "port 0": (config({"worker": ["a:0"]}, WORKER_0), "Received: a:0."),
    "port 65536": (config({"worker": ["a:65536"]}, WORKER_0), "Received: a:65536."),
    "port no number": (config({"worker": ["a:http"]}, WORKER_0), "Received: a:http."),
    "scheme": (config({"worker": ["grpc://a:1"]}, WORKER_0), "Received: grpc://a:1."),
    "bare IPv6": (config({"worker": ["::1:123"]}, WORKER_0), "Received: ::1:123."),
    "no string": (config({"worker": [2222]}, WORKER_0), "Received: 2222."),
    "twice": (config({"worker": ["a:1", "A:01"]}, WORKER_0), "Received: A:01 twice."),
    "chief twice": (
        config({**ONE, "chief": ["a:1"]}, WORKER_0),
        "Received: a:1 twice.",
    ),
    "no task": (json.dumps({"cluster": ONE}), "Received: no `task`"),
    "task a number": (config(ONE, 0), "Received: task=0"),
    "no type": (config(ONE, {"index": 0}), "Received: type=null"),
    "other type": (config(ONE, {"type": "ps", "index": 0}), "Received: type=ps"),
    "type a list": (config(ONE, {"type": [], "index": 0}), "Received: type=[]"),
    "absent chief": (
        config(ONE, {"type": "chief", "index": 0}),
        "Received: type=chief",
    ),
    "no index": (config(ONE, {"type": "worker"}), "Received: index=null"),
    "index too high": (
        config(ONE, {"type": "worker", "index": 1}),
        "from 0 to 0, such as",
    ),
    "index negative": (config(ONE, {"type": "worker", "index": -1}), "index=-1"),
    "index a string": (config(ONE, {"type": "worker", "index": "0"}), 'index="0"'),
    "index a boolean": (config(ONE, {"type": "worker", "index": False}), "index=false"),
}


@pytest.mark.parametrize(("text", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_tf_config_is_told_with_an_example(text, said):
    with pytest.raises(PmalError) as caught:
        read_cluster(text)
    message = str(caught.value)
    assert said in message
    example = message.partition("such as TF_CONFIG='")[2].partition("'")[0]
    assert read_cluster(example) == Cluster(("host1:2222", "host2:2222"), 0)


def test_a_long_tf_config_is_not_told_in_full():
    with pytest.raises(PmalError) as caught:
        read_cluster("x" * 10_000)
    assert len(str(caught.value)) < 1000


# --- Waiting ---


def test_hosts_that_wait_for_each_other_meet(watch):
    """Each knocks at the other's port, where nobody but the waiting itself listens."""
    first, second = free_ports(2)
    hosts = (f"127.0.0.1:{first}", f"localhost:{second}")
    met = threading.Barrier(2)

    def wait(index):
        with waiting_for_hosts(Cluster(hosts, index), 20):
            # The constructor takes the port over.
            with socket.create_server(("", (first, second)[index])):
                met.wait(20)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        for done in [pool.submit(wait, 0), pool.submit(wait, 1)]:
            done.result()
    assert sorted(map(str, watch)) == sorted(["(20, True)", "cancelled"] * 2)


def test_a_host_that_answered_once_has_come(watch):
    cluster = local_cluster(3)
    _, left, late = map(port_of, cluster.hosts)

    def come_and_go():
        for port in (left, late):
            with socket.create_server(("127.0.0.1", port)) as server:
                server.accept()[0].close()

    with concurrent.futures.ThreadPoolExecutor() as pool:
        done = pool.submit(come_and_go)
        with waiting_for_hosts(cluster, 20):
            assert module._reason_of_silence(cluster.hosts[1]) == "Connection refused"
        done.result()


def test_one_host_waits_for_nobody(watch):
    start = time.monotonic()
    with waiting_for_hosts(local_cluster(1), 20):
        assert watch == [(20, True)]
    assert watch == [(20, True), "cancelled"]
    assert time.monotonic() - start < 5


def test_hosts_that_do_not_come_are_named(watch, logged):
    cluster = local_cluster(3, index=1)
    with (
        socket.create_server(("127.0.0.1", port_of(cluster.hosts[0]))),
        pytest.raises(PmalError) as caught,
        waiting_for_hosts(cluster, 0.5, remark_seconds=0),
    ):
        pytest.fail("The constructor would block.")
    missing = f"{cluster.hosts[2]} (Connection refused)"
    assert (
        "within --worker_timeout_seconds=0.5. Received: no answer from "
        f"{missing}. Start the same command there" in str(caught.value)
    )
    # Told once, though it knocked several times since.
    assert logged == [f"Still waiting for {missing}, up to 0 s more"]
    assert watch == []


@pytest.mark.parametrize("name", ["a..b", f"{'a' * 64}.b"])
def test_what_cannot_be_the_name_of_a_host_is_told(name):
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
def test_a_port_of_another_process_is_told(watch, address):
    """Even of one that would share it, as gRPC's servers do by default."""
    cluster = local_cluster(1)
    with socket.socket() as other:
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            other.setsockopt(socket.SOL_SOCKET, option, 1)
        other.bind((address, port_of(cluster.own)))
        other.listen()
        said = f"another process already listens on {cluster.own}"
        with pytest.raises(PmalError, match=said), waiting_for_hosts(cluster, 20):
            pytest.fail("The constructor would fail.")


def test_a_port_that_may_not_be_used_is_told(watch, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module.socket, "create_server", denied)
    said = "Received: a:80: Permission denied. Choose a port from 1024 on"
    with (
        pytest.raises(PmalError, match=said),
        waiting_for_hosts(Cluster(("a:80",), 0), 1),
    ):
        pytest.fail("The constructor would fail.")


def test_connections_of_a_run_that_has_just_ended_do_not_matter(watch):
    cluster = local_cluster(1)
    address = ("127.0.0.1", port_of(cluster.own))
    with socket.create_server(address) as server:
        client = socket.create_connection(address)
        # Whoever closes first keeps the connection for a minute (TIME_WAIT).
        server.accept()[0].close()
        client.close()
    with waiting_for_hosts(cluster, 20):
        pass


def test_a_port_taken_in_the_last_moment_is_told(watch):
    cluster = local_cluster(1)
    said = f"another process already listens on {cluster.own}"
    with pytest.raises(PmalError, match=said), waiting_for_hosts(cluster, 20):
        raise tf.errors.UnknownError(None, None, "Could not start gRPC server")
    assert watch[-1] == "cancelled"


def test_other_errors_of_the_constructor_pass(watch):
    with (
        pytest.raises(ValueError, match="other"),
        waiting_for_hosts(local_cluster(1), 20),
    ):
        raise ValueError("other")
    assert watch[-1] == "cancelled"


def test_sigterm_ends_the_process_as_before(watch):
    def before(*_):
        pass

    original = signal.signal(signal.SIGTERM, before)
    try:
        with waiting_for_hosts(local_cluster(1), 20):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # As TensorFlow does.
        assert signal.getsignal(signal.SIGTERM) is before
    finally:
        signal.signal(signal.SIGTERM, original)


def test_a_constructor_that_does_not_return_ends_the_process():
    """It holds the interpreter's lock, so that nothing in Python could."""
    code = (
        "import ctypes\n"
        "from pmal_tf.runtime.cluster import Cluster, waiting_for_hosts\n"
        f"with waiting_for_hosts({local_cluster(1)!r}, 0.3):\n"
        "    ctypes.PyDLL(None).sleep(60)\n"
    )
    start = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert process.returncode == 1
    assert "Timeout" in process.stderr
    assert time.monotonic() - start < 30


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
        tf.errors.AbortedError,
        f"{GRAPH}Collective ops is aborted by: Error reported from /job:worker/task:1: "
        "/job:worker/replica:0/task:1 unexpectedly tried to connect with a different "
        f"incarnation. It has likely restarted.{AGAIN}",
        "worker 1: Error reported from /job:worker/task:1: /job:worker/replica:0/task:1"
        " unexpectedly tried to connect with a different incarnation. It has likely "
        "restarted.",
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
    error = kind(None, None, text)
    assert is_lost_worker(error)
    assert reason_of_loss(error) == reason


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
        tf.errors.InternalError(None, None, "cuDNN launch failure"),
        tf.errors.CancelledError(None, None, "Operation was cancelled"),
        concurrent.futures.CancelledError(),
        KeyboardInterrupt(),
        ConnectionResetError("Connection reset by peer"),
        PmalError("Collective ops is aborted by: x"),
    ],
)
def test_errors_of_this_host_are_no_losses(error):
    assert not is_lost_worker(error)
    assert reason_of_loss(error)
