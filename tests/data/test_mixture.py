import pickle
import tracemalloc
from collections import Counter
from functools import partial

import pyarrow as pa
import pytest
from datasets import Dataset
from torch.utils.data import DataLoader

from transformers_cxr.data import STAGE_1, STAGE_2, TaskMixture, load_records, stage_mixture, write_records


def write(row, rng):
    return {"task": row.split("-")[0], "row": row, "random": rng.random()}


def make_mixture(sizes, ratios, size, seed=0):
    tasks = {name: ([f"{name}-{n}" for n in range(count)], write) for name, count in sizes.items()}
    return TaskMixture(tasks, ratios, size, seed)


def count_tasks(examples):
    return Counter(example["task"] for example in examples)


@pytest.mark.parametrize("ratios", [STAGE_1["ratios"], STAGE_2["ratios"]])
def test_ratios_of_the_paper_are_exact_in_every_thousand(ratios):
    mixture = make_mixture(dict.fromkeys(ratios, 50), ratios, 2000)
    assert sum(ratios.values()) == 100
    for start in (0, 1000):
        counts = count_tasks(mixture[i] for i in range(start, start + 1000))
        assert counts == {name: 10 * ratio for name, ratio in ratios.items()}
    # Tasks are shuffled, so that any run of examples has nearly the same ratios.
    for name, count in count_tasks(mixture[i] for i in range(300)).items():
        assert abs(count / 300 - ratios[name] / 100) < 0.1


def test_ratios_in_any_unit_are_rounded_to_a_thousandth():
    mixture = make_mixture({"a": 5, "b": 5, "c": 5}, {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, 1000)
    assert sorted(count_tasks(mixture).values()) == [333, 333, 334]
    assert count_tasks(make_mixture({"a": 5, "b": 5}, {"a": 0.8, "b": 0.2}, 1000)) == {"a": 800, "b": 200}


@pytest.mark.parametrize("number", [1, 3, 17, 1000])
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
        ({"report": 80, "vqa": 20}, r"name the tasks \['vqa'\], but there are data only for \['image', 'report'\]"),
        ({"report": 0, "vqa": 0}, "above 0 for at least one"),
        ({"report": 1e6, "image": 1}, r"\['image'\] are below 1 in 1000"),
    ],
)
def test_wrong_ratios_are_errors(ratios, message):
    with pytest.raises(ValueError, match=message):
        make_mixture({"report": 5, "vqa": 0, "image": 1}, ratios, 10)


@pytest.fixture(scope="module")
def records(tmp_path_factory, make_record, codes_of):
    """The records 0 to 49, of which 40 to 49 are in the test split and every fourth is a lateral view."""
    folder = tmp_path_factory.mktemp("records")
    split, view = ["train"] * 40 + ["test"] * 10, ["PA", "PA", "PA", "LATERAL"] * 13
    made = [make_record(n, view=view[n], study_order=1 + n % 2, split=split[n]) for n in range(50)]
    codes = codes_of([record.id for record in made], **{record.id: [n] * 4 for n, record in enumerate(made)})
    write_records(made, folder / "records.parquet", codes)
    return load_records(folder / "records.parquet", cache_dir=folder / "cache")


@pytest.fixture(scope="module")
def sources(make_record):
    """Two normal and ten other rows of one dataset, and six unlabelled ones of another."""
    groups = [("a", {"No Finding": 1}, 2), ("a", {"Pneumonia": 1}, 10), ("b", {}, 6)]
    return Dataset.from_list(
        [
            make_record(n, id=f"{source}-{''.join(labels)}-{n}", source=source, labels=labels, codes=[n]).to_row()
            for source, labels, count in groups
            for n in range(count)
        ]
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # Share of the rows of a group, and how often each of them occurs.
        (
            {"label_weights": {"No Finding": 10.0}},
            {"a-No Finding": (20 / 36, 50), "a-Pneumonia": (10 / 36, 5), "b-": (6 / 36, 5)},
        ),
        (
            {"label_weights": {"No Finding": 4.0}, "source_weights": {"a": 0.5}},
            {"a-No Finding": (4 / 15, 24), "a-Pneumonia": (5 / 15, 6), "b-": (6 / 15, 12)},
        ),
        ({"source_weights": {"b": 0.0}}, {"a-No Finding": (2 / 12, 15), "a-Pneumonia": (10 / 12, 15)}),
    ],
)
def test_rows_are_repeated_by_the_weights_of_sources_and_labels(sources, options, expected):
    rows, _ = stage_mixture(sources, ratios={"report": 1}, size=1, **options).tasks["report"]
    groups = {}
    for name, count in Counter(rows["id"]).items():
        groups.setdefault(name.rpartition("-")[0], []).append(count)
    assert groups.keys() == expected.keys()
    for group, (share, count) in expected.items():
        assert sum(groups[group]) / 180 == pytest.approx(share) and set(groups[group]) == {count}


def test_stages_filter_split_views_studies_and_sections(records):
    messages = [{"role": role, "content": [{"type": "text", "text": "Hi"}]} for role in ("user", "assistant")]
    texts = [{"id": "t:1", "messages": messages}]

    def used(size, **options):
        examples = list(stage_mixture(records, texts, size=size, **options))
        return examples, {int(e["id"].split("-")[1]) for e in examples if e["task"] != "text"}

    examples, ids = used(1000, **STAGE_1)
    assert ids == set(range(40))
    assert Counter(e["task"] for e in examples) == {"report": 300, "image": 300, "vqa": 200, "text": 200}
    example = next(e for e in examples if e["id"] == "image-7")
    assert example["image_codes"] == [[7] * 4]
    examples, ids = used(200, **STAGE_2)
    assert ids == {n for n in range(0, 40, 2)}
    reports = {e["messages"][1]["content"][0]["text"] for e in examples if e["task"] == "report"}
    assert reports == {"IMPRESSION: Normal."}
    assert used(100, **STAGE_1, split="test")[1] == set(range(40, 50))
    for ratios, num_questions, num_messages in (({"report": 1}, 1, {4}), ({"vqa": 1}, 0, {2}), ({"vqa": 1}, 2, {4})):
        examples, _ = used(100, ratios=ratios, num_questions=num_questions)
        assert {len(e["messages"]) for e in examples} == num_messages


def test_every_pair_is_used_in_both_directions_or_in_one(records):
    def ids(**options):
        examples = list(stage_mixture(records, ratios={"report": 1, "image": 1}, size=600, **options))
        return tuple({e["id"] for e in examples if e["task"] == task} for task in ("report", "image"))

    reading, generating = ids()
    assert reading == generating and len(reading) == 40
    reading, generating = ids(both_directions=False)
    assert reading.isdisjoint(generating) and len(reading | generating) == 40
    assert 10 < len(reading) < 30
    assert ids(both_directions=False, seed=1)[0] != reading


def test_questions_of_the_records_replace_those_of_the_labels(records):
    asked = [{**records[n], "question": "How many?", "answer": "Two."} for n in (0, 1, 1, 45)]
    both = Dataset.from_list([*records, *asked])
    examples = list(stage_mixture(both, ratios={"report": 1, "vqa": 1}, size=1000))
    found = Counter((e["task"], e["id"]) for e in examples)
    assert {name for task, name in found if task == "vqa"} == {"image-0", "image-1"}
    assert {e["messages"][1]["content"][0]["text"] for e in examples if e["task"] == "vqa"} == {"Two."}
    reports = [count for (task, _), count in found.items() if task == "report"]
    assert len(reports) == 40 and max(reports) - min(reports) <= 1
    from_labels = stage_mixture(records, ratios={"vqa": 1}, size=100)
    assert {e["messages"][1]["content"][0]["text"] for e in from_labels} >= {"Yes.", "No.", "PA."}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratios": {"report": 1}, "split": "validation"}, "No row of 50 is left"),
        ({"ratios": {"report": 1}, "sections": "findings"}, "Expected the sections"),
        ({"ratios": {"vqa": 1}, "sections": "findings"}, "Expected the sections"),
        ({"ratios": {"report": 1}, "source_weights": {"c": 2.0}}, r"names \['c'\], and the data have \['made'\]"),
        ({"ratios": {"report": 1}, "label_weights": {"Mass": 2.0}}, r"`label_weights` names \['Mass'\]"),
    ],
)
def test_stage_without_data_and_wrong_options_are_errors(records, options, message):
    with pytest.raises(ValueError, match=message):
        stage_mixture(records, size=10, **options)


def test_patient_in_two_splits_is_an_error(records):
    leak = Dataset.from_list([*records, {**records[0], "question": "Edema?", "answer": "No.", "split": "test"}])
    with pytest.raises(ValueError, match="Patient 'patient-0' of 'made' is in the splits 'train' and 'test'"):
        stage_mixture(leak, ratios={"vqa": 1}, size=10)


def test_memory_does_not_grow_with_the_dataset(tmp_path, make_record):
    peaks = []
    load = partial(load_records, cache_dir=tmp_path / "cache")
    for size in (500, 4000):
        write_records((make_record(n, findings="Clear. " * 70) for n in range(size)), tmp_path / f"{size}.parquet")
        mixture = stage_mixture(load(tmp_path / f"{size}.parquet"), ratios={"report": 1, "image": 1}, size=size)
        before = pa.total_allocated_bytes()
        tracemalloc.start()
        for index in range(60):
            mixture[index]
        peaks.append(tracemalloc.get_traced_memory()[1] + pa.total_allocated_bytes() - before)
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.2 + 100_000
