import os
import re
import signal
import socket
import subprocess
import sys

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


def test_sigterm_stops_the_page_and_deletes_its_folder(tmp_path, checkpoint_dir):
    pytest.importorskip("gradio")
    process = subprocess.Popen(
        [sys.executable, "-m", "transformers_cxr.cli.main", "demo", "--model", checkpoint_dir, "--device", "cpu"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    try:
        url = next(filter(None, (re.search(r"http://\S+", line) for line in process.stdout)))[0]
        assert f"Checkpoint: {checkpoint_dir}" in httpx.get(url, timeout=30).text
        assert list(tmp_path.glob("transformers-cxr-demo-*"))
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0
    # Gradio may leave empty folders of its own.
    assert not list(tmp_path.glob("transformers-cxr-demo-*"))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
