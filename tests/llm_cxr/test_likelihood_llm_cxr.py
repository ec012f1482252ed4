import re

import pytest
import torch

from transformers_cxr import answer_log_likelihoods, chest_xray_scores, not_chest_xrays, occlusion_map
from transformers_cxr.llm_cxr import likelihood_llm_cxr
from transformers_cxr.training import encode_conversation

QUESTIONS = ["Is there pneumonia?", "Is this <|cxr_start|> a normal chest X-ray of a child?", "View?"]
ANSWERS = ["Yes.", "No pleural effusion or pneumothorax."]


def random_codes(count):
    return torch.randint(0, 32, (count, 16), generator=torch.Generator().manual_seed(0))


def test_log_likelihoods_of_answers_are_the_loss_of_their_conversations(any_model):
    model, processor = any_model
    codes = random_codes(3)
    found = answer_log_likelihoods(model, processor, codes, QUESTIONS, ANSWERS)
    assert found.shape == (3, 2)
    for row, question, values in zip(codes, QUESTIONS, found):
        for answer, value in zip(ANSWERS, values):
            user = {"role": "user", "content": [{"type": "text", "text": question}, {"type": "image"}]}
            conversation = {
                "messages": [user, {"role": "assistant", "content": answer}],
                "image_codes": [row.tolist()],
                "task": "vqa",
            }
            example = encode_conversation(processor, conversation)
            labels = example["labels"][None]
            loss = model(input_ids=example["input_ids"][None], labels=labels).loss
            torch.testing.assert_close(value, -loss * (labels != -100).sum(), atol=1e-3, rtol=1e-4)


def test_log_likelihoods_do_not_depend_on_the_batch(tiny_model):
    codes = random_codes(20)
    together = answer_log_likelihoods(*tiny_model, codes, QUESTIONS[0], ANSWERS)
    alone = [answer_log_likelihoods(*tiny_model, row[None].tolist(), QUESTIONS[0], ANSWERS) for row in codes]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="one instruction for each X-ray, got 3 for 20"):
        answer_log_likelihoods(*tiny_model, codes, QUESTIONS, ANSWERS)


@pytest.mark.parametrize("answers", ["Yes.", []])
def test_answers_are_a_list(tiny_model, answers):
    with pytest.raises(ValueError, match=f"list of answers, got {re.escape(repr(answers))}"):
        answer_log_likelihoods(*tiny_model, random_codes(1), QUESTIONS[0], answers)


@pytest.mark.parametrize(
    "function", [chest_xray_scores, lambda *args: occlusion_map(*args[:2], args[2][0], QUESTIONS[0], "Yes.")]
)
@pytest.mark.parametrize(
    ("codes", "message"), [([[3] * 10], "Expected 16 codes for an image, got 10"), ([[99] * 16], "got int64 from 99")]
)
def test_codes_of_no_image_are_refused(tiny_model, function, codes, message):
    with pytest.raises(ValueError, match=message):
        function(*tiny_model, codes)


def test_chest_xray_score_is_the_gain_over_the_image_upside_down(any_model):
    model, processor = any_model
    codes = random_codes(2)
    message = {"role": "user", "content": [{"type": "text", "text": processor.image_instruction}]}
    answer = {"role": "assistant", "content": [{"type": "image"}]}
    start = model.config.image_token_offset

    def log_likelihood(row):
        conversation = {"messages": [message, answer], "image_codes": [row.tolist()], "task": "image"}
        ids = encode_conversation(processor, conversation)["input_ids"][None]
        positions = ((ids[0] >= start) & (ids[0] < start + 32)).nonzero().squeeze(1)
        logits = model(ids).logits[0, positions - 1, start : start + 32].log_softmax(-1)
        return logits.gather(-1, row[:, None]).mean()

    expected = [log_likelihood(row) - log_likelihood(row.view(4, 4).flip(0).flatten()) for row in codes]
    torch.testing.assert_close(chest_xray_scores(model, processor, codes), torch.stack(expected), atol=1e-4, rtol=1e-4)


def test_occlusion_map_has_the_change_of_the_log_odds_by_each_block(tiny_model):
    model, processor = tiny_model
    codes = random_codes(1)[0]
    codebook = model.vq_tokenizer.codebook
    neutral = (codebook[codes].mean(0) - codebook).square().sum(-1).argmin()
    found = occlusion_map(model, processor, codes.tolist(), *QUESTIONS[:1], "Yes.")
    assert found.shape == (2, 2)
    occluded = codes.clone()
    occluded[[2, 3, 6, 7]] = neutral  # the upper right block of 2x2 codes
    rows = torch.stack([codes, occluded])
    whole, without = answer_log_likelihoods(model, processor, rows, QUESTIONS[0], ["Yes."]).double().exp().logit()
    torch.testing.assert_close(found[0, 1], (whole - without).float()[0], atol=1e-3, rtol=1e-3)
    assert (occlusion_map(model, processor, neutral.expand(16), QUESTIONS[0], "Yes.") == 0).all()
    with pytest.raises(ValueError, match="divide the grid of 4x4 codes, got 3"):
        occlusion_map(model, processor, codes, QUESTIONS[0], "Yes.", block_size=3)


def test_occlusion_map_has_log_odds_of_likely_answers_too(tiny_model, monkeypatch):
    probabilities = torch.tensor([[0.9], [0.5], [0.9], [0.99], [0.1]])
    monkeypatch.setattr(likelihood_llm_cxr, "answer_log_likelihoods", lambda *args: probabilities.log())
    found = occlusion_map(*tiny_model, random_codes(1)[0], QUESTIONS[0], "Yes.")
    log_odds = probabilities[:, 0].logit()
    torch.testing.assert_close(found, (log_odds[0] - log_odds[1:]).view(2, 2))


def test_images_below_the_score_of_the_checkpoint_are_no_chest_x_rays(tiny_model):
    model, processor = tiny_model
    codes = random_codes(4)
    assert not_chest_xrays(model, processor, codes) == [False] * 4
    scores = chest_xray_scores(model, processor, codes.tolist())
    model.config.min_chest_xray_score = scores.median().item() + 1e-6
    assert not_chest_xrays(model, processor, codes) == (scores <= scores.median()).tolist()
    assert sum(not_chest_xrays(model, processor, codes)) == 2
