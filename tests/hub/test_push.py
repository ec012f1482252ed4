"""`transformers-cxr push` to a server on this machine that answers as the Hub does."""

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import ThreadingHTTPServer

import pytest

from ..conftest import JsonHandler
from .test_cards import COMPLETE

SHA = "a" * 40


class Hub(JsonHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        self.answer({"sha": SHA, "siblings": [], "id": "user/own"})

    def do_POST(self):
        self.server.requests.append(self.path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != "Bearer hf_secret":
            return self.answer({"error": "Invalid credentials"}, 401)
        url = f"http://{self.headers['Host']}/user/own"
        if self.path == "/api/repos/create":
            return self.answer({"url": url})
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            return self.answer({"files": [{"path": file["path"], **modes} for file in files]})
        if "/commit/" in self.path:
            rows = [json.loads(line) for line in body.splitlines()]
            files = [row["value"] for row in rows if row["key"] == "file"]
            self.server.files |= {f["path"]: base64.b64decode(f["content"]) for f in files}
            return self.answer({"commitUrl": f"{url}/commit/{SHA}", "commitOid": SHA, "success": True})
        self.answer({"error": "unknown"}, 404)


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.requests, server.files = [], {}
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()


@pytest.fixture
def push(hub, tmp_path):
    """`push(token)`: push the folder `model` to `user/own`."""
    folder = tmp_path / "model"
    (folder / "samples").mkdir(parents=True)
    for name in ("README.md", "config.json", "model.safetensors", "samples/step.png"):
        (folder / name).write_text(COMPLETE if name == "README.md" else name)

    def run(token="hf_secret"):
        # Endpoint and token are read at import.
        environment = os.environ | {
            "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_TOKEN": token, "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1",
        }  # fmt: skip
        command = [sys.executable, "-m", "transformers_cxr.cli.main", "push", str(folder), "user/own"]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    return run


def test_the_files_of_a_checkpoint_are_uploaded_without_its_subfolders(push, hub, tmp_path):
    result = push()
    assert result.returncode == 0, result.stderr
    assert f"/commit/{SHA}" in result.stdout and "user/own" in result.stdout
    names = ("README.md", "config.json", "model.safetensors")
    assert hub.files == {name: (tmp_path / "model" / name).read_bytes() for name in names}


def test_an_incomplete_card_is_refused_before_anything_is_sent(push, hub, tmp_path):
    (tmp_path / "model/README.md").write_text(COMPLETE.replace("license: mit\n", ""))
    result = push()
    assert result.returncode == 1 and "lacks `license`." in result.stderr and "Traceback" not in result.stderr
    assert hub.requests == []


def test_a_refusal_of_the_hub_is_a_message(push):
    result = push(token="hf_wrong")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert result.stderr.startswith("Error: ") and "401" in result.stderr, result.stderr
