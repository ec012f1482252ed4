import PIL.Image
import pydicom
import pytest
from pydicom.data import get_testdata_file

from transformers_cxr import generate_image
from transformers_cxr.cli.conversation import Conversation
from transformers_cxr.llm_cxr import dicom_decoders_llm_cxr


@pytest.fixture
def chat(run, checkpoint_dir, tmp_path):
    def invoke(lines, *arguments):
        options = ["--output", tmp_path / "out", "--model", checkpoint_dir, "--device", "cpu", "--max-new-tokens", 4]
        return run("chat", *arguments, *options, input="\n".join(lines) + "\n")

    return invoke


def test_conversation_keeps_its_turns_and_images(loaded, images):
    _, processor = loaded
    conversation = Conversation(*loaded, {"max_new_tokens": 4, "do_sample": False})
    conversation.add_image(str(images / "a/1.png"))
    first = conversation.ask("Is there pneumonia?")
    generated = conversation.generate_image("Normal.", seed=1)
    assert generated.tobytes() == generate_image(*loaded, "Normal.", seed=1)[0].tobytes()
    with pytest.raises(ValueError, match="context of 256"):
        conversation.ask("Word " * 300)
    second = conversation.ask("And here?")
    assert [message["role"] for message in conversation.messages] == ["user", "assistant"] * 2
    prompt = processor.apply_chat_template(conversation.messages)
    assert prompt.count("<image>") == 2 and prompt.index(first) < prompt.rindex("<image>") <= prompt.rindex(second)
    assert len(conversation.codes) == 2
    conversation.reset()
    assert conversation.messages == conversation.codes == []


def test_commands_run_in_order_and_errors_do_not_end_the_chat(chat, images, tmp_path, monkeypatch):
    monkeypatch.setattr(dicom_decoders_llm_cxr, "imagecodecs", None)
    dataset, dicom = pydicom.dcmread(get_testdata_file("MR_small_jpeg_ls_lossless.dcm")), tmp_path / "1.dcm"
    dataset.Modality = "CR"
    dataset.save_as(dicom)
    lines = [
        "/help",
        "/image nothing.png",
        f"/image {dicom}",
        f"/image {images}/a/3.png",
        "Is there pneumonia?",
        "/what",
        "",
        "/new",
    ]
    result = chat([*lines, "/generate Normal.", "/generate Normal.", "/exit", "never read"], images / "a/1.png")
    assert result.exit_code == 0, result.stderr
    assert "Ctrl-C stops an answer" in result.stdout and f"Showing {images}/a/3.png" in result.stdout
    assert "No image file at 'nothing.png'" in result.stderr and "Unknown command '/what'" in result.stderr
    assert "pip install transformers-cxr[dicom]" in result.stderr
    assert "For research only" in result.stderr and "Traceback" not in result.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["seed-0.png", "seed-1.png"]
    with PIL.Image.open(tmp_path / "out/seed-0.png") as image:
        assert "Synthetic image" in image.text["Comment"]


def test_ctrl_c_stops_an_answer_and_the_end_of_input_the_chat(chat, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Conversation, "ask", interrupt)
    result = chat(["Is there pneumonia?"])
    assert result.exit_code == 0 and "Stopped." in result.stderr
