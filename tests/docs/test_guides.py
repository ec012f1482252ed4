"""Guides, run from top to bottom on tiny models and a few invented studies, for one step a training."""

import json
import runpy
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from PIL import Image
from pydicom.data import get_testdata_file
from transformers import AutoModelForCausalLM

from transformers_cxr.data import StudyRecord, load_records, write_records

# The datasets in their real layouts, on which the readers are tested.
_READERS = runpy.run_path(str(Path(__file__).parents[1] / "data/conftest.py"))
MimicTree, openi = _READERS["MimicTree"], _READERS["openi"]
FINETUNE = "python examples/finetune_llm_cxr.py"
FEW = ["--max-new-tokens", 4, "--num-resamples", 2]

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")  # PEFT asks by the old name


def save_image(path, number=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.linear_gradient("L").rotate(10 * number).save(path)


@pytest.fixture
def mimic(tmp_path):
    tree = MimicTree(tmp_path)
    for number, image in enumerate(tree.images):
        save_image(tree.path_of(image), number)
    return tree


def test_read_and_generate(page, tmp_path):
    page = page("docs/read_and_generate.md")
    outputs = page.run()
    assert len(Path("reports.jsonl").read_text().splitlines()) == outputs["ask"].count("examples/images/") == 2
    assert len(list(tmp_path.glob("generated/*.png"))) == 2 and page.namespace["codes"].shape == (1, 16)


def test_hub(page, tmp_path):
    save_image(tmp_path / "1.png")
    record = StudyRecord(id="1", patient="1", image="1.png", source="a", split="validation", impression="Clear.")
    write_records([record], tmp_path / "records.parquet")
    page("docs/hub.md").run({"transformers-cxr evaluate": [*FEW, "--tasks", "report"], "transformers-cxr push": None})
    assert "### Reports" in (tmp_path / "llm-cxr/README.md").read_text()
    assert (tmp_path / "own/pipelines_llm_cxr.py").read_text() == (tmp_path / "saved/pipelines_llm_cxr.py").read_text()


def test_backbone(page, language_model, one_step, tmp_path):
    language_model("Qwen/Qwen2.5-0.5B-Instruct", "qwen2")
    labels = {"No Finding": 1}
    record = StudyRecord(id="1", patient="1", image="1.png", source="a", split="train", labels=labels)
    codes = Dataset.from_dict({"id": ["1"], "codes": [list(range(16))]})
    write_records([record], tmp_path / "runs/own/records.parquet", codes)
    page = page("docs/backbone.md")
    page.run({FINETUNE: one_step, "python examples/new_llm_cxr.py": None})
    loaded = page.namespace["loaded"]
    assert (loaded.dtype, loaded.vq_tokenizer.dtype) == (torch.bfloat16, torch.float32)
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "runs/qwen_lora/final")
    assert trained.config.text_config.model_type == "qwen2"


def test_modality(page, language_model, one_step, tmp_path):
    language_model("Qwen/Qwen2.5-0.5B-Instruct", "qwen2")
    (tmp_path / "dicom").mkdir()
    for name in ("CT_small", "MR_small"):
        shutil.copy(get_testdata_file(f"{name}.dcm"), tmp_path / "dicom")
    texts = {"ct/CT_small.png": "Liver and both kidneys.", "mr/MR_small.png": "A brain."}
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    model = (
        "{image_size: 32, in_channels: 1, block_out_channels: [4, 8, 8], layers_per_block: 1, attention_levels: [], "
    )
    model += "latent_channels: 8, norm_num_groups: 4, codebook_size: 32, codebook_dim: 4}"
    tiny = ["--model", model, "--steps", 2, "--batch_size", 2, "--crop_size", 32]
    page = page("docs/modality.md")
    page.run({"python examples/train_vq_gan.py": tiny, FINETUNE: one_step})
    assert list(tmp_path.glob("pairs/*.png")) and page.namespace["image"].size == (32, 32)
    assert len((tmp_path / "train.jsonl").read_text().splitlines()) == 4
    with Image.open(tmp_path / "slices/ct/CT_small.png") as image:
        # Air is black in a window of soft tissue.
        assert image.size == (128, 128) and image.getpixel((0, 0)) == 0


@pytest.mark.usefixtures("mimic", "dolly_texts")
def test_data(page, openi, tmp_path):
    with tarfile.open(tmp_path / "NLMCXR_reports.tgz", "w:gz") as archive:
        archive.add(openi / "reports", "ecgen-radiology")
    shutil.move(openi / "images", tmp_path / "NLMCXR_png")
    (tmp_path / "cxr").mkdir()
    tables = {
        "views.csv": "imageid,View Position\nCXR2_IM-0652-1001,PA",
        "reports.csv": "file_name,patient_id,text,set,projection\n1.png,7,IMPRESSION: Normal.,train,AP",
        "train.csv": "Path,patient_id,AP/PA,Edema,Pneumonia\nimages/1.png,7,AP,1.0,-1.0",
        "cxr/metadata.csv": "file_name,split,source,patient_id,view,age_group,sex,finding_labels,etiology\n"
        "1.png,train,kermany,1,AP,child,M,No Finding,",
    }
    for name, text in tables.items():
        (tmp_path / name).write_text(text)
    question = {"question": "Is it normal?", "answer": "Yes."}
    slake = {"img_name": "xmlab1/source.jpg", "q_lang": "en", "modality": "X-Ray", "location": "Lung", **question}
    vqa_rad = {"image_name": "2.png", "image_organ": "CHEST", **question}
    for image in ("images/1.png", "images/2.png", "Slake1.0/imgs/xmlab1/source.jpg"):
        save_image(tmp_path / image)
    (tmp_path / "Slake1.0/train.json").write_text(json.dumps([slake]))
    (tmp_path / "VQA_RAD.json").write_text(json.dumps([vqa_rad]))
    (tmp_path / "vqa.json").write_text(json.dumps([{"subject_id": 10000032, "study_id": 50414267, **question}]))

    page = page("docs/data.md")
    outputs = page.run({"python examples/make_vqa.py": None, "transformers-cxr convert-codes": None})
    assert " dB  mean of 2 images" in outputs["reconstruct"]
    found = page.namespace
    assert [len(load_records(f"{name}.parquet")) for name in ("mimic", "openi", "questions")] == [6, 3, 2]
    assert (tmp_path / "skipped.jsonl").read_text() == ""
    assert [record.labels for record in found["labeled"]] == [{"Edema": 1, "Pneumonia": -1}]
    assert [record.id for record in (*found["slake"], *found["vqa_rad"])] == ["xmlab1/source.jpg", "2.png"]
    train = found["train"]
    assert len(train) == 76_000 * 16 and all(len(codes) == 16 for codes in train[0]["image_codes"])


@pytest.mark.usefixtures("mimic")
def test_finetune(page, language_model, one_step, tmp_path):
    base = language_model("base", "llama")
    labels = ("Normal", "Pneumonia")
    rows = [f"{number}.png,{number},{labels[number % 2]}" for number in range(30)]
    (tmp_path / "reports.csv").write_text("\n".join(["file_name,patient_id,labels", *rows]))
    for number in range(30):
        save_image(tmp_path / f"images/{number}.png", number)
    page = page("docs/finetune.md")
    (conversation,) = (json.loads(block) for language, block in page.blocks if language == "json")
    save_image(tmp_path / conversation["images"][0])
    for name in ("train", "validation"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(conversation) + "\n")

    few = [*one_step, "--eval_size", 8]
    (tmp_path / "few.yaml").write_text("{max_steps: 1, per_device_train_batch_size: 1, use_cpu: true}")
    variants = (
        "--variants full --seeds 0 --eval_size 2 --num_reports 2 --max_steps 1 --use_cpu --disable_tqdm true".split()
    )
    page.run(
        {
            "transformers-cxr train": ["--config", tmp_path / "few.yaml", "--num-resamples", 2],
            "python examples/make_texts.py": None,
            "python examples/ablations.py": variants,
            f"{FINETUNE} --config examples/finetune/smollm2_lora.yaml": [*few, "--language_model", base],
            FINETUNE: few,
        }
    )
    trained = sorted(path.parent.name for path in (tmp_path / "runs").glob("*/eval_results.json"))
    assert trained == ["conversations", "llm", "mimic", "own", "smollm2"]
    assert all((tmp_path / f"runs/{name}/final/model.safetensors").is_file() for name in trained)
    assert "| full | 1 |" in (tmp_path / "runs/ablations/ablations.md").read_text()


def test_tune_by_preference(page, checkpoints_dir, tmp_path):
    shutil.copytree(checkpoints_dir / "llm-cxr", tmp_path / "runs/own/final")
    report = {"findings": "Clear.", "impression": "Normal."}
    records = [StudyRecord(id=i, patient=i, image=i, source="a", split="train", **report) for i in "ab"]
    codes = Dataset.from_dict({"id": ["a", "b"], "codes": [list(range(16)), [5] * 16]})
    write_records(records, tmp_path / "runs/own/records.parquet", codes)
    few = "--max_steps 1 --per_device_train_batch_size 2 --use_cpu --disable_tqdm true".split()
    grpo = "python examples/grpo_llm_cxr.py --config"
    page("docs/tune_by_preference.md").run(
        {
            "python examples/dpo_llm_cxr.py": few,
            f"{grpo} examples/finetune/grpo_report.yaml": [*few, "--num_generations", 2, "--max_completion_length", 8],
            f"{grpo} examples/finetune/grpo_image.yaml": None,
        }
    )
    assert len((tmp_path / "pairs.jsonl").read_text().splitlines()) == 2
    assert all((tmp_path / f"runs/{name}/final/model.safetensors").is_file() for name in ("dpo", "grpo"))


@pytest.mark.usefixtures("dolly_texts", "mimic", "saved_vq_tokenizer")
def test_mimic(page, language_model, one_step, tmp_path):
    language_model("databricks/dolly-v2-3b", "gpt_neox")
    image = "p10/p10000032/s50414267/aaaa1111-0001.jpg"
    (tmp_path / "ReXRank_MIMICCXR_test.json").write_text(json.dumps({"s1": {"key_image_path": image}}))

    def write_questions(words):
        if words[1] == "examples/make_vqa.py":
            study = "51033740" if "validation" in words else "53189527"
            pairs = [{"question": "Edema?", "answer": "No."}]
            with open("vqa.jsonl", "a") as file:
                file.write(json.dumps({"source": "mimic-cxr", "study": study, "questions": pairs}) + "\n")

    evaluate = "transformers-cxr evaluate runs/evaluation --model runs/stage2/final --records mimic.parquet"
    reports = f"{evaluate} --split validation,test --views AP,PA --sections impression --tasks report"
    page = page("docs/mimic.md")
    outputs = page.run(
        {
            "transformers-cxr convert-vq-gan": None,
            "python examples/train_vq_gan.py": None,
            "python examples/evaluate_vq_gan.py": None,
            "python examples/make_vqa.py": None,
            FINETUNE: [*one_step, "--eval_size", 8],
            # Weights of CheXbert and torchxrayvision are downloads.
            f"{reports} --labeler": None,
            f"{evaluate} --split validation,test --views AP,PA --sections impression --tasks image": None,
            evaluate: [*FEW, "--num-generated", 1, "--classifier", ""],
            "transformers-cxr rexrank": ["--max-new-tokens", 4],
        },
        write_questions,
    )
    assert "6 images in 1 shards" in outputs["encode"]
    assert len(load_records("mimic.parquet")) == 6 and len(load_records("questions.parquet")) == 3
    for stage in ("stage1", "stage2"):
        losses = json.loads((tmp_path / f"runs/{stage}/eval_results.json").read_text())
        assert {"eval_loss_report", "eval_loss_image", "eval_loss_vqa"} <= set(losses)
    assert "`bleu_*`" in (tmp_path / "runs/evaluation/tables.md").read_text()
    assert "model-index" in (tmp_path / "runs/stage2/final/README.md").read_text()
    assert json.loads((tmp_path / "predictions.json").read_text())["s1"]["model_prediction"] is not None
