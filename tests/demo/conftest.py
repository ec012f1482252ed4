"""The page of a tiny random model, served at this machine's own address."""

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from transformers_cxr import LlmCxrForCausalLM

pytest.importorskip("gradio", reason="gradio is not installed: `pip install transformers-cxr[demo]`")

CONTEXT = 512


@pytest.fixture(scope="module")
def short_texts():
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("transformers_cxr.demo.reader.MAX_NEW_TOKENS", 24)
        yield


@pytest.fixture(scope="session")
def checkpoint(text_tokenizer, untouched_vq_tokenizer):
    """Model and processor: 16 codes an image of 32x32 pixels, a context of 512 tokens, texts that never end early."""
    torch.manual_seed(0)
    backbone = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(text_tokenizer),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            initializer_range=0.3,
            max_position_embeddings=CONTEXT,
        )
    )
    model, processor = LlmCxrForCausalLM.from_language_model(
        backbone.eval(), text_tokenizer, untouched_vq_tokenizer, new_embeddings="random"
    )
    model.generation_config.eos_token_id = None
    return model.eval(), processor


@pytest.fixture
def xray_files(tmp_path):
    """Eight images that differ."""
    generator = np.random.default_rng(0)
    files = [tmp_path / f"xray-{i}.png" for i in range(8)]
    for file in files:
        PIL.Image.fromarray(generator.integers(0, 256, (32, 32), dtype=np.uint8)).save(file)
    return files


@pytest.fixture(scope="session")
def page_url(checkpoint):
    from transformers_cxr.demo.server import serve

    with serve(*checkpoint, title="A tiny checkpoint") as url:
        yield url
