"""Rewards against values counted by hand."""

import numpy as np
import pytest
import torch
from torch import nan, nn

from transformers_cxr.classifiers import XrayClassifier
from transformers_cxr.training import checked_reward, finding_probability, label_f1, report_format, whole_image
from transformers_cxr.training.rewards import asked_findings

REFERENCE = "FINDINGS: There is edema. There is a left pleural effusion.\nIMPRESSION: Edema."


class MeanLogit(nn.Module):
    """Logits are multiples of the mean pixel."""

    def forward(self, features):
        return features.mean(dim=1, keepdim=True) * torch.tensor([[1.0, -2.0]])


@pytest.fixture
def classifier():
    names = ["Pneumonia", "Bacterial Pneumonia"]
    return XrayClassifier(nn.Flatten(), 4, (-1, 1), MeanLogit(), names, thresholds=[0.5, 0.5])


@pytest.fixture
def completions(tiny_model):
    """Ids of an image, of another one with text, of an image that is cut, of two images, and of text."""
    _, processor = tiny_model
    offset, begin, end = processor.image_token_offset, processor.boi_token_id, processor.eoi_token_id
    images = [[begin, *(offset + (3 * i + number) % 32 for i in range(16)), end] for number in range(2)]
    word, stop = processor.tokenizer("Normal.").input_ids, processor.tokenizer("\n\n### End").input_ids
    return [images[0] + stop, images[1] + word + stop, images[0][:9], images[0] + images[1] + stop, word + stop]


@pytest.mark.parametrize("messages", [False, True])
def test_label_f1_is_that_of_each_report(messages):
    reports = {
        "There is edema.": 2 / 3,  # one of one label, one of two
        "There is edema and a pleural effusion.": 1.0,
        "There is edema, a pleural effusion and a pneumothorax.": 4 / 5,
        "Possible edema.": 2 / 3,  # uncertain is positive
        "No edema.": 0.0,  # "No Finding"
        "": 0.0,
    }
    given = [[{"role": "assistant", "content": r}] for r in reports] if messages else list(reports)
    rewards = label_f1()(completions=given, reference=[REFERENCE] * len(given), labels=[[]] * len(given))
    assert rewards == pytest.approx(list(reports.values()))
    assert label_f1()(completions=["The lungs are clear."], reference=["No acute disease."]) == [1.0]


def test_label_f1_takes_another_labeler_and_no_empty_reference():
    def labeler(reports):
        return np.array([[report == "a", nan] for report in reports])

    assert label_f1(labeler)(completions=["a", "b", "a"], reference=["a", "a", "b"]) == [1.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="'label_f1' needs a report; `reference` of completion 1 is empty"):
        label_f1()(completions=["a", "b"], reference=["b", " "])


def test_report_format_is_half_headings_and_half_length():
    reports = {
        "FINDINGS: Clear.\nIMPRESSION: Normal.": 1.0,  # four words
        "FINDINGS: Clear lungs.\nIMPRESSION: Normal chest.": 0.5,  # six words
        "FINDINGS: Clear.\nIMPRESSION:": 0.5,  # no impression, three words
        "Clear lungs, normal heart.": 0.5,  # no headings
        "Clear.": 0.0,
    }
    assert report_format(3, 5)(completions=list(reports)) == list(reports.values())


def test_finding_probability_is_the_mean_over_the_asked_findings(tiny_model, classifier, completions):
    model, processor = tiny_model
    processor.vq_tokenizer = model.vq_tokenizer
    codes = torch.tensor([[(3 * i + number) % 32 for i in range(16)] for number in range(2)])
    pneumonia, bacterial = classifier.probabilities(processor.decode_codes(codes)).T.double()
    reward = finding_probability(processor, classifier)
    asked = {
        "Bacterial Pneumonia": (pneumonia + bacterial) / 2,
        "Viral Pneumonia": (pneumonia + 1 - bacterial) / 2,
        "Pneumonia": pneumonia,
        "No Finding": 1 - pneumonia,
    }
    for label, expected in asked.items():
        labels = [[{"name": label, "value": 1}]] * 5
        rewards = reward(completions=[""] * 5, completion_ids=completions, labels=labels)
        assert rewards == pytest.approx([*expected.tolist(), 0, 0, 0])
    with pytest.raises(ValueError, match=r"needs one of the labels \['Pneumonia', .*; completion 0 asks for {'Edema'"):
        reward(completions=[""], completion_ids=completions[:1], labels=[{"Edema": 1}])


def test_labels_imply_others():
    assert asked_findings({"No Finding": 1, "Edema": -1}) == {"Pneumonia": 0, "No Finding": 1}
    assert asked_findings({"Edema": 0}) == {"Edema": 0}
    viral = {"Bacterial Pneumonia": 0, "Viral Pneumonia": 1, "Pneumonia": 1}
    assert asked_findings({"Viral Pneumonia": 1}) == viral


def test_only_one_whole_image_and_no_text_is_rewarded(tiny_model, completions):
    assert whole_image(tiny_model[1])(completions=[""] * 5, completion_ids=completions) == [1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ([1.0, nan], "The reward 'own' returned nan for completion 1: 'b'"),
        ([1.0, None], "The reward 'own' returned nan for completion 1: 'b'"),
        ([float("inf"), 0.0], "The reward 'own' returned inf for completion 0: 'a'"),
        ([1.0], "The reward 'own' returned 1 rewards for 2 completions"),
    ],
)
def test_a_reward_of_the_wrong_form_is_an_error_with_its_name(rewards, message):
    @checked_reward
    def own(completions, **columns):
        return rewards

    with pytest.raises(ValueError, match=message):
        own(completions=["a", "b"], reference=["a", "b"])
