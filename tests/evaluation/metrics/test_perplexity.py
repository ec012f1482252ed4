import numpy as np
import pytest
import torch

from transformers_cxr.evaluation.metrics.perplexity import Perplexity

TEXTS = ["The lungs are clear. No pleural effusion or pneumothorax. " * 5, "Normal chest X-ray of a child."]


def log_likelihoods(model, ids, max_length, stride):
    """Each token's own window, written down token by token."""
    result = []
    for i in range(1, len(ids)):
        # The first window that holds token i as one that it predicts.
        start = 0 if i < max_length else ((i - max_length) // stride + 1) * stride
        context = torch.tensor([ids[start:i]])
        with torch.no_grad():
            result.append(model(input_ids=context).logits[0, -1].float().log_softmax(-1)[ids[i]].item())
    return result


@pytest.mark.parametrize(("max_length", "stride"), [(8, 3), (16, 15), (256, 128)])
def test_every_token_is_predicted_once_from_its_window(tiny_model, max_length, stride):
    model, processor = tiny_model
    tokenizer = processor.tokenizer
    scores = Perplexity(model, tokenizer, max_length=max_length, stride=stride).compute(predictions=TEXTS)
    expected = [
        value for text in TEXTS for value in log_likelihoods(model, tokenizer(text).input_ids, max_length, stride)
    ]
    assert scores["perplexity"] == pytest.approx(np.exp(-np.mean(expected)), rel=1e-4)
    num_bytes = sum(len(text.encode()) for text in TEXTS)
    assert scores["bits_per_byte"] == pytest.approx(-np.sum(expected) / np.log(2) / num_bytes, rel=1e-4)


def test_one_window_equals_the_loss_of_transformers(llama, text_tokenizer):
    ids = text_tokenizer(TEXTS[1], return_tensors="pt").input_ids
    with torch.no_grad():
        loss = llama(input_ids=ids, labels=ids).loss.item()
    scores = Perplexity(llama, text_tokenizer, max_length=256, stride=128).compute(predictions=TEXTS[1:])
    assert scores["perplexity"] == pytest.approx(np.exp(loss), rel=1e-4)


def test_a_model_made_of_a_base_speaks_as_its_base_over_the_tokens_of_text(
    llama, text_tokenizer, vq_tokenizer, new_embeddings="random"
):
    from transformers_cxr import LlmCxrForCausalLM

    model, _ = LlmCxrForCausalLM.from_language_model(llama, text_tokenizer, vq_tokenizer, new_embeddings="random")
    metric = Perplexity(model, text_tokenizer, base_model=model.language_model, max_length=64, stride=32)
    scores = metric.compute(predictions=TEXTS)
    assert scores["perplexity_ratio"] == pytest.approx(1, rel=1e-5)
    assert scores["base_perplexity"] == pytest.approx(scores["perplexity"], rel=1e-5)


def test_a_base_of_another_tokenizer_is_compared_by_bytes(llama, text_tokenizer):
    metric = Perplexity(
        llama, text_tokenizer, base_model=llama, base_tokenizer=text_tokenizer, max_length=64, stride=32
    )
    units = metric.prepare(TEXTS)
    assert units[0].shape == (2, 3)
    scores = metric.aggregate(units)
    assert scores["bits_per_byte"] == scores["base_bits_per_byte"]


@pytest.mark.parametrize("text", ["", "a"])
def test_a_text_without_a_token_to_predict_is_nan(llama, text_tokenizer, text):
    metric = Perplexity(llama, text_tokenizer, max_length=64, stride=32)
    assert np.isnan(metric.compute(predictions=[text])["perplexity"])
    assert (
        metric.compute(predictions=[text, TEXTS[1]])["perplexity"]
        == metric.compute(predictions=TEXTS[1:])["perplexity"]
    )


def test_windows_that_are_not_possible_are_refused(llama, text_tokenizer):
    with pytest.raises(ValueError, match="below max_length = 64, got 64"):
        Perplexity(llama, text_tokenizer, max_length=64, stride=64)
    with pytest.raises(ValueError, match="at most 256 tokens, got max_length = 1024"):
        Perplexity(llama, text_tokenizer)
