"""Ray's job client against a stub of the dashboard's HTTP interface: jobs, and refusals in one line."""

import json
import logging
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import SimpleNamespace

import pytest
import ray

from capfilt.cluster.config import ClusterError
from capfilt.cluster.submission import client as module
from capfilt.cluster.submission.client import JobClient, Submission, explain_refusal, normalize_address

NO_AGENT = "Traceback (most recent call last):\n  …\nException: No available agent to submit job, try later."


class Dashboard:
    """Answers each request with (status, body) of `answers`: path → list, of which the last one stays."""

    def __init__(self):
        self.answers = {"/api/version": [(200, {"ray_version": ray.__version__, "version": "4"})]}
        self.requests = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.requests.append((self.command, self.path, body))
                default = (200, "") if self.path.startswith("/api/packages/") else (404, "unknown")
                queue = outer.answers.get(self.path, [default])
                status, content = queue.pop(0) if len(queue) > 1 else queue[0]
                data = content if isinstance(content, str) else json.dumps(content)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(data.encode())

            do_GET = do_POST = do_PUT = answer

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def dashboard(monkeypatch):
    for name in ("RAY_AUTH_MODE", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "POLL_SECONDS", 0)
    server = Dashboard()
    yield server
    server.close()


def details(job, status="RUNNING", run="s3://bucket/run", **more):
    return {
        "type": "SUBMISSION",
        "submission_id": job,
        "status": status,
        "entrypoint": "python",
        "metadata": {"capfilt_run": run, "capfilt_config": "abc"},
        **more,
    }


def test_jobs_of_a_run_the_newest_first(dashboard):
    listed = [
        details("a", "FAILED", start_time=1, message="x\ny", driver_exit_code=2),
        details("b", start_time=5),
        details("c", run="s3://bucket/other", start_time=7),
        {**details("d", start_time=9), "metadata": None},
    ]
    dashboard.answers["/api/jobs/"] = [(200, listed)]
    b, a = JobClient(dashboard.url).find("s3://bucket/run")
    assert (b.id, b.is_active, b.config) == ("b", True, "abc")
    assert (a.id, a.is_active, a.exit_code, a.message) == ("a", False, 2, "x")


def test_the_address_wins_over_the_variables_of_ray(dashboard, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    dashboard.answers["/api/jobs/"] = [(200, [])]
    assert JobClient(dashboard.url).find("x") == []


def submission(tmp_path):
    (tmp_path / "config.yaml").write_text("run: {}\n")
    environment = {"working_dir": str(tmp_path), "env_vars": {"A": "1"}}
    return Submission(id="j-1", run="r", config="abc", entrypoint="python x", runtime_env=environment)


def test_a_head_without_a_ready_node_is_asked_again(dashboard, tmp_path):
    busy = (500, NO_AGENT)
    dashboard.answers["/api/jobs/"] = [busy, busy, (200, {"job_id": "j-1", "submission_id": "j-1"})]
    JobClient(dashboard.url).submit(submission(tmp_path))
    sent = [
        json.loads(body) for method, path, body in dashboard.requests if (method, path)[1] == "/api/jobs/"
    ]
    assert len(sent) == 3
    assert sent[0]["metadata"] == {"capfilt_run": "r", "capfilt_config": "abc"}
    assert sent[0]["submission_id"] == "j-1" and sent[0]["runtime_env"]["env_vars"] == {"A": "1"}


def test_another_error_is_one_line_at_once(dashboard, tmp_path):
    dashboard.answers["/api/jobs/"] = [(500, "Traceback (most recent call last):\n f\nValueError: taken.")]
    with pytest.raises(ClusterError) as error:
        JobClient(dashboard.url).submit(submission(tmp_path))
    assert str(error.value) == f"{dashboard.url}: ValueError: taken"


def test_another_version_of_ray_is_refused(dashboard):
    dashboard.answers["/api/version"] = [(200, {"ray_version": "2.40.0", "version": "4"})]
    with pytest.raises(ClusterError, match=r"runs Ray 2\.40\.0, and this capfilt needs 2\.60"):
        JobClient(dashboard.url)


def test_a_patch_release_is_accepted(dashboard):
    version = ".".join([*ray.__version__.split(".")[:2], "99"])
    dashboard.answers["/api/version"] = [(200, {"ray_version": version, "version": "4"})]
    JobClient(dashboard.url)


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        ((401, "Unauthorized"), "requires a token; export RAY_AUTH_MODE=token"),
        ((403, "Forbidden"), "refuses the token of RAY_AUTH_TOKEN"),
        ((404, "no"), "404"),
        ((200, "<html>"), "not Ray's dashboard"),
        ((200, {"version": "1"}), "not Ray's dashboard"),
        ((502, "bad gateway"), "no Ray dashboard answers"),
    ],
)
def test_a_refusal_is_one_line(dashboard, answer, part):
    dashboard.answers["/api/version"] = [answer]
    with pytest.raises(ClusterError) as error:
        JobClient(dashboard.url)
    assert part in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith(dashboard.url)


def test_nobody_at_the_address_is_one_line(dashboard):
    dashboard.close()
    with pytest.raises(ClusterError, match=r"no Ray dashboard answers there .* --address http://HOST:8265"):
        JobClient(dashboard.url)


def test_a_token_that_is_not_found_is_told_from_one_that_is_not_sent():
    missing = explain_refusal("Authentication required: x", {"RAY_AUTH_MODE": "token"})
    assert "none is found in RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token" in missing
    assert "export RAY_AUTH_MODE=token" in explain_refusal("Authentication required: x", {})


def test_an_unknown_job_is_none(dashboard):
    dashboard.answers["/api/jobs/lost"] = [(404, "Job lost does not exist")]
    assert JobClient(dashboard.url).look("lost") is None


def test_a_job_is_waited_for(dashboard):
    states = [details("a"), details("a"), details("a", "STOPPED")]
    dashboard.answers["/api/jobs/a"] = [(200, each) for each in states]
    assert JobClient(dashboard.url).wait("a", 60).status == "STOPPED"
    dashboard.answers["/api/jobs/a"] = [(200, details("a"))]
    assert JobClient(dashboard.url).wait("a", 0).is_active


class Output:
    """Stands in for Ray's client: connections that break, each of which sends the output from its start."""

    def __init__(self, *connections):
        self.connections = list(connections)

    async def tail_job_logs(self, job_id):
        *parts, end = self.connections.pop(0)
        for part in parts:
            yield part
        if end == "breaks":
            raise RuntimeError("WebSocket connection closed unexpectedly")


def test_output_is_written_once_over_broken_connections(dashboard):
    states = [details("a"), details("a"), details("a", "SUCCEEDED")]
    dashboard.answers["/api/jobs/a"] = [(200, each) for each in states]
    client, written = JobClient(dashboard.url), []
    real, output = (
        client._client,
        Output(["one\n", "breaks"], ["one", "\ntwo\n", "breaks"], ["one\ntwo\nend\n", ""]),
    )
    output.get_job_info = real.get_job_info
    client._client = output
    assert client.follow("a", written.append).status == "SUCCEEDED"
    assert "".join(written) == "one\ntwo\nend\n"


@pytest.fixture
def clock(monkeypatch):
    """The time, which passes by one second in each pause."""
    clock = SimpleNamespace(now=0.0)

    def sleep(seconds):
        clock.now += 1

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep))
    return clock


def test_a_dashboard_that_answers_again_in_time_is_followed_further(dashboard, clock):
    silent = [(502, "bad gateway")] * 29
    dashboard.answers["/api/jobs/a"] = [*silent, (200, details("a")), *silent, (200, details("a", "FAILED"))]
    client, written = JobClient(dashboard.url), []
    output = Output(*[["one\n", "breaks"]] * 59, ["one\ntwo\n", ""])
    output.get_job_info = client._client.get_job_info
    client._client = output
    assert client.follow("a", written.append).status == "FAILED"
    assert "".join(written) == "one\ntwo\n"


def test_a_dashboard_that_no_longer_answers_is_named_with_the_way_back(dashboard, clock):
    client = JobClient(dashboard.url)
    output = Output(*[["one\n", "breaks"]] * 99)
    output.get_job_info = client._client.get_job_info
    client._client = output
    dashboard.close()
    with pytest.raises(ClusterError) as error:
        client.follow("a", lambda text: None)
    assert "no Ray dashboard answers there" in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).endswith("submits the run again if the head was lost: it resumes")
    assert clock.now == 30


def test_a_head_that_was_started_anew_is_named(dashboard):
    client = JobClient(dashboard.url)
    output = Output(["one\n", "breaks"])
    output.get_job_info = client._client.get_job_info
    client._client = output
    with pytest.raises(ClusterError, match=r"does not know job a any more: .* it resumes"):
        client.follow("a", lambda text: None)


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("head:8265", "http://head:8265"),
        ("https://ray.example.org/", "https://ray.example.org"),
        ("http://127.0.0.1:8265", "http://127.0.0.1:8265"),
    ],
)
def test_an_address_is_a_url(given, url):
    assert normalize_address(given) == url


@pytest.mark.parametrize("given", ["ray://head:10001", "http://", "http://head:port"])
def test_an_address_of_another_server_is_refused(given):
    with pytest.raises(ClusterError, match=r"--address .*: give the dashboard of the head"):
        normalize_address(given)


def test_ray_says_nothing_of_its_own_about_an_upload(dashboard, tmp_path):
    """Two of its loggers set a level of their own when they are imported."""
    (tmp_path / "config.yaml").write_text("run: {}\n")
    dashboard.answers["/api/jobs/"] = [(200, {"job_id": "a", "submission_id": "a"})]
    said = []
    handler = logging.Handler()
    handler.emit = said.append
    logging.getLogger("ray").addHandler(handler)
    try:
        environment = {"working_dir": str(tmp_path)}
        JobClient(dashboard.url).submit(
            Submission(id="a", run="r", config="c", entrypoint="true", runtime_env=environment)
        )
    finally:
        logging.getLogger("ray").removeHandler(handler)
    assert any(path.startswith("/api/packages/") for _, path, _ in dashboard.requests)
    assert [record.getMessage() for record in said] == []
