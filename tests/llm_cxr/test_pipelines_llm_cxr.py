import numpy as np
import PIL.Image
import pytest
from datasets import Dataset
from transformers import TextStreamer, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from transformers_cxr.data.dicom_output import image_to_dicom

KWARGS = {"max_new_tokens": 6, "do_sample": False}
QUESTION = "Is there pneumonia?"


def image(seed):
    return PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 48), dtype=np.uint8))


@pytest.fixture(scope="module")
def report(checkpoint_dir):
    return pipeline("cxr-report", model=str(checkpoint_dir))


@pytest.fixture(scope="module")
def vqa(report):
    return pipeline("cxr-vqa", model=report.model, processor=report.processor)


@pytest.fixture(scope="module")
def generation(report):
    return pipeline("cxr-generation", model=report.model, processor=report.processor)


def test_report_of_one_image_and_of_any_kind_of_several(report, tmp_path):
    images = [image(i) for i in range(3)]
    single = [report(each, **KWARGS) for each in images]
    assert all(list(result[0]) == ["generated_text"] and len(result) == 1 for result in single)
    images[0].save(tmp_path / "image.png")
    assert report(str(tmp_path / "image.png"), **KWARGS) == single[0]
    assert report(images, **KWARGS) == single
    assert list(report((each for each in images), **KWARGS)) == single
    dataset = Dataset.from_dict({"image": images})
    assert list(report(KeyDataset(dataset, "image"), **KWARGS)) == single
    assert report(dataset["image"], batch_size=2, **KWARGS) == report(tuple(images), **KWARGS) == single
    assert report(images, batch_size=2, **KWARGS) == single
    assert report(images[0], generate_kwargs=KWARGS) == single[0]


def test_dicom_is_read_like_any_other_image(report, vqa, tmp_path):
    dataset = image_to_dicom(image(0))
    dataset.save_as(tmp_path / "no_suffix")
    expected, answer = report(image(0), **KWARGS), vqa(image=image(0), question=QUESTION, **KWARGS)
    assert report([dataset, str(tmp_path / "no_suffix")], batch_size=2, **KWARGS) == [expected] * 2
    assert vqa(image=dataset, question=QUESTION, **KWARGS) == answer


def test_images_that_are_no_chest_x_rays_get_a_warning(report, caplog, monkeypatch):
    report([image(0), image(1)], batch_size=2, **KWARGS)
    assert not caplog.messages
    monkeypatch.setattr(report.model.config, "min_chest_xray_score", 100.0)
    report([image(0), image(1)], batch_size=2, **KWARGS)
    assert [message.partition(" This does not look like")[0] for message in caplog.messages] == [
        "Image 1 of 2:",
        "Image 2 of 2:",
    ]


def test_generate_arguments_and_a_streamer_reach_the_model(report, capsys):
    texts = [report(image(0), max_new_tokens=n, do_sample=False)[0]["generated_text"] for n in (1, 12)]
    assert len(texts[0]) < len(texts[1])
    streamer = TextStreamer(report.tokenizer, skip_prompt=True, skip_special_tokens=True)
    report(image(0), max_new_tokens=12, do_sample=False, streamer=streamer)
    assert capsys.readouterr().out.strip() == texts[1]
    with pytest.raises(ValueError, match=r"not used by the model: \['max_new_token'\]"):
        report(image(0), max_new_token=3)


def test_several_texts_of_an_image_stay_together_in_a_batch(report):
    images, several = [image(i) for i in range(3)], {"num_beams": 3, "num_return_sequences": 2}
    alone = [report(each, **several, **KWARGS) for each in images]
    assert [len(texts) for texts in alone] == [2, 2, 2] and alone[0] != alone[1] != alone[2]
    assert report(images, batch_size=2, **several, **KWARGS) == alone


def test_vqa_takes_pairs_lists_dictionaries_datasets_and_generators(vqa):
    images, questions = [image(0), image(1)], [QUESTION, "Which view is this?"]
    single = [vqa(image=i, question=q, **KWARGS) for i, q in zip(images, questions)]
    rows = [{"image": i, "question": q} for i, q in zip(images, questions)]
    dataset = Dataset.from_list(rows)
    assert vqa(image=images, question=questions, **KWARGS) == single
    assert vqa(image=dataset["image"], question=dataset["question"], batch_size=2, **KWARGS) == single
    assert vqa(rows, **KWARGS) == single
    assert list(vqa(dataset, **KWARGS)) == list(vqa((row for row in rows), **KWARGS)) == single
    assert vqa(image=images[0], question=questions, **KWARGS)[0] == single[0]
    assert vqa(image=images, question=QUESTION, **KWARGS)[0] == single[0]


def test_wrong_inputs_are_refused(report, vqa, generation):
    images = [image(0), image(1)]
    with pytest.raises(ValueError, match="Expected one image, got a batch of 2: pass a list"):
        report(np.zeros((2, 1, 64, 64), dtype=np.uint8))
    with pytest.raises(ValueError, match="2 images and 1 questions"):
        vqa(image=images, question=[QUESTION])
    with pytest.raises(ValueError, match="Expected an image and a question"):
        vqa(images[0])
    with pytest.raises(TypeError, match="got Image"):
        generation(images[0])


def test_generation_gives_images_marked_as_generated(generation):
    texts = ["Normal.", "Signs of viral pneumonia."]
    (result,) = generation("Normal.", seed=1)
    assert result["image"].size == (32, 32) and "research only" in result["image"].info["comment"]
    several = generation(texts, num_images=3, seed=1, guidance_scale=2.0)
    assert [len(images) for images in several] == [3, 3]
    batched = generation(texts, do_sample=False, batch_size=2)
    alone = [generation(text, do_sample=False) for text in texts]
    assert [b[0]["image"].tobytes() for b in batched] == [a[0]["image"].tobytes() for a in alone]
    column = generation(Dataset.from_dict({"text": ["Normal."]})["text"], seed=1)
    assert [images[0]["image"].tobytes() for images in column] == [result["image"].tobytes()]


def test_images_of_a_seed_do_not_depend_on_the_batch(generation):
    texts = ["Normal.", "Signs of viral pneumonia in an adult.", "Normal."]
    seeds = (3, np.int64(3), np.array([3, 4]))
    results = [generation(texts, seed=seed, num_images=2, batch_size=size) for size, seed in zip((1, 2, 3), seeds)]
    pixels = [[[entry["image"].tobytes() for entry in images] for images in result] for result in results]
    assert pixels[0] == pixels[1] == pixels[2]
    assert pixels[0][0] == pixels[0][2] != pixels[0][1]
    assert pixels[0][0][0] != pixels[0][0][1]


@pytest.mark.parametrize("task", ["cxr-report", "cxr-generation"])
def test_saved_pipeline_is_loaded_again(report, tmp_path, task):
    pipe = pipeline(task, model=report.model, processor=report.processor)
    pipe.save_pretrained(tmp_path)
    inputs, kwargs = ("Normal.", {"seed": 0}) if task == "cxr-generation" else (image(0), KWARGS)
    assert pipeline(task, model=str(tmp_path))(inputs, **kwargs) == pipe(inputs, **kwargs)
