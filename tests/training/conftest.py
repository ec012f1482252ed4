import numpy as np
import pytest
import torch

from transformers_cxr.llm_cxr.configuration_llm_cxr import CXRVQTokenizerConfig
from transformers_cxr.llm_cxr.modeling_cxr_vq_tokenizer import CXRVQTokenizer


@pytest.fixture
def tokenizer() -> CXRVQTokenizer:
    torch.manual_seed(0)
    config = CXRVQTokenizerConfig(
        image_size=32, in_channels=1, block_out_channels=(4, 4, 4), layers_per_block=1, attention_levels=(),
        latent_channels=4, norm_num_groups=2, codebook_size=8, codebook_dim=3,
    )  # fmt: skip
    return CXRVQTokenizer(config)


@pytest.fixture
def conversation():
    """`conversation(task, answer, seed, **more)`: a record with the random codes of one image, none for "text"."""

    def conversation(task, answer="Clear.", seed=0, **more):
        question = {"report": "Report.", "vqa": "Is there edema?", "image": "Draw.", "text": "What is an X-ray?"}[task]
        codes = np.random.default_rng(seed).integers(0, 32, (1, 16)).tolist()
        question, text, image = {"type": "text", "text": question}, {"type": "text", "text": answer}, {"type": "image"}
        user, assistant = {
            "report": ([question, image], [text]),
            "vqa": ([question, image], answer),
            "image": ([question, text], [image]),
            "text": (question["text"], answer),
        }[task]
        messages = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
        return {"messages": messages, "task": task, "image_codes": [] if task == "text" else codes, **more}

    return conversation
