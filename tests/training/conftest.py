import pytest
import torch

from transformers_cxr.llm_cxr.configuration_llm_cxr import CXRVQTokenizerConfig
from transformers_cxr.llm_cxr.modeling_cxr_vq_tokenizer import CXRVQTokenizer


@pytest.fixture
def tokenizer() -> CXRVQTokenizer:
    torch.manual_seed(0)
    return CXRVQTokenizer(
        CXRVQTokenizerConfig(
            image_size=32,
            in_channels=1,
            block_out_channels=(4, 4, 4),
            layers_per_block=1,
            attention_levels=(),
            latent_channels=4,
            norm_num_groups=2,
            codebook_size=8,
            codebook_dim=3,
        )
    )
