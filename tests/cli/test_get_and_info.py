import filecmp
import json
import re
import shutil
from importlib import metadata

from huggingface_hub import EvalResult, ModelCardData

from transformers_cxr import LlmCxrForCausalLM
from transformers_cxr import checkpoint as embedded
from transformers_cxr.hub import check_model_card


def test_get_writes_the_embedded_checkpoint(run, check_error, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # The name alone is the embedded checkpoint, until a folder has it.
    assert run("info", "--model", "llm-cxr").exit_code == 0
    assert run("get").exit_code == 0
    # The code of the model is added to it and to its configuration.
    names = {path.name for path in embedded("llm-cxr").iterdir()} - {"config.json", "processor_config.json"}
    same, *others = filecmp.cmpfiles(embedded("llm-cxr"), tmp_path / "llm-cxr", names, shallow=False)
    assert others == [[], []] and {"README.md", "model.safetensors"} <= set(same)
    check_model_card(tmp_path / "llm-cxr")
    config = json.loads((tmp_path / "llm-cxr/config.json").read_text())
    module, _, name = config["auto_map"]["AutoModel"].partition(".")
    assert f"class {name}(" in (tmp_path / f"llm-cxr/{module}.py").read_text()
    assert "cxr-vqa" in config["custom_pipelines"]
    assert "is already there" in run("get").stdout
    (tmp_path / "llm-cxr/config.json").write_text("{}")
    check_error("'llm-cxr' exists", "get")
    check_error("model_type", "info", "--model", "llm-cxr")
    check_error("llm-cxr", "get", "gpt")


def test_info_says_in_ten_lines_what_a_checkpoint_is_and_knows(run, check_error, checkpoint_dir, tmp_path):
    result = run("info")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) <= 10 and re.search(r"llama, \d+\.\d M parameters", lines[1])
    assert re.search(r" \d{3} text tokens, 1,024 image codes", result.stdout)
    assert "gray, 256x256 pixels to 16x16 codes" in result.stdout and "guidance_scale 3.0" in result.stdout
    assert "no model card" in run("info", "--model", checkpoint_dir).stdout
    shutil.copytree(checkpoint_dir, tmp_path / "model")
    result = EvalResult(
        "image-to-text", "cxr", "cxr", "f1", 0.61239, metric_name="Reports: F1", dataset_config="site A"
    )
    data = ModelCardData(model_name="model", license="apache-2.0", datasets=["mimic-cxr"], eval_results=[result])
    (tmp_path / "model/README.md").write_text(f"---\n{data.to_yaml()}\n---\n# Model\n")
    lines = run("info", "--model", tmp_path / "model").stdout.splitlines()
    assert len(lines) == 10 and lines[7].split() == ["Trained", "on", "mimic-cxr"]
    assert lines[8].split(maxsplit=1)[1] == "Reports: F1 0.612 (cxr, site A)"
    assert lines[9].split() == ["License", "apache-2.0"]
    LlmCxrForCausalLM.from_pretrained(checkpoint_dir).vq_tokenizer.save_pretrained(tmp_path / "vq")
    check_error("is a model of type 'cxr_vq_tokenizer'", "info", "--model", tmp_path / "vq")


def test_info_prints_versions_devices_and_the_configuration(run, checkpoint_dir, monkeypatch):
    version = metadata.version

    def version_without_lpips(name):
        if name == "lpips":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", version_without_lpips)
    result = run("info", "--environment", "--model", checkpoint_dir)
    assert result.exit_code == 0, result.stderr
    rows = {tuple(line.split(maxsplit=1)) for line in result.stdout.splitlines()}
    assert {
        ("torch", version("torch")),
        ("lpips", 'not installed (extra == "train")'),
        ("Checkpoint", str(checkpoint_dir)),
    } <= rows
    assert "CUDA devices" in result.stdout and '"model_type": "llm_cxr"' in result.stdout
