import PIL.Image
import pytest

from transformers_cxr import generate_image
from transformers_cxr.cli.chat import Conversation


@pytest.fixture
def chat(run, checkpoint, tmp_path):
    def invoke(lines, *arguments):
        options = ["--output", tmp_path / "drawn", "--model", checkpoint, "--device", "cpu", "--max-new-tokens", 4]
        return run("chat", *arguments, *options, input="\n".join(lines) + "\n")

    return invoke


def test_a_conversation_keeps_its_turns_and_images(tiny_model, images):
    model, processor = tiny_model
    processor.vq_tokenizer = model.vq_tokenizer
    conversation = Conversation(model, processor, {"max_new_tokens": 4, "do_sample": False})
    conversation.show(str(images / "a/1.png"))
    conversation.answer("Is there pneumonia?")
    first = conversation.messages[1]["content"][0]["text"]
    conversation.draw("Normal.", seed=1)
    assert [message["role"] for message in conversation.messages] == ["user", "assistant"] * 2
    assert len(conversation.codes) == 2 and conversation.shown == []
    prompt = processor.apply_chat_template(conversation.messages)
    assert prompt.count("<image>") == 2 and first in prompt
    # Three images and four turns are more than the 256 positions of this model.
    conversation.show(str(images / "a/3.png"))
    before = list(conversation.messages)
    with pytest.raises(ValueError, match="context of 256"):
        conversation.answer("Word " * 300)
    assert conversation.messages == before and len(conversation.shown) == 1
    conversation.begin()
    assert conversation.messages == conversation.codes == conversation.shown == []


def test_a_drawing_is_that_of_generate_image(tiny_model):
    model, processor = tiny_model
    processor.vq_tokenizer = model.vq_tokenizer
    model.generation_config.image_generation = {"guidance_scale": 4.0}
    drawn = Conversation(model, processor, {}).draw("Normal.", seed=1)
    assert drawn.tobytes() == generate_image(model, processor, "Normal.", seed=1)[0].tobytes()


def test_answers_come_in_order_and_a_mistake_does_not_end_the_chat(chat, images, tmp_path):
    lines = ["/help", "/image nothing.png", f"/image {images}/a/3.png", "Is there pneumonia?", "/what", "", "/new"]
    result = chat([*lines, "/draw Normal.", "/draw Normal.", "/exit", "never read"], images / "a/1.png")
    assert result.exit_code == 0, result.stderr
    assert "Ctrl-C stops an answer" in result.stdout and f"You see {images}/a/3.png" in result.stdout
    assert "No image file at 'nothing.png'" in result.stderr and "There is no '/what' here" in result.stderr
    assert "For research only" in result.stderr and "Traceback" not in result.stderr
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["seed-0.png", "seed-1.png"]
    with PIL.Image.open(tmp_path / "drawn/seed-0.png") as image:
        assert "Synthetic image" in image.text["Comment"]


def test_ctrl_c_stops_an_answer_and_the_end_of_input_the_chat(chat, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Conversation, "answer", interrupted)
    result = chat(["Is there pneumonia?"])
    assert result.exit_code == 0 and "Stopped." in result.stderr


def test_an_image_that_is_none_is_one_message(chat, images):
    result = chat([], images / "notes.txt")
    assert result.exit_code == 1 and "Traceback" not in result.stderr and "notes.txt" in result.stderr
