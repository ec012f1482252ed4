import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from transformers_cxr import export_language_model


@torch.no_grad()
def test_plain_checkpoint_has_the_ids_and_logits_of_the_model(any_model, tmp_path):
    model, processor = any_model
    export_language_model(model, processor, tmp_path / "plain")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "plain")
    conversation = [{"role": "user", "content": [{"type": "text", "text": "Is there pneumonia?"}, {"type": "image"}]}]
    text = processor.apply_chat_template(conversation, add_generation_prompt=True)
    inputs = processor(text=text, image_codes=[list(range(16))], return_tensors="pt")
    # An image is text there.
    image = "<|cxr_start|>" + "".join(f"<|cxr_{code:04d}|>" for code in range(16)) + "<|cxr_end|>"
    prompt = tokenizer.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(prompt.replace("<image>", image), return_tensors="pt").input_ids
    assert torch.equal(ids, inputs.input_ids)
    assert torch.equal(plain(ids).logits, model(**inputs).logits)
    # Servers skip special tokens, and codes are their answer.
    assert tokenizer.decode(tokenizer(image + "<|endoftext|>").input_ids, skip_special_tokens=True) == image
    # Transformers 4 loads it, too.
    assert (
        json.loads((tmp_path / "plain/tokenizer_config.json").read_text())["tokenizer_class"]
        == "PreTrainedTokenizerFast"
    )
    assert GenerationConfig.from_pretrained(tmp_path / "plain").eos_token_id == processor.eos_token_ids
    with pytest.raises(FileExistsError, match="exists"):
        export_language_model(model, processor, tmp_path / "plain")
