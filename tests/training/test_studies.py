"""How often studies are drawn, and readings of several turns."""

import random
from collections import Counter

import pytest
from datasets import Dataset

from transformers_cxr.data.mixture import Stage, stage_mixture
from transformers_cxr.training.studies import reading_example, reweighted, weighted_rows


def row(source, label, index):
    return {
        "id": f"{source}-{label}-{index}", "patient": f"{source}-{label}-{index}", "study": "", "image": "x.png",
        "view": "PA", "findings": "", "impression": "", "split": "train", "source": source, "study_order": 1,
        "labels": [{"name": label, "value": 1}] if label else [], "sex": "M", "age_group": "adult",
        "codes": [index] * 16,
    }  # fmt: skip


@pytest.fixture
def rows():
    groups = [("a", "No Finding", 2), ("a", "Pneumonia", 10), ("b", "", 6)]
    return Dataset.from_list([row(source, label, i) for source, label, count in groups for i in range(count)])


def shares(rows):
    """Share of each source and label, and how often the rows of each occur at least and at most."""
    times = Counter(rows["id"])
    groups = {}
    for name, count in times.items():
        groups.setdefault(tuple(name.split("-")[:2]), []).append(count)
    return {group: (sum(counts) / len(rows), min(counts), max(counts)) for group, counts in groups.items()}


def test_rows_without_weights_are_drawn_alike(rows):
    weighted = weighted_rows(rows, {})
    assert len(weighted) == 180
    assert {counts[1:] for counts in shares(weighted).values()} == {(10, 10)}


def test_balanced_draws_normal_and_others_alike_and_keeps_the_share_of_a_source(rows):
    drawn = shares(weighted_rows(rows, {}, balanced=True))
    assert drawn["a", "No Finding"] == (pytest.approx(6 / 18), 30, 30)
    assert drawn["a", "Pneumonia"] == (pytest.approx(6 / 18), 6, 6)
    assert drawn["b", ""][0] == pytest.approx(6 / 18)


def test_source_weights_multiply_the_share_of_a_source(rows):
    drawn = shares(weighted_rows(rows, {"b": 4.0}, balanced=True))
    assert drawn["b", ""][0] == pytest.approx(24 / 36, abs=0.01)
    assert ("b", "") not in shares(weighted_rows(rows, {"b": 0.0}))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"c": 2.0}, r"names \['c'\], and the sources of the data are \['a', 'b'\]"),
        ({"a": -1.0}, "0 or more"),
        ({"a": "often"}, "numbers for `source_weights`, got {'a': 'often'}"),
    ],
)
def test_wrong_source_weights_are_errors(rows, weights, message):
    mixture = stage_mixture(Stage({"report": 1}), rows, size=10)
    with pytest.raises(ValueError, match=message):
        reweighted(mixture, weights)


def test_a_reading_has_the_report_and_questions_in_any_order_and_one_image(rows):
    orders = set()
    for seed in range(20):
        example = reading_example(rows[0], random.Random(seed), num_questions=2)
        assert example["task"] == "report" and example["image_codes"] == [[0] * 16]
        users, assistants = example["messages"][::2], example["messages"][1::2]
        assert [sum(part["type"] == "image" for part in message["content"]) for message in users] == [1, 0, 0]
        reports = ["IMPRESSION" in message["content"][0]["text"] for message in assistants]
        assert sum(reports) == 1
        orders.add(reports.index(True))
    assert orders == {0, 1, 2}
    assert reading_example(rows[0], random.Random(3)) == reading_example(rows[0], random.Random(3))


def test_a_mixture_is_weighted_and_read_in_several_turns(rows):
    stage = Stage({"report": 40, "image": 30, "vqa": 30})
    mixture = reweighted(stage_mixture(stage, rows, size=1000), {"b": 0.0}, num_questions=2)
    tasks = Counter()
    for index in range(0, 1000):
        example = mixture[index]
        tasks[example["task"], len(example["messages"])] += 1
        assert example["id"].startswith("a-")
    assert tasks == {("report", 6): 400, ("image", 2): 300, ("vqa", 2): 300}
