import numpy as np
import pytest
import torch

from transformers_cxr import LlmCxrForCausalLM
from transformers_cxr.evaluation.metrics import Perplexity

TEXTS = ["The lungs are clear. No pleural effusion or pneumothorax. " * 5, "Normal chest X-ray of a child."]


def log_likelihoods(model, ids, max_length, stride):
    """The log-likelihood of each token, from a forward pass of its own."""
    result = []
    for i in range(1, len(ids)):
        # The first window that predicts token i.
        start = 0 if i < max_length else ((i - max_length) // stride + 1) * stride
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids[start:i]])).logits[0, -1].float()
        result.append(logits.log_softmax(-1)[ids[i]].item())
    return result


@pytest.mark.parametrize(("max_length", "stride"), [(8, 3), (256, 128)])
def test_every_token_is_predicted_once_from_its_window(llama, text_tokenizer, max_length, stride):
    scores = Perplexity(llama, text_tokenizer, max_length=max_length, stride=stride).compute(predictions=TEXTS)
    expected = [v for t in TEXTS for v in log_likelihoods(llama, text_tokenizer(t).input_ids, max_length, stride)]
    assert scores["perplexity"] == pytest.approx(np.exp(-np.mean(expected)), rel=1e-4)
    num_bytes = sum(len(text.encode()) for text in TEXTS)
    assert scores["bits_per_byte"] == pytest.approx(-np.sum(expected) / np.log(2) / num_bytes, rel=1e-4)


def test_a_new_llm_cxr_has_the_perplexity_of_its_language_model(llama, text_tokenizer, vq_tokenizer):
    model, _ = LlmCxrForCausalLM.from_language_model(llama, text_tokenizer, vq_tokenizer)
    metric = Perplexity(model, text_tokenizer, base_model=llama, max_length=64, stride=32)
    scores = metric.compute(predictions=TEXTS)
    # The codes are new tokens, which take a share of the probability.
    assert 1 <= scores["perplexity_ratio"] < 1.2


@pytest.mark.parametrize("text", ["", "a"])
def test_a_text_without_a_token_to_predict_is_nan(llama, text_tokenizer, text):
    metric = Perplexity(llama, text_tokenizer, max_length=64, stride=32)
    assert np.isnan(metric.compute(predictions=[text])["perplexity"])
    alone = metric.compute(predictions=TEXTS[1:])["perplexity"]
    assert metric.compute(predictions=[text, TEXTS[1]])["perplexity"] == alone
