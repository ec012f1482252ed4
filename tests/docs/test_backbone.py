"""docs/backbone.md, run as it stands, with a tiny random model of the name that it mentions."""

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, Qwen2Config

from transformers_cxr.data.records import StudyRecord
from transformers_cxr.data.store import write_records


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")  # PEFT asks by the old name
def test_page_extends_saves_and_trains_a_model(page, qwen, one_step, tmp_path):
    study = StudyRecord(
        id="1", patient="1", image="1.png", source="a", split="train", view="AP", findings="Clear lungs.",
        impression="Normal.", labels={"No Finding": 1}, study_order=1,
    )  # fmt: skip
    codes = Dataset.from_dict({"id": ["1"], "codes": [list(range(256))]})
    write_records([study], tmp_path / "records.parquet", codes)
    page = page("docs/backbone.md")
    for language, block in page.blocks:
        if language == "python":
            page.run_python(block)
        for words in page.commands(block) if language == "bash" else ():
            if words[1] == "examples/new_llm_cxr.py":
                page.check_command(words)
            else:
                page.run_command(words, one_step)
    loaded = page.namespace["loaded"]
    assert (loaded.dtype, loaded.vq_tokenizer.dtype) == (torch.bfloat16, torch.float32)
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "runs/qwen_lora/final")
    assert isinstance(trained.config.text_config, Qwen2Config)
