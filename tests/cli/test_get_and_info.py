import filecmp
from importlib import metadata

from transformers_cxr import checkpoint as embedded


def test_get_writes_the_embedded_checkpoint(run, check_error, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # The name alone is the embedded checkpoint, until a folder has it.
    assert run("info", "--model", "llm-cxr").exit_code == 0
    assert run("get").exit_code == 0
    names = [path.name for path in embedded("llm-cxr").iterdir()]
    assert filecmp.cmpfiles(embedded("llm-cxr"), tmp_path / "llm-cxr", names, shallow=False)[0] == names
    assert "is already there" in run("get").stdout
    (tmp_path / "llm-cxr/config.json").write_text("{}")
    check_error("'llm-cxr' exists", "get")
    check_error("model_type", "info", "--model", "llm-cxr")
    check_error("llm-cxr", "get", "gpt")


def test_info_prints_versions_devices_and_the_configuration(run, checkpoint_dir, monkeypatch):
    version = metadata.version

    def version_without_lpips(name):
        if name == "lpips":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", version_without_lpips)
    result = run("info", "--model", checkpoint_dir)
    assert result.exit_code == 0, result.stderr
    rows = {tuple(line.split(maxsplit=1)) for line in result.stdout.splitlines()}
    assert {
        ("torch", version("torch")),
        ("lpips", 'not installed (extra == "train")'),
        ("Checkpoint", str(checkpoint_dir)),
    } <= rows
    assert "CUDA devices" in result.stdout and '"model_type": "llm_cxr"' in result.stdout
