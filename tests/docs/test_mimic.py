"""docs/mimic.md, on the invented studies of the reader's tests, with a tiny random language model, for a step a stage."""

import json

import pytest

from transformers_cxr.data.store import load_records

FEW = ["--max-new-tokens", "4", "--num-resamples", "2"]
# What a language model would write about a study of each split.
QUESTIONS = {
    split: json.dumps({"source": "mimic-cxr", "study": study, "questions": [{"question": "Edema?", "answer": "No."}]})
    for split, study in (("train", "53189527"), ("validation", "51033740"))
}


@pytest.mark.usefixtures("dolly", "dolly_texts", "mimic", "saved_vq_tokenizer")
def test_page_leads_from_the_download_to_the_tables(page, one_step, tmp_path):
    page = page("docs/mimic.md")
    image = "p10/p10000032/s50414267/aaaa1111-0001.jpg"
    (tmp_path / "ReXRank_MIMICCXR_test.json").write_text(json.dumps({"s1": {"key_image_path": image}}))

    outputs = []
    for language, block in page.blocks:
        if language == "python":
            page.run_python(block)
        for words in page.commands(block) if language == "bash" else ():
            command = " ".join(words[:2])
            if command in ("python examples/train_vq_gan.py", "python examples/evaluate_vq_gan.py"):
                page.check_command(words)
            elif command == "python examples/make_vqa.py":
                page.check_command(words)
                split = words[words.index("--split") + 1] if "--split" in words else "train"
                with (tmp_path / words[words.index("--output") + 1]).open("a") as file:
                    file.write(QUESTIONS[split] + "\n")
            elif command == "python examples/finetune_llm_cxr.py":
                # DeepSpeed needs GPUs.
                page.run_command([word for word in words if "zero3" not in word], [*one_step, "--eval_size", "8"])
            elif command == "python examples/evaluate_llm_cxr.py":
                page.run_command(words, [option.replace("-", "_").replace("__", "--", 1) for option in FEW])
            elif command == "transformers-cxr evaluate":
                # The weights of CheXbert and torchxrayvision are downloads.
                page.run_command(words[: words.index("--tasks") + 2], [*FEW, "--num-drawings", "1"])
            elif command == "transformers-cxr rexrank":
                page.run_command(words, ["--max-new-tokens", "4"])
            elif words[0] not in ("wget", "unzip") and command != "transformers-cxr convert-vq-gan":
                outputs.append(page.run_command(words))

    assert "6 images in 1 shards" in outputs[0]
    assert len(load_records("mimic.parquet")) == 6 and len(load_records("questions.parquet")) == 3
    for stage in ("stage1", "stage2"):
        losses = json.loads((tmp_path / f"runs/{stage}/eval_results.json").read_text())
        assert {"eval_loss_report", "eval_loss_image", "eval_loss_vqa"} <= set(losses)
    assert len(page.namespace["references"]) == 1 and page.namespace["references"][0]["findings"] == ""
    assert "| bleu" in (tmp_path / "runs/evaluation/tables.md").read_text()
    assert "model-index" in (tmp_path / "runs/stage2/final/README.md").read_text()
    assert json.loads((tmp_path / "predictions.json").read_text())["s1"]["model_prediction"] is not None
