"""Tiny random models and a real tokenizer trained on a few sentences; nothing is downloaded."""

import copy
import importlib.util
import json
import sys
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config
from transformers.utils import logging

from transformers_cxr import CXRVQTokenizer, CXRVQTokenizerConfig, LlmCxrForCausalLM

CORPUS = [
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    "FINDINGS: The lungs are clear. No pleural effusion or pneumothorax.\nIMPRESSION: Normal chest X-ray of a child.",
    "Is there pneumonia? Yes. No. Draw the chest X-ray that this report describes. Input:",
]
# Weights larger than usual, so that a random model does not repeat one token for ever.
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "initializer_range": 0.3,
}
BACKBONES = {
    # GPT-NeoX as in dolly: an untied head and rows of padding at the end of the vocabulary.
    "gpt_neox": lambda n: GPTNeoXConfig(
        vocab_size=n + 50, max_position_embeddings=256, tie_word_embeddings=False, **TINY
    ),
    "llama": lambda n: LlamaConfig(
        vocab_size=n, max_position_embeddings=256, num_key_value_heads=2, tie_word_embeddings=True, **TINY
    ),
    # Qwen's tables hold more rows than it has tokens and than the codes will need.
    "qwen2": lambda n: Qwen2Config(
        vocab_size=n + 200, max_position_embeddings=256, num_key_value_heads=2, tie_word_embeddings=True, **TINY
    ),
}


def reset_accelerator():
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


class Killed(BaseException):
    """Not caught by anything, as a kill."""


class JsonHandler(BaseHTTPRequestHandler):
    """Answers requests with JSON, without a log."""

    def answer(self, content, status=200):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def kill_after(monkeypatch):
    """`with kill_after(Model, forwards):` a run that is killed after some forwards of its model."""

    @contextmanager
    def kill(model_class, forwards):
        left, forward = iter(range(forwards)), model_class.forward

        def counted(self, *args, **kwargs):
            if next(left, None) is None:
                raise Killed
            return forward(self, *args, **kwargs)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(model_class, "forward", counted)
            yield

    return kill


@pytest.fixture(scope="session")
def load_script():
    """`with load_script("examples/NAME.py") as module:` a script as a module, which finds those beside it."""

    @contextmanager
    def load(script):
        path = Path(__file__).parents[1] / script
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        known = set(sys.modules)
        sys.path.insert(0, str(path.parent))
        sys.modules[path.stem] = module
        try:
            spec.loader.exec_module(module)
            yield module
        finally:
            sys.path.remove(str(path.parent))
            for name in {beside.stem for beside in path.parent.glob("*.py")} - known:
                sys.modules.pop(name, None)

    return load


@pytest.fixture
def no_progress_bars():
    """The command line switches them off in the environment, which is read only once."""
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


@pytest.fixture(scope="session")
def text_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


@pytest.fixture(scope="session")
def untouched_vq_tokenizer():
    """For fixtures of a session; a test gets a copy of its own, `vq_tokenizer`."""
    torch.manual_seed(0)
    config = CXRVQTokenizerConfig(
        image_size=32,
        in_channels=1,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        attention_levels=(),
        latent_channels=8,
        norm_num_groups=4,
        codebook_size=32,
        codebook_dim=4,
    )
    model = CXRVQTokenizer(config).eval()
    with torch.no_grad():
        # Codes spread over the latents of random images, so that different images get different codes.
        latents = model(torch.rand(16, 1, 32, 32) * 2 - 1).latents.movedim(1, -1).flatten(0, -2)
        model.codebook.copy_(latents[torch.randperm(len(latents))[:32]])
    return model


@pytest.fixture
def vq_tokenizer(untouched_vq_tokenizer):
    torch.manual_seed(0)
    return copy.deepcopy(untouched_vq_tokenizer)


def make_backbone(name, tokenizer):
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(BACKBONES[name](len(tokenizer))).eval()


@pytest.fixture(params=sorted(BACKBONES))
def backbone(request, text_tokenizer):
    return make_backbone(request.param, text_tokenizer)


@pytest.fixture
def llama(text_tokenizer):
    return make_backbone("llama", text_tokenizer)


@pytest.fixture
def any_model(backbone, text_tokenizer, vq_tokenizer):
    """Model and processor on each of the three backbones."""
    return LlmCxrForCausalLM.from_language_model(backbone, text_tokenizer, vq_tokenizer, new_embeddings="random")


@pytest.fixture
def tiny_model(llama, text_tokenizer, vq_tokenizer):
    """Model and processor on a Llama: 16 codes an image of 32x32 pixels."""
    return LlmCxrForCausalLM.from_language_model(llama, text_tokenizer, vq_tokenizer, new_embeddings="random")


@pytest.fixture(scope="session")
def checkpoint_dir(text_tokenizer, untouched_vq_tokenizer, tmp_path_factory):
    """Folder of a tiny model and its processor, for tests that do not change it: 16 codes an image of 32x32 pixels."""
    parts = make_backbone("llama", text_tokenizer), text_tokenizer, copy.deepcopy(untouched_vq_tokenizer)
    folder = tmp_path_factory.mktemp("checkpoint")
    for part in LlmCxrForCausalLM.from_language_model(*parts, new_embeddings="random"):
        part.save_pretrained(folder)
    return folder
