"""The demo page of a tiny random model, served on this machine."""

import httpx
import numpy as np
import PIL.Image
import pytest

from transformers_cxr.checkpoints import load_checkpoint

pytest.importorskip("gradio", reason="gradio is not installed: `pip install transformers-cxr[demo]`")


@pytest.fixture(scope="module")
def short_texts():
    """Texts of 24 tokens."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("transformers_cxr.demo.model.MAX_NEW_TOKENS", 24)
        yield


@pytest.fixture(scope="session")
def checkpoint(checkpoint_dir):
    """Model and processor, with texts that do not end early."""
    model, processor = load_checkpoint(str(checkpoint_dir), "cpu")
    model.generation_config.eos_token_id = None
    return model, processor


@pytest.fixture
def xray_files(tmp_path):
    """Four different images."""
    generator = np.random.default_rng(0)
    files = [tmp_path / f"xray-{i}.png" for i in range(4)]
    for file in files:
        PIL.Image.fromarray(generator.integers(0, 256, (32, 32), dtype=np.uint8)).save(file)
    return files


@pytest.fixture(scope="session")
def page_url(checkpoint):
    from transformers_cxr.demo import server

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(server, "MAX_UPLOAD_BYTES", 2**21)
        monkeypatch.setattr(server, "MAX_STORED_BYTES", 2**24)
        monkeypatch.setattr(server, "REQUEST_TIMEOUT", 5)
        with server.serve(*checkpoint, title="A tiny checkpoint") as url:
            yield url


@pytest.fixture(scope="module")
def http(page_url):
    with httpx.Client(base_url=page_url, timeout=60) as client:
        yield client
