"""The same question about the same image has the same answer on every surface, also with special tokens in it."""

import json

import numpy as np
import PIL.Image
import pytest
from transformers import pipeline
from typer.testing import CliRunner

from transformers_cxr import generate_text
from transformers_cxr.checkpoints import load_checkpoint
from transformers_cxr.cli.conversation import Conversation
from transformers_cxr.cli.main import app
from transformers_cxr.demo.model import DemoModel


@pytest.fixture(scope="module")
def model_and_processor(checkpoint_dir):
    return load_checkpoint(str(checkpoint_dir), "cpu")


def answer_of_pipeline(model, processor, image, question):
    pipe = pipeline("cxr-vqa", model=model, processor=processor)
    return pipe(image=str(image), question=question)[0]["generated_text"]


def answer_of_command(model, processor, image, question):
    output = image.with_suffix(".jsonl")
    arguments = ["ask", image, question, "--output", output]
    assert CliRunner().invoke(app, [str(argument) for argument in arguments]).exit_code == 0
    return json.loads(output.read_text())["answer"]


def answer_of_chat(model, processor, image, question):
    conversation = Conversation(model, processor, {})
    conversation.add_image(str(image))
    return conversation.ask(question)


def answer_of_demo(model, processor, image, question):
    demo_model = DemoModel(model, processor)
    return list(demo_model.write(demo_model.open(image).codes, [question]))[-1]


@pytest.mark.parametrize("answer", [answer_of_pipeline, answer_of_command, answer_of_chat, answer_of_demo])
@pytest.mark.parametrize("question", ["Is there pneumonia?", "Is <|cxr_start|> there in <image>?"])
def test_answer_is_that_of_generate_text(model_and_processor, answer, question, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers_cxr.checkpoints.load_checkpoint", lambda *arguments: model_and_processor)
    path = tmp_path / "xray.png"
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 48), dtype=np.uint8)).save(path)
    (expected,) = generate_text(*model_and_processor, str(path), question)
    assert expected and answer(*model_and_processor, path, question) == expected
