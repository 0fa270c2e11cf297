"""A web server on this machine, in place of the hosts of datasets."""

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class LocalServer:
    """Serves `files`, by path without the first slash.

    Attributes:
        files: What it serves.
        ranges: Whether it can send a part of a file.
        cut_after: Bytes after which it breaks the connection; None: never.
        hold: If given, it sends half of a file and waits for this event.
        asked: What was asked for: (path, `Range` header or None).
    """

    def __init__(self):
        self.files = {}
        self.ranges = True
        self.cut_after = None
        self.hold = None
        self.asked = []
        self.url = ""


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        state = self.server.state
        name, wanted = self.path[1:], self.headers["Range"]
        state.asked.append((name, wanted))
        if name not in state.files:
            self.send_error(404)
            return
        data, start = state.files[name], 0
        if wanted and state.ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start and start >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            last = len(data) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(data)}")
        body = data[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):  # A client that only asks hangs up.
            self._send(body, state)

    def _send(self, body, state):
        if state.hold is not None:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            state.hold.wait()
        elif state.cut_after is not None:
            self.wfile.write(body[: state.cut_after])
        else:
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def local_server():
    """Runs a server and yields its `LocalServer`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.state = LocalServer()
    server.state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.state
    finally:
        if server.state.hold is not None:
            server.state.hold.set()
        server.shutdown()
        server.server_close()
        thread.join()
