"""An S3 server on this machine that injects faults on request: `moto` behind a small middleware.

`python -m tests.s3_server PORT` serves until it is killed; `S3` starts it and controls its faults.
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
class Trouble:
    """A fault that is injected into every `every`-th request that matches, at most `times` times."""

    kind: str
    """`slow_down` (503), `error` (500), `gone` (the bucket no longer exists, from this request on), `denied`,
    `expired` and `stranger` (credentials that have expired or are unknown), `delay` (1 s), `reset` (the
    connection, before the request is processed), `lost` (the request is processed, its response is not sent),
    `cut` (half of the body is sent), `unconditional` (If-None-Match is ignored)."""
    method: str = ".*"
    path: str = ".*"
    every: int = 1
    times: int = 1 << 30


class S3:
    """A server in a process of its own, with one bucket named `bucket`."""

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
                self.calm()
                break
            except OSError:
                assert self._process.poll() is None and time.monotonic() < deadline, "no S3 server"
                time.sleep(0.1)
        self._send("/bucket", b"")

    def trouble(self, *troubles: Trouble) -> None:
        """Inject these faults from now on, and reset the list of requests."""
        self._send(CONTROL, json.dumps([asdict(trouble) for trouble in troubles]).encode())

    def calm(self) -> None:
        """Inject no faults from now on, and reset the list of requests."""
        self.trouble()

    def requests(self) -> list[tuple[str, str, str]]:
        """(method, path, query) of every request since `trouble` or `calm`."""
        return [tuple(each) for each in self._state()["requests"]]

    def injected(self) -> int:
        """Number of faults injected since `trouble`."""
        return int(self._state()["injected"])

    def fill(self, folder: str, count: int) -> None:
        """Put `count` records 000000.json, 000001.json, … into a folder of the bucket, with one request."""
        self._send(f"{CONTROL}?{folder}={count}", b"null")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def _state(self) -> Any:
        with urllib.request.urlopen(self.endpoint + CONTROL, timeout=30) as response:
            return json.loads(response.read())

    def _send(self, path: str, data: bytes) -> None:
        request = urllib.request.Request(self.endpoint + path, data=data, method="PUT")
        urllib.request.urlopen(request, timeout=30).close()


class Faults:
    """WSGI middleware that injects faults, and logs requests."""

    def __init__(self, app: Any) -> None:
        self.app, self.lock = app, threading.Lock()
        self.set([])

    def set(self, troubles: list[dict[str, Any]]) -> None:
        self.troubles = [Trouble(**trouble) for trouble in troubles]
        self.seen, self.left = [0] * len(troubles), [trouble.times for trouble in self.troubles]
        self.log: list[tuple[str, str, str]] = []
        self.injected, self.gone = 0, False

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if path == CONTROL:
            return self.control(environ, start_response)
        kind = self.choose(method, path, environ.get("QUERY_STRING", ""))
        if kind is None:
            return self.app(environ, start_response)
        if kind == "delay":
            time.sleep(1.0)
            return self.app(environ, start_response)
        if kind == "unconditional":
            environ.pop("HTTP_IF_NONE_MATCH", None)
            return self.app(environ, start_response)
        if kind == "cut":
            return self.cut(environ, start_response)
        if kind == "lost":
            list(self.app(environ, lambda *_: None))
        else:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if kind in ("lost", "reset"):
            hang_up(environ["werkzeug.socket"])
            return []
        return refuse(kind, method, start_response)

    def choose(self, method: str, path: str, query: str) -> str | None:
        with self.lock:
            self.log.append((method, path, query))
            if self.gone:
                return "gone"
            for number, trouble in enumerate(self.troubles):
                if not (re.fullmatch(trouble.method, method) and re.fullmatch(trouble.path, path)):
                    continue
                self.seen[number] += 1
                if self.left[number] and self.seen[number] % trouble.every == 0:
                    self.left[number] -= 1
                    self.injected += 1
                    self.gone = trouble.kind == "gone"
                    return trouble.kind
        return None

    def control(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        with self.lock:
            if environ["REQUEST_METHOD"] == "PUT":
                troubles = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
                if troubles is None:
                    fill(*environ["QUERY_STRING"].split("="))
                else:
                    self.set(troubles)
            state = json.dumps({"requests": self.log, "injected": self.injected}).encode()
        start_response("200 OK", [("Content-Length", str(len(state)))])
        return [state]

    def cut(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        body = b"".join(self.app(environ, start_response))
        return [body[: len(body) // 2]]  # the Content-Length is that of the whole body


def fill(folder: str, count: str) -> None:
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    for number in range(int(count)):
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object("bucket", f"{folder}/{number:06d}.json", b"{}")


def hang_up(connection: socket.socket) -> None:
    """Reset the connection, so that the client notices at once."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(connection.detach())


REFUSALS = {
    "slow_down": ("503 Slow Down", "SlowDown", "Please reduce your request rate."),
    "error": ("500 Internal Server Error", "InternalError", "We encountered an internal error."),
    "gone": ("404 Not Found", "NoSuchBucket", "The specified bucket does not exist"),
    "denied": ("403 Forbidden", "AccessDenied", "Access Denied"),
    "expired": ("400 Bad Request", "ExpiredToken", "The provided token has expired."),
    "stranger": ("403 Forbidden", "InvalidAccessKeyId", "The access key Id does not exist in our records."),
}


def refuse(kind: str, method: str, start_response: Any) -> list[bytes]:
    status, code, message = REFUSALS[kind]
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [] if method == "HEAD" else [body]


def main() -> None:
    """Serve on the port that the command line names."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    app = Faults(DomainDispatcherApplication(create_backend_app))
    run_simple("127.0.0.1", int(sys.argv[1]), app, threaded=True)


if __name__ == "__main__":
    main()
