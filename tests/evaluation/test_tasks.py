"""The examples, groups and requests of the tasks."""

from collections import Counter

import numpy as np
import PIL.Image
import pytest

from transformers_cxr import generate_image, generate_text
from transformers_cxr.data.records import StudyRecord
from transformers_cxr.evaluation import TASKS, EvaluationArguments
from transformers_cxr.evaluation.tasks.image import example_seed
from transformers_cxr.evaluation.tasks.well_formed import is_well_formed


def record(name, labels=(), **fields):
    defaults = {"image": f"{name}.png", "source": "kermany", "split": "validation", "view": "AP", "age_group": "child"}
    return StudyRecord(id=name, patient=f"p-{name}", labels=dict(labels), **defaults | fields)


NORMAL, PNEUMONIA = {"No Finding": 1}, {"Pneumonia": 1}
RECORDS = [
    record("a", NORMAL),
    record("b", PNEUMONIA),
    record("c"),
    record("d", findings="Clear.", impression="Normal."),
]


def examples_of(task, records=RECORDS, **arguments):
    return TASKS[task](EvaluationArguments("out", **arguments)).examples(records)


def by_id(examples):
    return {example.id: example for example in examples}


def test_a_reference_is_the_report_of_the_record_or_written_from_its_labels():
    examples = by_id(examples_of("report"))
    assert set(examples) == {"a", "b", "d"}
    assert examples["d"].reference == "FINDINGS: Clear.\nIMPRESSION: Normal." and not examples["d"].label_derived
    assert examples["a"].reference.startswith("FINDINGS: ") and examples["a"].label_derived
    assert by_id(examples_of("report", sections="impression"))["d"].reference == "IMPRESSION: Normal."
    images = by_id(examples_of("image"))
    assert images["d"].prompt == examples["d"].reference and images["d"].reference == images["d"].kind == ""
    assert images["b"].kind == "Pneumonia"
    assert {e.id for e in examples_of("tokenizer")} == {"a", "b", "c", "d"}


def test_questions_are_those_of_the_records_or_answered_by_labels():
    derived = examples_of("vqa")
    assert {e.id.partition("#")[0] for e in derived} == {"a", "b", "c", "d"} and {e.kind for e in derived} >= {"view"}
    questions = [record("a", question=f"Question {i}?", answer="No.", question_type="presence") for i in range(2)]
    asked = by_id(examples_of("vqa", [*RECORDS, *questions]))
    assert [(asked[id_].prompt, asked[id_].kind) for id_ in ("a#0", "a#1")] == [
        ("Question 0?", "presence"),
        ("Question 1?", "presence"),
    ]
    # Several questions about an X-ray are one X-ray, and its report is that of the other record.
    assert Counter(e.id for e in examples_of("tokenizer", questions)) == {"a": 1}
    assert by_id(examples_of("report", [*questions, *RECORDS]))["a"].label_derived


@pytest.mark.parametrize("task", ["report", "image", "vqa"])
def test_wording_depends_on_the_seed_and_the_x_ray_alone(task):
    alone = by_id(examples_of(task, RECORDS[1:2]))
    assert alone.items() <= by_id(examples_of(task)).items()
    assert by_id(examples_of(task, seed=1)) != by_id(examples_of(task))


def test_a_smaller_sample_is_part_of_a_larger_one():
    records = [record(str(i), NORMAL) for i in range(50)]
    every = examples_of("report", records)
    assert examples_of("report", records, limit=8) == every[:8]
    assert [e.id for e in every] != [r.id for r in records] and len(
        examples_of("image", records, num_generated=7)
    ) == 7
    corrupted = examples_of("robustness", records, num_corrupted=2)
    assert len(corrupted) == 2 * 36 and {e.id.partition("@")[0] for e in corrupted} == {e.id for e in every[:2]}


def test_groups_are_sources_and_those_of_the_task():
    records = [*RECORDS[:3], record("e", PNEUMONIA, source="site B")]
    groups = {}
    for name in ("report", "vqa", "image", "robustness"):
        task = TASKS[name](EvaluationArguments("out", num_corrupted=1))
        groups[name] = task.groups(task.examples(records))
    assert list(groups["report"]) == ["all", "kermany", "site B"]
    assert {"type: view, kermany", "type: view, site B"} <= set(groups["vqa"])
    assert {"finding: No Finding", "finding: Pneumonia"} <= set(groups["image"])
    assert len(groups["robustness"]) == 36 and "none 0" in groups["robustness"] and "blur 3" in groups["robustness"]


@pytest.fixture
def xrays(tmp_path):
    """Records of random images."""
    rng, records = np.random.default_rng(0), []
    for i in range(4):
        path = tmp_path / f"{i}.png"
        PIL.Image.fromarray((rng.random((6, 6)) * 255).astype(np.uint8)).resize((40, 40)).save(path)
        records.append(record(str(i), PNEUMONIA if i % 2 else NORMAL, image=str(path)))
    return records


def test_the_model_is_asked_through_generate_text_and_generate_image(xrays, tiny_model):
    arguments = EvaluationArguments("out", max_new_tokens=8, guidance_scale=1.5, seed=5)
    outputs = {}
    for name in ("report", "vqa", "image", "diversity", "tokenizer"):
        task = TASKS[name](arguments)
        batch = task.examples(xrays)
        outputs[name] = task.generate(*tiny_model, batch)
        # The output of an example does not depend on its batch.
        single = [task.generate(*tiny_model, [example])[0] for example in batch]
        assert all(np.array_equal(one, other) for one, other in zip(single, outputs[name]))
    batch = TASKS["report"](arguments).examples(xrays)
    assert outputs["report"] == generate_text(*tiny_model, [e.image_path for e in batch], max_new_tokens=8)
    example = TASKS["image"](arguments).examples(xrays)[0]
    options = {"seed": example_seed(5, example), "guidance_scale": 1.5, "output_type": "codes"}
    assert np.array_equal(outputs["image"][0], generate_image(*tiny_model, example.prompt, **options)[0])
    assert outputs["diversity"].shape == (4, 4 * 16) and outputs["image"].dtype == np.uint16


def test_the_probability_of_yes_is_that_of_its_first_token_against_that_of_no(xrays, tiny_model):
    model, processor = tiny_model
    task = TASKS["vqa"](EvaluationArguments("out", batch_size=3))
    examples = task.examples(xrays)
    *_, calibration = task.metrics(examples, [""] * len(examples), model, processor)
    first_ids = [processor.tokenizer(word, add_special_tokens=False).input_ids[0] for word in ("Yes.", "No.")]
    answers = Counter()
    for example, (probability, answer) in zip(examples, calibration.units):
        word = example.reference.partition(" ")[0].strip(".,").lower()
        answers[word if word in ("yes", "no") else "other"] += 1
        if word not in ("yes", "no"):
            assert np.isnan([probability, answer]).all()
            continue
        content = [{"type": "text", "text": example.prompt}, {"type": "image"}]
        inputs = processor.encode_prompts([[{"role": "user", "content": content}]], images=[[example.image_path]])
        expected = model(**inputs).logits[0, -1, first_ids].softmax(-1)[0].item()
        assert (probability, answer) == (pytest.approx(expected, abs=1e-5), word == "yes")
    assert min(answers[word] for word in ("yes", "no", "other")) > 0
    # Without a model, as in a comparison of two runs, there are no probabilities.
    assert len(task.metrics(examples, [""] * len(examples))) == 1


def test_a_corrupted_x_ray_is_read_as_such(xrays, tiny_model):
    task = TASKS["robustness"](EvaluationArguments("out", max_new_tokens=8, num_corrupted=4))
    kinds = {kind: [e for e in task.examples(xrays) if e.kind == kind] for kind in ("none 0", "inversion 5")}
    clean, corrupted = (task.generate(*tiny_model, batch) for batch in kinds.values())
    images = [e.image_path for e in kinds["none 0"]]
    assert clean == generate_text(*tiny_model, images, max_new_tokens=8) != corrupted


def test_images_at_a_high_temperature_are_well_formed_and_broken_ones_are_not(xrays, tiny_model):
    model, processor = tiny_model
    task = TASKS["well-formed"](EvaluationArguments("out"))
    outputs = task.generate(model, processor, task.examples(xrays))
    (measurement,) = task.metrics(task.examples(xrays), outputs, model, processor)
    assert measurement.aggregate(measurement.units) == {"well_formed": 1}
    ids, length, code = outputs[0].split(), processor.num_image_tokens, str(processor.image_token_offset)
    for broken in (ids[: length - 1] + ids[length:], ids[:length], [*ids, code]):
        assert not is_well_formed(" ".join(broken), processor)
