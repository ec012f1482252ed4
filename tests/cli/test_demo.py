import os
import re
import signal
import socket
import subprocess
import sys

import httpx
import pytest
import typer
from typer.testing import CliRunner

from transformers_cxr.cli.demo import demo

app = typer.Typer()
app.command()(demo)
COMMAND = [sys.executable, "-c", "import typer; from transformers_cxr.cli.demo import demo; typer.run(demo)"]


def test_missing_gradio_is_one_message_that_names_the_extra():
    code = (
        "import sys; sys.modules['gradio'] = None; import typer; from transformers_cxr.cli.demo import demo; "
        "typer.run(demo)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr == "Error: The demo page needs gradio: `pip install transformers-cxr[demo]`.\n"


def test_checkpoint_that_does_not_exist_is_one_message(tmp_path):
    pytest.importorskip("gradio")
    result = CliRunner().invoke(app, ["--model", str(tmp_path)])
    assert result.exit_code == 1 and "No `config.json` in" in result.stderr and "Traceback" not in result.output


def test_port_in_use_is_one_message(monkeypatch, tiny_model):
    pytest.importorskip("gradio")
    monkeypatch.setattr("transformers_cxr.cli.demo.load_model", lambda *args: tiny_model)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(app, ["--port", str(port)])
    assert result.exit_code == 1 and str(port) in result.stderr and "Traceback" not in result.output


def test_command_serves_the_page_until_it_is_told_to_stop_and_deletes_its_folder(tmp_path, tiny_model):
    pytest.importorskip("gradio")
    model, processor = tiny_model
    model.save_pretrained(tmp_path / "checkpoint")
    processor.save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "tmp").mkdir()
    process = subprocess.Popen(
        [*COMMAND, "--model", str(tmp_path / "checkpoint"), "--device", "cpu"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
    )
    try:
        url = next(filter(None, (re.search(r"http://\S+", line) for line in process.stdout)))[0]
        assert f"Checkpoint: {tmp_path / 'checkpoint'}" in httpx.get(url, timeout=30).text
        assert list((tmp_path / "tmp").glob("transformers-cxr-demo-*"))
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0
    # Gradio may leave an empty folder of its own behind.
    assert not list((tmp_path / "tmp").glob("transformers-cxr-demo-*"))
    assert not [path for path in (tmp_path / "tmp").rglob("*") if path.is_file()]
