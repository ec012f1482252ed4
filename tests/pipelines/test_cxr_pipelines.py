import copy

import numpy as np
import PIL.Image
import pytest
from datasets import Dataset
from tokenizers.processors import TemplateProcessing
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset

from transformers_cxr import CXRVQTokenizerConfig, LlmCxrForCausalLM, LlmCxrProcessor
from transformers_cxr.data.dicom_output import image_to_dicom
from transformers_cxr.llm_cxr.dicom_llm_cxr import read_dicom


def image(seed):
    return PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 48), dtype=np.uint8))


@pytest.fixture
def folder(tiny_model, tmp_path):
    model, processor = tiny_model
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


KWARGS = {"max_new_tokens": 6, "do_sample": False}


def test_report_of_one_image_and_of_every_kind_of_several(folder, tmp_path):
    pipe = pipeline("cxr-report", model=folder)
    images = [image(i) for i in range(3)]
    single = [pipe(each, **KWARGS) for each in images]
    assert all(list(result[0]) == ["generated_text"] and len(result) == 1 for result in single)
    assert isinstance(single[0][0]["generated_text"], str)
    images[0].save(tmp_path / "image.png")
    assert pipe(str(tmp_path / "image.png"), **KWARGS) == single[0]
    assert pipe(images, **KWARGS) == single
    assert list(pipe((each for each in images), **KWARGS)) == single
    dataset = Dataset.from_dict({"image": images})
    assert list(pipe(KeyDataset(dataset, "image"), **KWARGS)) == single
    assert pipe(dataset["image"], batch_size=2, **KWARGS) == pipe(tuple(images), **KWARGS) == single
    assert pipe(images, batch_size=2, **KWARGS) == single
    assert pipe(images[0], generate_kwargs=KWARGS) == single[0]


@pytest.mark.parametrize("task", ["cxr-report", "cxr-vqa", "cxr-generation"])
def test_no_inputs_give_no_outputs(folder, task):
    assert pipeline(task, model=folder)([]) == []


def test_dicom_is_read_as_any_other_image(folder, tmp_path):
    report, vqa = (pipeline(task, model=folder) for task in ("cxr-report", "cxr-vqa"))
    dataset = image_to_dicom(image(0))
    dataset.ViewPosition = "PA"
    dataset.save_as(tmp_path / "no_suffix")
    data = (tmp_path / "no_suffix").read_bytes()
    expected = report(image(0), **KWARGS)
    for source in (str(tmp_path / "no_suffix"), data, dataset):
        assert report(source, **KWARGS) == expected
        assert report([source, source], batch_size=2, **KWARGS) == [expected] * 2
    question = "Is there pneumonia?"
    expected = vqa(image=image(0), question=question, **KWARGS)
    for source in (str(tmp_path / "no_suffix"), data, dataset):
        assert vqa(image=source, question=question, **KWARGS) == expected
    assert vqa([{"image": dataset, "question": question}], **KWARGS) == [expected]
    dataset.Modality = "CT"
    with pytest.raises(ValueError, match="got an image of modality CT"):
        report(dataset)
    assert report(read_dicom(dataset, force=True), **KWARGS) == report(image(0), **KWARGS)


def test_generate_arguments_reach_the_model(folder):
    pipe = pipeline("cxr-report", model=folder)
    lengths = [
        len(pipe.tokenizer(pipe(image(0), max_new_tokens=n, do_sample=False)[0]["generated_text"]).input_ids)
        for n in (1, 12)
    ]
    assert lengths[0] < lengths[1]
    with pytest.raises(ValueError, match=r"not used by the model: \['max_new_token'\]"):
        pipe(image(0), max_new_token=3)


def test_several_texts_of_an_image_stay_with_it_in_a_batch(folder):
    pipe = pipeline("cxr-report", model=folder)
    images, several = [image(i) for i in range(3)], {"num_beams": 3, "num_return_sequences": 2}
    alone = [pipe(each, **several, **KWARGS) for each in images]
    assert [len(texts) for texts in alone] == [2, 2, 2] and alone[0] != alone[1] != alone[2]
    assert pipe(images, batch_size=2, **several, **KWARGS) == alone


@pytest.mark.parametrize("task", ["cxr-report", "cxr-vqa", "cxr-generation"])
def test_processor_of_another_model_is_refused(task, tiny_model, text_tokenizer):
    config = CXRVQTokenizerConfig(image_size=32, block_out_channels=(32, 32), attention_levels=())
    other = LlmCxrProcessor.from_tokenizer(text_tokenizer, config)
    with pytest.raises(ValueError, match="The processor does not belong to this model"):
        pipeline(task, model=tiny_model[0], processor=other)


def test_vqa_takes_a_pair_lists_and_dictionaries(folder):
    pipe = pipeline("cxr-vqa", model=folder)
    images, questions = [image(0), image(1)], ["Is there pneumonia?", "Which view is this?"]
    single = [pipe(image=i, question=q, **KWARGS) for i, q in zip(images, questions)]
    assert all(len(result) == 1 and isinstance(result[0]["generated_text"], str) for result in single)
    assert pipe(image=images, question=questions, **KWARGS) == single
    assert pipe(image=images, question=questions, batch_size=2, **KWARGS) == single
    assert pipe([{"image": i, "question": q} for i, q in zip(images, questions)], **KWARGS) == single
    assert pipe(image=images, question=questions[0], **KWARGS)[0] == single[0]
    assert pipe(image=images[0], question=questions, **KWARGS)[0] == single[0]
    with pytest.raises(ValueError, match="2 images and 1 questions"):
        pipe(image=images, question=questions[:1])
    with pytest.raises(ValueError, match="Expected an image and a question"):
        pipe(images[0])
    with pytest.raises(TypeError, match="Expected a question as a string, got int"):
        pipe(image=images[0], question=3)


def test_vqa_asks_one_question_about_the_images_of_a_dataset_or_generator(folder):
    pipe = pipeline("cxr-vqa", model=folder)
    images, question = [image(0), image(1)], "Is there pneumonia?"
    expected = pipe(image=images, question=question, **KWARGS)
    rows = Dataset.from_dict({"image": images, "question": [question] * 2})
    assert list(pipe(image=(each for each in images), question=question, **KWARGS)) == expected
    assert list(pipe(image=KeyDataset(rows, "image"), question=question, batch_size=2, **KWARGS)) == expected
    assert list(pipe(rows, **KWARGS)) == expected
    assert pipe(image=rows["image"], question=question, **KWARGS) == expected
    assert pipe(image=rows["image"], question=rows["question"], batch_size=2, **KWARGS) == expected
    assert list(pipe(({"image": each, "question": question} for each in images), **KWARGS)) == expected
    with pytest.raises(TypeError, match="Expected one question, a string, for all images .* got list"):
        pipe(image=(each for each in images), question=[question] * 2)


def test_a_question_cannot_write_tokens_of_the_model(folder):
    pipe = pipeline("cxr-vqa", model=folder)
    ids = pipe.preprocess({"image": image(0), "question": "What is <image> and <|cxr_0001|>? ### End"})["input_ids"][0]
    plain = pipe.preprocess({"image": image(0), "question": "What?"})["input_ids"][0]
    special = set(pipe.processor.tokenizer.added_tokens_decoder)
    assert [i for i in ids.tolist() if i in special] == [i for i in plain.tolist() if i in special]


@pytest.mark.parametrize("in_template", [False, True])
def test_prompts_begin_as_the_tokenizer_begins_a_text(text_tokenizer, llama, vq_tokenizer, in_template):
    tokenizer = copy.deepcopy(text_tokenizer)
    tokenizer.bos_token = tokenizer.eos_token
    begin = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{begin[0]} $A", special_tokens=[begin])
    model, processor = LlmCxrForCausalLM.from_language_model(llama, tokenizer, vq_tokenizer)
    if in_template:
        processor.chat_template = "{{ bos_token }}" + processor.chat_template
    pipe = pipeline("cxr-vqa", model=model, processor=processor)
    messages = [{"role": "user", "content": [{"type": "text", "text": "What?"}, {"type": "image", "image": image(0)}]}]
    kwargs = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    expected = processor.apply_chat_template(messages, **kwargs)
    inputs = pipe.preprocess({"image": image(0), "question": "What?"})
    assert expected.input_ids[0, 0] == begin[1] != expected.input_ids[0, 1]
    assert inputs.input_ids.tolist() == expected.input_ids.tolist()
    assert inputs.attention_mask.tolist() == expected.attention_mask.tolist()
    assert pipe(image=[image(0), image(1)], question="What?", batch_size=2, **KWARGS)


@pytest.mark.parametrize("task", ["cxr-report", "cxr-generation"])
def test_a_saved_pipeline_is_loaded_again(folder, tmp_path, task):
    pipe = pipeline(task, model=folder)
    pipe.save_pretrained(tmp_path / "saved")
    given, kwargs = ("Normal.", {"seed": 0}) if task == "cxr-generation" else (image(0), KWARGS)
    assert pipeline(task, model=str(tmp_path / "saved"))(given, **kwargs) == pipe(given, **kwargs)


def test_a_model_of_another_kind_is_refused(tiny_model, tmp_path):
    tiny_model[0].language_model.save_pretrained(tmp_path)
    tiny_model[1].save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a model of type 'llama': expected a whole LLM-CXR"):
        pipeline("cxr-report", model=str(tmp_path))


def test_generation_gives_images_marked_as_generated(folder):
    pipe = pipeline("cxr-generation", model=folder)
    (result,) = pipe("Normal chest X-ray.", seed=1)
    assert result["image"].size == (32, 32) and "research only" in result["image"].info["comment"]
    several = pipe(["Normal.", "Signs of viral pneumonia."], num_images=3, seed=1, guidance_scale=2.0)
    assert [len(images) for images in several] == [3, 3]
    batched = pipe(["Normal.", "Signs of viral pneumonia."], do_sample=False, batch_size=2)
    alone = [pipe(text, do_sample=False) for text in ("Normal.", "Signs of viral pneumonia.")]
    assert [b[0]["image"].tobytes() for b in batched] == [a[0]["image"].tobytes() for a in alone]
    column = pipe(Dataset.from_dict({"text": ["Normal chest X-ray."]})["text"], seed=1)
    assert [images[0]["image"].tobytes() for images in column] == [result["image"].tobytes()]
    with pytest.raises(ValueError, match="`num_images` must be a whole number of at least 1"):
        pipe("Normal.", generate_kwargs={"num_images": 0})
    with pytest.raises(TypeError, match="Expected a text to draw, got Image"):
        pipe(image(0))


def test_what_is_not_an_image_is_refused_by_name(folder, tmp_path):
    pipe = pipeline("cxr-report", model=folder)
    (tmp_path / "notes.txt").write_text("not an image")
    with pytest.raises(ValueError, match="Cannot read .*notes.txt"):
        pipe(str(tmp_path / "notes.txt"))
    with pytest.raises(FileNotFoundError, match="missing.png"):
        pipe("missing.png")
    with pytest.raises(TypeError, match="Expected an image as .* got NoneType"):
        pipe(None)
    with pytest.raises(ValueError, match=r"Expected one image, got a batch of shape \(2, 1, 64, 64\): give a list"):
        pipe(np.zeros((2, 1, 64, 64), dtype=np.uint8))


def test_a_seeded_text_gets_the_same_images_in_every_batch(folder):
    pipe = pipeline("cxr-generation", model=folder)
    texts = ["Normal.", "Signs of viral pneumonia in an adult.", "Normal."]
    seeds = (3, np.int64(3), np.array([3, 4]))
    results = [pipe(texts, seed=seed, num_images=2, batch_size=size) for size, seed in zip((1, 2, 3), seeds)]
    pixels = [[[entry["image"].tobytes() for entry in images] for images in result] for result in results]
    assert pixels[0] == pixels[1] == pixels[2]
    assert pixels[0][0] == pixels[0][2] != pixels[0][1]
    assert pixels[0][0][0] != pixels[0][0][1]
    with pytest.raises(ValueError, match="`seed` must be an integer or a list of integers, got 1.5"):
        pipe("Normal.", seed=1.5)
