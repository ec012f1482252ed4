import os
import signal
import socket
import subprocess
import sys
import tempfile
from types import SimpleNamespace

import httpx
import pytest


def test_missing_gradio_is_one_message_that_names_the_extra():
    code = "import sys; sys.modules['gradio'] = None; from transformers_cxr.cli.main import app; app(['demo'])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr == "Error: The demo page needs gradio: `pip install transformers-cxr[demo]`.\n"


def test_port_in_use_is_one_message(run, checkpoint_dir):
    pytest.importorskip("gradio")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = run("demo", "--port", port, "--model", checkpoint_dir, "--device", "cpu")
    assert result.exit_code == 1 and str(port) in result.stderr and "Traceback" not in result.output


def test_sigterm_stops_the_page_and_deletes_its_folder(run, tmp_path, checkpoint_dir, monkeypatch):
    pytest.importorskip("gradio")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    pages = []

    def stop(seconds):
        pages.append(httpx.get(f"http://127.0.0.1:{port}", timeout=30).text)
        pages.append(list(tmp_path.glob("transformers-cxr-demo-*")))
        os.kill(os.getpid(), signal.SIGTERM)

    # The command sleeps when the page is served.
    monkeypatch.setattr("transformers_cxr.cli.demo.time", SimpleNamespace(sleep=stop))
    before = signal.getsignal(signal.SIGTERM)
    try:
        result = run("demo", "--port", port, "--model", checkpoint_dir, "--device", "cpu")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert result.exit_code == 0 and f":{port}" in result.stdout
    page, folders = pages
    assert f"Checkpoint: {checkpoint_dir}" in page and folders
    # Gradio may leave empty folders of its own.
    assert not list(tmp_path.glob("transformers-cxr-demo-*"))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
