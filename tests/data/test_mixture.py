import pickle
import tracemalloc
from collections import Counter

import pyarrow as pa
import pytest
from datasets import Dataset
from torch.utils.data import DataLoader

from transformers_cxr.data import (
    STAGE_1,
    STAGE_2,
    Stage,
    StudyRecord,
    Task,
    TaskMixture,
    load_records,
    stage_mixture,
    weighted_rows,
    write_records,
    write_texts,
)


def write(row, rng):
    return {"task": row.split("-")[0], "row": row, "random": rng.random()}


def make_mixture(sizes, ratios, size, seed=0):
    tasks = {name: Task([f"{name}-{n}" for n in range(count)], write) for name, count in sizes.items()}
    return TaskMixture(tasks, ratios, size, seed)


def count_tasks(examples):
    return Counter(example["task"] for example in examples)


@pytest.mark.parametrize("stage", [STAGE_1, STAGE_2])
def test_ratios_of_the_paper_are_exact_in_every_thousand(stage):
    mixture = make_mixture(dict.fromkeys(stage.ratios, 50), stage.ratios, 3000)
    assert sum(stage.ratios.values()) == 100
    for start in (0, 1000, 2000):
        counts = count_tasks(mixture[i] for i in range(start, start + 1000))
        assert counts == {name: 10 * ratio for name, ratio in stage.ratios.items()}
    # Tasks are shuffled, so that any run of examples has nearly the same ratios.
    for name, count in count_tasks(mixture[i] for i in range(300)).items():
        assert abs(count / 300 - stage.ratios[name] / 100) < 0.1


def test_ratios_in_any_unit_are_rounded_to_a_thousandth():
    mixture = make_mixture({"a": 5, "b": 5, "c": 5}, {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, 1000)
    assert sorted(count_tasks(mixture).values()) == [333, 333, 334]
    assert count_tasks(make_mixture({"a": 5, "b": 5}, {"a": 0.8, "b": 0.2}, 1000)) == {"a": 800, "b": 200}


@pytest.mark.parametrize("number", [1, 2, 3, 16, 17, 100, 257, 1000])
def test_every_row_is_used_once_before_any_is_used_again(number):
    for size in (1000, 2000):
        counts = Counter(example["row"] for example in make_mixture({"a": number}, {"a": 1}, size))
        assert len(counts) == number and max(counts.values()) - min(counts.values()) <= 1


def test_example_depends_only_on_the_seed_and_its_index():
    mixture, again = (make_mixture({"a": 30, "b": 7}, {"a": 1, "b": 1}, 2500) for _ in range(2))
    forwards = [mixture[i] for i in range(2500)]
    assert forwards == [again[i] for i in reversed(range(2500))][::-1]
    assert [example["random"] for example in forwards[:50]] != [example["random"] for example in forwards[1000:1050]]
    assert [example["row"] for example in forwards[:1000]] != [example["row"] for example in forwards[1000:2000]]
    assert forwards != list(make_mixture({"a": 30, "b": 7}, {"a": 1, "b": 1}, 2500, seed=1))
    assert mixture[-1] == forwards[-1]
    with pytest.raises(IndexError, match="Example 2500 of 2500"):
        mixture[2500]


def test_reading_resumes_in_the_middle_with_workers():
    mixture = make_mixture({"a": 30, "b": 7}, {"a": 3, "b": 1}, 64)
    whole = list(DataLoader(mixture, batch_size=4))
    rest = list(DataLoader(pickle.loads(pickle.dumps(mixture)), batch_size=4, sampler=range(24, 64), num_workers=1))
    assert [batch["row"] for batch in rest] == [batch["row"] for batch in whole[6:]]


@pytest.mark.parametrize(
    ("ratios", "message"),
    [
        ({"report": 80, "vqa": 20}, "Task 'vqa' has a ratio of 20 and no rows"),
        (
            {"report": 80, "text": 20},
            r"asks for task 'text', but data are given only for \['image', 'report', 'vqa'\]",
        ),
        ({"report": 0, "vqa": 0}, "above 0 for at least one"),
        ({"report": 1e6, "image": 1}, r"\['image'\] are below 1 in 1000"),
    ],
)
def test_wrong_ratios_are_errors(ratios, message):
    with pytest.raises(ValueError, match=message):
        make_mixture({"report": 5, "vqa": 0, "image": 1}, ratios, 10)


def test_unknown_sections_are_an_error():
    with pytest.raises(ValueError, match="Expected sections from"):
        Stage({"report": 1}, sections="findings")


@pytest.fixture
def records(tmp_path, make_record, codes_of):
    made = [
        make_record(
            n, view="LATERAL" if n % 4 == 3 else "PA", study_order=1 + n % 2, split="train" if n < 40 else "test"
        )
        for n in range(50)
    ]
    codes = codes_of([record.id for record in made], **{record.id: [n] * 4 for n, record in enumerate(made)})
    write_records(made, tmp_path / "records.parquet", codes)
    return load_records(tmp_path / "records.parquet", cache_dir=tmp_path / "cache")


@pytest.fixture
def sources():
    """Two normal and ten other rows of one dataset, and six unlabelled ones of another."""
    groups = [("a", {"No Finding": 1}, 2), ("a", {"Pneumonia": 1}, 10), ("b", {}, 6)]
    return Dataset.from_list(
        [
            StudyRecord(
                id=f"{source}-{''.join(labels)}-{number}", patient=f"{number}", image="x.png", source=source,
                split="train", view="PA", sex="M", labels=labels, codes=[number] * 16, study_order=1,
            ).to_row()
            for source, labels, count in groups
            for number in range(count)
        ]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("weights", "balanced", "expected"),
    [
        # Share of the rows of a group, and how often each of them occurs.
        ({}, False, {"a-No Finding": (2 / 18, 10), "a-Pneumonia": (10 / 18, 10), "b-": (6 / 18, 10)}),
        ({}, True, {"a-No Finding": (6 / 18, 30), "a-Pneumonia": (6 / 18, 6), "b-": (6 / 18, 10)}),
        ({"b": 4.0}, True, {"a-No Finding": (6 / 36, 15), "a-Pneumonia": (6 / 36, 3), "b-": (24 / 36, 20)}),
        ({"b": 0.0}, False, {"a-No Finding": (2 / 12, 15), "a-Pneumonia": (10 / 12, 15)}),
    ],
)
def test_rows_are_repeated_by_source_weight_and_balance(sources, weights, balanced, expected):
    times = Counter(weighted_rows(sources, weights, balanced)["id"])
    assert sum(times.values()) == 180
    groups = {}
    for name, count in times.items():
        groups.setdefault(name.rpartition("-")[0], []).append(count)
    assert groups.keys() == expected.keys()
    for group, (share, count) in expected.items():
        assert sum(groups[group]) / 180 == pytest.approx(share) and set(groups[group]) == {count}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"c": 2.0}, r"names \['c'\], and the sources of the data are \['a', 'b'\]"),
        ({"a": -1.0}, "0 or more"),
    ],
)
def test_wrong_source_weights_are_errors(sources, weights, message):
    with pytest.raises(ValueError, match=message):
        stage_mixture(Stage({"report": 1}), sources, size=10, source_weights=weights)


def test_stage_is_weighted_and_read_in_several_turns(sources):
    stage = Stage({"report": 40, "image": 30, "vqa": 30})
    mixture = stage_mixture(stage, sources, size=1000, source_weights={"b": 0.0}, num_questions=2)
    assert all(example["id"].startswith("a-") for example in mixture)
    tasks = Counter((example["task"], len(example["messages"])) for example in mixture)
    assert tasks == {("report", 6): 400, ("image", 2): 300, ("vqa", 2): 300}


@pytest.fixture
def texts(tmp_path):
    messages = [{"role": role, "content": [{"type": "text", "text": "Hi"}]} for role in ("user", "assistant")]
    write_texts([{"id": "t:1", "messages": messages}], tmp_path / "texts.parquet")
    return load_records(tmp_path / "texts.parquet", cache_dir=tmp_path / "cache")


def test_stages_filter_split_views_studies_and_sections(records, texts):
    def used(stage, size, **options):
        examples = list(stage_mixture(stage, records, None, texts, size=size, **options))
        return examples, {int(e["id"].split("-")[1]) for e in examples if e["task"] != "text"}

    examples, ids = used(STAGE_1, 1000)
    assert ids == set(range(40))
    assert Counter(e["task"] for e in examples) == {"report": 300, "image": 300, "vqa": 200, "text": 200}
    example = next(e for e in examples if e["id"] == "image-7")
    assert example["image_codes"] == [[7] * 4]
    examples, ids = used(STAGE_2, 200)
    assert ids == {n for n in range(0, 40, 2)}
    reports = {e["messages"][1]["content"][0]["text"] for e in examples if e["task"] == "report"}
    assert reports == {"IMPRESSION: Normal."}
    assert used(STAGE_1, 100, split="test")[1] == set(range(40, 50))


def test_every_pair_is_used_in_both_directions_or_in_one(records):
    def ids(**options):
        examples = list(stage_mixture(Stage({"report": 1, "image": 1}), records, size=600, **options))
        return tuple({e["id"] for e in examples if e["task"] == task} for task in ("report", "image"))

    reading, generating = ids()
    assert reading == generating and len(reading) == 40
    reading, generating = ids(both_directions=False)
    assert reading.isdisjoint(generating) and len(reading | generating) == 40
    assert 10 < len(reading) < 30
    assert ids(both_directions=False, seed=1)[0] != reading


def test_given_questions_replace_those_of_the_labels(records):
    questions = Dataset.from_list([{**records[n], "question": "How many?", "answer": "Two."} for n in (0, 45)])
    mixture = stage_mixture(Stage({"vqa": 1}), records, questions, size=100)
    assert {(e["id"], e["messages"][0]["content"][0]["text"]) for e in mixture} == {("image-0", "How many?")}
    from_labels = stage_mixture(Stage({"vqa": 1}), records, size=100)
    assert {e["messages"][1]["content"][0]["text"] for e in from_labels} >= {"Yes.", "No.", "PA."}


def test_questions_stand_beside_the_records_that_they_are_about(records):
    asked = [{**records[n], "question": "How many?", "answer": "Two."} for n in (0, 1, 1, 45)]
    both = Dataset.from_list([*records, *asked])
    for more in (None, Dataset.from_list(asked[:1])):
        mixture = stage_mixture(Stage({"report": 1, "vqa": 1}), both, more, size=1000)
        found = Counter((e["task"], e["id"]) for e in mixture)
        assert {name for task, name in found if task == "vqa"} == {"image-0", "image-1"}
        reports = [count for (task, _), count in found.items() if task == "report"]
        assert len(reports) == 40 and max(reports) - min(reports) <= 1


def test_stage_without_the_data_of_a_task_is_an_error(records):
    with pytest.raises(ValueError, match="asks for task 'text'"):
        stage_mixture(STAGE_1, records, size=10)
    with pytest.raises(ValueError, match="`records`: No row of 50 is left"):
        stage_mixture(STAGE_1, records, size=10, split="validation")
    with pytest.raises(ValueError, match=r"`texts` lack the columns \['messages'\]"):
        stage_mixture(STAGE_1, records, None, records, size=10)
    with pytest.raises(ValueError, match="`questions` have rows without a question"):
        stage_mixture(Stage({"vqa": 1}), records, records, size=10)


def test_memory_does_not_grow_with_the_dataset(tmp_path, make_record):
    peaks = []
    for size in (500, 4000):
        made = (make_record(n, findings="Clear lungs. " * 40) for n in range(size))
        write_records(made, tmp_path / f"{size}.parquet")
        mixture = stage_mixture(
            Stage({"report": 1, "image": 1}),
            load_records(tmp_path / f"{size}.parquet", cache_dir=tmp_path / "cache"),
            size=size,
        )
        before = pa.total_allocated_bytes()
        tracemalloc.start()
        for index in range(60):
            mixture[index]
        peaks.append(tracemalloc.get_traced_memory()[1] + pa.total_allocated_bytes() - before)
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.2 + 20_000
