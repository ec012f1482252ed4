"""LLM-CXR on servers: the plugin of vLLM."""

from __future__ import annotations


def register_with_vllm() -> None:
    """Let vLLM serve LLM-CXR checkpoints. It is an entry point of vLLM, which calls it in each of its processes."""
    from transformers import AutoModel
    from vllm import ModelRegistry

    from ..llm_cxr.configuration_llm_cxr import LlmCxrConfig
    from ..llm_cxr.modeling_llm_cxr import LlmCxrModel

    # vLLM has a head of its own.
    AutoModel.register(LlmCxrConfig, LlmCxrModel, exist_ok=True)
    ModelRegistry.register_model("LlmCxrForCausalLM", "transformers_cxr.serving.vllm_model:LlmCxrForVllm")
