"""An S3 server on the loopback interface that injects faults: `moto` behind a WSGI middleware.

`python -m tests.s3_server PORT` serves until it is killed; `S3` starts and controls it.
"""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import asdict, dataclass
from typing import Any

CONTROL = "/.faults"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "not-a-secret-but-looked-for",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@dataclass(frozen=True)
class S3Fault:
    """A fault in every `every`-th request that matches, at most `times` times."""

    kind: str
    """`slow_down` (503), `error` (500), `no_bucket` (for all requests from this one on), `denied`, `expired`
    (credentials), `unknown_key` (credentials), `delay` (1 s), `reset` (of the connection, before the request
    is executed), `lost_response` (after the request is executed), `truncate` (half of the body is sent),
    `unconditional` (If-None-Match is ignored)."""
    method: str = ".*"
    """Regular expression for the HTTP method."""
    path: str = ".*"
    """Regular expression for the path of the URL."""
    every: int = 1
    times: int = 1 << 30


class S3:
    """Controls a server in a process of its own; it has one bucket, `bucket`."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{port}"
        self.environment = ENVIRONMENT | {"AWS_ENDPOINT_URL": self.endpoint}
        self.options = {
            "endpoint_url": self.endpoint,
            "key": ENVIRONMENT["AWS_ACCESS_KEY_ID"],
            "secret": ENVIRONMENT["AWS_SECRET_ACCESS_KEY"],
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.s3_server", str(port)],
            env=os.environ | ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                self.clear_faults()
                break
            except OSError:
                assert self._process.poll() is None and time.monotonic() < deadline, "no S3 server"
                time.sleep(0.1)
        self._send("/bucket", b"")

    def inject(self, *faults: S3Fault) -> None:
        """Replace the faults by these, and reset the counts of requests."""
        self._send(CONTROL, json.dumps([asdict(fault) for fault in faults]).encode())

    def clear_faults(self) -> None:
        """Remove all faults, and reset the counts of requests."""
        self.inject()

    def requests(self) -> list[tuple[str, str, str]]:
        """(method, path, query) of every request since the faults were last set."""
        return [tuple(request) for request in self._read_state()["requests"]]

    def count_injected(self) -> int:
        """Faults that occurred since they were set."""
        return int(self._read_state()["injected"])

    def fill(self, folder: str, count: int) -> None:
        """Write records 000000.json, 000001.json, … to a folder of the bucket, with one request."""
        self._send(f"{CONTROL}?{folder}={count}", b"null")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def _read_state(self) -> Any:
        with urllib.request.urlopen(self.endpoint + CONTROL, timeout=30) as response:
            return json.loads(response.read())

    def _send(self, path: str, data: bytes) -> None:
        request = urllib.request.Request(self.endpoint + path, data=data, method="PUT")
        urllib.request.urlopen(request, timeout=30).close()


class FaultInjector:
    """WSGI middleware that logs requests and injects faults."""

    def __init__(self, app: Any) -> None:
        self.app, self.lock = app, threading.Lock()
        self.set([])

    def set(self, faults: list[dict[str, Any]]) -> None:
        self.faults = [S3Fault(**fault) for fault in faults]
        self.matched, self.remaining = [0] * len(faults), [fault.times for fault in self.faults]
        self.log: list[tuple[str, str, str]] = []
        self.injected, self.has_bucket = 0, True

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if path == CONTROL:
            return self.control(environ, start_response)
        kind = self.choose_fault(method, path, environ.get("QUERY_STRING", ""))
        if kind is None:
            return self.app(environ, start_response)
        if kind == "delay":
            time.sleep(1.0)
            return self.app(environ, start_response)
        if kind == "unconditional":
            environ.pop("HTTP_IF_NONE_MATCH", None)
            return self.app(environ, start_response)
        if kind == "truncate":
            return self.truncate(environ, start_response)
        if kind == "lost_response":
            list(self.app(environ, lambda *_: None))
        else:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if kind in ("lost_response", "reset"):
            reset_connection(environ["werkzeug.socket"])
            return []
        return respond_with_error(kind, method, start_response)

    def choose_fault(self, method: str, path: str, query: str) -> str | None:
        """Kind of the fault of this request, None for a request without fault."""
        with self.lock:
            self.log.append((method, path, query))
            if not self.has_bucket:
                return "no_bucket"
            for number, fault in enumerate(self.faults):
                if not (re.fullmatch(fault.method, method) and re.fullmatch(fault.path, path)):
                    continue
                self.matched[number] += 1
                if self.remaining[number] and self.matched[number] % fault.every == 0:
                    self.remaining[number] -= 1
                    self.injected += 1
                    self.has_bucket = fault.kind != "no_bucket"
                    return fault.kind
        return None

    def control(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        with self.lock:
            if environ["REQUEST_METHOD"] == "PUT":
                faults = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
                if faults is None:
                    write_records(*environ["QUERY_STRING"].split("="))
                else:
                    self.set(faults)
            state = json.dumps({"requests": self.log, "injected": self.injected}).encode()
        start_response("200 OK", [("Content-Length", str(len(state)))])
        return [state]

    def truncate(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        body = b"".join(self.app(environ, start_response))
        return [body[: len(body) // 2]]  # with the whole body's Content-Length


def write_records(folder: str, count: str) -> None:
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    for number in range(int(count)):
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object("bucket", f"{folder}/{number:06d}.json", b"{}")


def reset_connection(connection: socket.socket) -> None:
    """Reset the connection, so that the client notices it at once."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(connection.detach())


ERRORS = {
    "slow_down": ("503 Slow Down", "SlowDown", "Please reduce your request rate."),
    "error": ("500 Internal Server Error", "InternalError", "We encountered an internal error."),
    "no_bucket": ("404 Not Found", "NoSuchBucket", "The specified bucket does not exist"),
    "denied": ("403 Forbidden", "AccessDenied", "Access Denied"),
    "expired": ("400 Bad Request", "ExpiredToken", "The provided token has expired."),
    "unknown_key": (
        "403 Forbidden",
        "InvalidAccessKeyId",
        "The access key Id does not exist in our records.",
    ),
}


def respond_with_error(kind: str, method: str, start_response: Any) -> list[bytes]:
    status, code, message = ERRORS[kind]
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [] if method == "HEAD" else [body]


def main() -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    app = FaultInjector(DomainDispatcherApplication(create_backend_app))
    run_simple("127.0.0.1", int(sys.argv[1]), app, threaded=True)


if __name__ == "__main__":
    main()
