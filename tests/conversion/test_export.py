import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from transformers_cxr import export_language_model


def test_plain_checkpoint_writes_the_same_as_the_model(any_model, tmp_path):
    model, processor = any_model
    export_language_model(model, processor, tmp_path / "plain")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "plain")
    conversation = [{"role": "user", "content": [{"type": "text", "text": "Is there pneumonia?"}, {"type": "image"}]}]
    codes = [list(range(16))]
    inputs = processor(
        text=processor.apply_chat_template(conversation, add_generation_prompt=True),
        image_codes=codes,
        return_tensors="pt",
    )
    # There an image is text.
    image = "<|cxr_start|>" + "".join(f"<|cxr_{code:04d}|>" for code in codes[0]) + "<|cxr_end|>"
    prompt = tokenizer.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(prompt.replace("<image>", image), return_tensors="pt").input_ids
    assert torch.equal(ids, inputs.input_ids)
    with torch.no_grad():
        assert torch.equal(plain(ids).logits, model(**inputs).logits)
    assert GenerationConfig.from_pretrained(tmp_path / "plain").eos_token_id == processor.eos_token_ids


def test_existing_folder_is_left_alone_and_a_failure_leaves_nothing(tiny_model, tmp_path, monkeypatch):
    model, processor = tiny_model
    with pytest.raises(FileExistsError, match="exists"):
        export_language_model(model, processor, tmp_path)

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(type(processor.tokenizer), "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        export_language_model(model, processor, tmp_path / "plain")
    assert not list(tmp_path.iterdir())
