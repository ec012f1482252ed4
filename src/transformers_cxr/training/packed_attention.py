"""Attention within each of the conversations that are packed into a row."""

from __future__ import annotations

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask


def packed_sdpa_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """
    Compute the attention of Transformers' `sdpa`, one block of a single row at a time.

    The cost is that of the conversations by themselves, and not that of the whole row squared. This is the attention
    `"packed_sdpa"`, which [`InstructionTrainer`] sets for packing. Batches that are not packed, and generation, get
    that of `sdpa`.

    Args:
        module (`torch.nn.Module`):
            Attention layer.
        query (`torch.FloatTensor` of shape `(batch_size, num_heads, query_length, head_dim)`):
            Queries.
        key (`torch.FloatTensor` of shape `(batch_size, num_key_value_heads, key_length, head_dim)`):
            Keys.
        value (`torch.FloatTensor` of shape `(batch_size, num_key_value_heads, key_length, head_dim)`):
            Values.
        attention_mask (`torch.BoolTensor` of shape `(batch_size, 1, query_length, key_length)`, *optional*):
            True where a query attends to a key. A block starts at each token that does not attend to the one before.
        **kwargs:
            Other arguments of `sdpa`.

    Returns:
        `tuple`: `torch.FloatTensor` of shape `(batch_size, query_length, num_heads, head_dim)`, and `None`.
    """
    if attention_mask is None or attention_mask.shape[0] > 1 or query.shape[2] != key.shape[2]:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    starts = (~attention_mask[0, 0].diagonal(-1)).nonzero().flatten() + 1
    bounds = [0, *starts.tolist(), query.shape[2]]
    # The backward pass of PyTorch's kernel for CPUs is slower in bf16 than in fp32.
    dtype = torch.float32 if query.device.type == "cpu" else value.dtype
    outputs = []
    with torch.autocast(query.device.type, enabled=False):
        for block in map(slice, bounds, bounds[1:]):
            states = (states[:, :, block].to(dtype) for states in (query, key, value))
            mask = attention_mask[:, :, block, block]
            outputs.append(sdpa_attention_forward(module, *states, mask, **kwargs)[0])
    return torch.cat(outputs, dim=1).to(value.dtype), None


AttentionInterface.register("packed_sdpa", packed_sdpa_attention)
AttentionMaskInterface.register("packed_sdpa", sdpa_mask)
