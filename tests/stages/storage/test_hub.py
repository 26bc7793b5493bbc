"""Checkpoints of the Hugging Face hub, from a server on this machine that speaks the hub's API.

The library reads its settings when it is imported, so each case is a process with an environment of its own.
"""

import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from capfilt.stages.storage.hub import HubAddress, HubError, _check_private, parse_hub_address

COMMITS = {"main": "a" * 40, "v1": "b" * 40, "refs/pr/1": "c" * 40}
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "model-00001-of-00002.safetensors": b"shard",
    "pytorch_model.bin": b"older weights",
    "tokenizer.json": b"{}",
    "vocab.txt": b"[PAD]",
    "README.md": b"# model",
    "tf_model.h5": b"of another library",
    "onnx/model.onnx": b"of another library",
    "blip/config.json": b"{}",
    "blip/model.safetensors": b"nested",
    "model.pth": b"pickle",
}
WEIGHTS = ["model-00001-of-00002.safetensors", "model.safetensors", "pytorch_model.bin"]
SMALL = ["config.json", "tokenizer.json", "vocab.txt"]
ASK = """
import json, sys
from pathlib import Path
from capfilt.stages.storage.artifacts import ArtifactError, check_artifact, ensure_local
found = []
for function, address, key in json.load(sys.stdin):
    try:
        path = globals()[function](address, key)
        folder = Path(path or ".")
        files = folder.rglob("*") if folder.is_dir() else []
        found.append([path, sorted(str(file.relative_to(folder)) for file in files if file.is_file())])
    except ArtifactError as error:
        found.append(str(error))
print(json.dumps(found))
"""


class Hub(BaseHTTPRequestHandler):
    """Two endpoints of the hub: what a repository has, and its files."""

    requests: ClassVar[list[tuple[str, str]]]
    tokens: ClassVar[list[str | None]]

    def do_GET(self):
        self.requests.append((self.command, self.path))
        self.tokens.append(self.headers.get("Authorization"))
        path = self.path.partition("?")[0].replace("%2F", "/")
        api = re.fullmatch(r"/api/models/(\w+/[\w-]+)(?:/(revision|tree)/(.+))?", path)
        file = re.fullmatch(r"/(\w+/[\w-]+)/resolve/(\w+)/(.+)", path)
        name = (api or file)[1] if api or file else ""
        if name == "org/gated" and self.headers.get("Authorization") != "Bearer hf_test":
            self.answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif name not in ("org/name", "org/gated", "org/empty"):
            self.answer(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif api and api[2] == "tree":
            names = [] if name == "org/empty" else FILES
            files = [{"type": "file", "path": n, "size": len(FILES[n]), "oid": n} for n in names]
            self.answer(200, json.dumps(files).encode(), {})
        elif api:
            commit = COMMITS.get(api[3] or "main")
            if commit is None:
                self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            else:
                info = {"id": name, "modelId": name, "sha": commit, "siblings": [], "private": False}
                self.answer(200, json.dumps(info).encode(), {})
        else:
            body = FILES[file[3]]
            self.answer(200, body, {"ETag": f'"{file[3]}"', "X-Repo-Commit": file[2]})

    do_HEAD = do_GET

    def answer(self, code, body, headers):
        self.send_response(code)
        for name, value in {
            "Content-Length": str(len(body)),
            "Content-Type": "application/json",
            **headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *words):
        pass


@pytest.fixture
def hub(tmp_path):
    """A hub, and a function that calls `ensure_local` and `check_artifact` with it in a process."""

    class OwnHub(Hub):
        requests: ClassVar[list[tuple[str, str]]] = []
        tokens: ClassVar[list[str | None]] = []

    server = ThreadingHTTPServer(("127.0.0.1", 0), OwnHub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def ask(*questions, **environment):
        kept = {n: v for n, v in os.environ.items() if not n.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))}
        own = {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
            "HF_HOME": str(tmp_path / "hub"),
            "TMPDIR": str(tmp_path),
            "HF_HUB_DISABLE_XET": "1",
        }
        done = subprocess.run(
            [sys.executable, "-c", ASK],
            input=json.dumps(questions),
            capture_output=True,
            text=True,
            env=kept | own | environment,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        answers = json.loads(done.stdout)
        assert all("\n" not in each for each in answers if isinstance(each, str))
        return answers

    ask.requests, ask.tokens = OwnHub.requests, OwnHub.tokens
    yield ask
    server.shutdown()
    thread.join()
    server.server_close()


def test_what_is_downloaded_where_it_lies_and_what_the_library_allows_without_a_network(hub, tmp_path):
    def names(folder, commit="a"):
        return f"{tmp_path}/hub/hub/models--org--name/snapshots/{commit * 40}{folder}"

    checked, tokenizer, again = hub(
        ["check_artifact", "hf://org/name", "model.text_start"],
        ["ensure_local", "hf://org/name", "captioner.tokenizer"],
        ["check_artifact", "hf://org/name", "model.text_start"],
    )
    assert checked[0] is None and again[0] is None
    assert tokenizer == [names(""), SMALL]
    assert not any(path.endswith(tuple(WEIGHTS)) for _, path in hub.requests)
    main, tag, request, nested, file = hub(
        ["ensure_local", "hf://org/name", "captioner.checkpoint"],
        ["ensure_local", "hf://org/name@v1", "captioner.checkpoint"],
        ["ensure_local", "hf://org/name@refs%2Fpr%2F1/", "captioner.checkpoint"],
        ["ensure_local", "hf://models/org/name@v1/blip", "captioner.checkpoint"],
        ["ensure_local", "hf://org/name/model.pth", "captioner.checkpoint"],
    )
    assert main == [names(""), sorted(SMALL + WEIGHTS)]
    assert tag == [names("", "b"), sorted(SMALL + WEIGHTS)]
    assert request[0] == names("", "c")
    assert nested == [names("/blip", "b"), ["config.json", "model.safetensors"]]
    assert file == [names("/model.pth"), []]
    assert not any(path.endswith((".md", ".h5", ".onnx")) for _, path in hub.requests)
    seen = len(hub.requests)
    for environment in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        cached, absent = hub(
            ["ensure_local", "hf://org/name@v1", "captioner.checkpoint"],
            ["ensure_local", "hf://org/other", "filter.checkpoint"],
            **environment,
        )
        assert cached[0] == names("", "b")
        assert absent.startswith(
            "filter.checkpoint: hf://org/other is not in the hub's cache on this machine"
        )
        assert ("HF_HUB_OFFLINE is set" in absent) == ("HF_HUB_OFFLINE" in environment)
        assert "copy the folder and give its path" in absent
    assert len(hub.requests) == seen
    assert not list(tmp_path.glob("capfilt-artifacts-*"))


def test_what_cannot_be_read_is_one_line(hub):
    questions = [
        ["ensure_local", "hf://org/none", "captioner.checkpoint"],
        ["check_artifact", "hf://org/none", "model.text_start"],
        ["ensure_local", "hf://org/gated", "captioner.checkpoint"],
        ["ensure_local", "hf://org/name@v9", "captioner.checkpoint"],
        ["ensure_local", "hf://org/empty", "captioner.checkpoint"],
        ["ensure_local", "hf://org/name/none", "captioner.checkpoint"],
        ["ensure_local", "hf://datasets/org/name", "captioner.checkpoint"],
    ]
    none, checked, gated, revision, empty, path, data = hub(*questions)
    assert none.startswith("captioner.checkpoint: no repository org/none on the hub, or it is private: check")
    assert checked.startswith("model.text_start: no repository org/none on the hub")
    assert gated.startswith(
        "captioner.checkpoint: hf://org/gated is gated: accept its terms at http://127.0.0.1:"
    )
    assert "/org/gated, then log in with `hf auth login` or set HF_TOKEN" in gated
    assert "has no revision 'v9'; give a branch, a tag or a commit" in revision
    assert empty.startswith("captioner.checkpoint: hf://org/empty: nothing there that could be a checkpoint")
    assert path.startswith(
        "captioner.checkpoint: hf://org/name/none: nothing there that could be a checkpoint"
    )
    assert data.startswith(
        "captioner.checkpoint: hf://datasets/org/name is no model on the hub; write hf://org/"
    )
    assert set(hub.tokens) == {None}
    ((folder, files),) = hub(["ensure_local", "hf://org/gated", "x.checkpoint"], HF_TOKEN="hf_test")
    assert "models--org--gated" in folder and files == sorted(SMALL + WEIGHTS)
    assert "Bearer hf_test" in hub.tokens


QUESTION = ["ensure_local", "hf://org/name@v1", "captioner.checkpoint"]


@pytest.mark.parametrize(
    "place",
    ["hub", "hub/hub", "hub/hub/models--org--name/snapshots", "hub/hub/models--org--name/blobs/config.json"],
)
def test_a_cache_that_everybody_can_change_is_refused(hub, tmp_path, place):
    before = hub(QUESTION)[0]
    assert before[1] == sorted(SMALL + WEIGHTS)
    found = tmp_path / place
    mode = found.stat().st_mode
    found.chmod(mode | 0o002)
    (refusal,) = hub(QUESTION)
    assert refusal.startswith(f"captioner.checkpoint: {found} can be changed by every user of this machine")
    assert "set HF_HOME to a folder of your own" in refusal
    found.chmod(mode | 0o020)  # a group shares it
    assert hub(QUESTION) == [before]


def test_a_cache_of_another_user_is_refused_where_everybody_may_make_one(tmp_path, monkeypatch):
    shared, user = tmp_path / "shared", os.getuid()
    cache = shared / "cache"
    cache.mkdir(parents=True)
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    stat = Path.stat
    foreign = SimpleNamespace(st_uid=user + 2, st_mode=cache.stat().st_mode)
    monkeypatch.setattr(Path, "stat", lambda path, **k: foreign if path == cache else stat(path, **k))
    _check_private(cache / "weights", "hf://org/name")  # only its owner could have made the folder above
    shared.chmod(0o1777)
    with pytest.raises(
        HubError, match=rf"^{cache} belongs to another user of this machine, so hf://org/name"
    ):
        _check_private(cache / "weights", "hf://org/name")
    for trusted in (0, user + 1):
        foreign.st_uid = trusted
        _check_private(cache / "weights", "hf://org/name")


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("hf://org/name", ("org/name", None, "")),
        ("hf://org/name/", ("org/name", None, "")),
        ("hf://models/org/name", ("org/name", None, "")),
        ("hf://org-1/na.me_2@v1.0", ("org-1/na.me_2", "v1.0", "")),
        ("hf://org/name@refs%2Fpr%2F1/a/b.pth", ("org/name", "refs/pr/1", "a/b.pth")),
    ],
)
def test_parts_of_an_address(address, parts):
    assert parse_hub_address(address) == HubAddress(*parts)


@pytest.mark.parametrize(
    "address",
    ["hf://", "hf://name", "hf:///org/name", "hf://org/", "hf://datasets/org/name", "hf://spaces/a/b", "hf://a/b@",
     "hf://a/b@v/c@d", "hf://a b/c", "hf://a/b?x"],
)  # fmt: skip
def test_other_addresses_are_refused(address):
    with pytest.raises(
        HubError, match="is no model on the hub; write hf://org/name or hf://org/name@revision"
    ):
        parse_hub_address(address)
