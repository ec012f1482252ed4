import errno
import filecmp
import shutil

from transformers_cxr import checkpoint as embedded


def test_get_puts_the_embedded_checkpoint_into_the_current_folder(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("get").exit_code == 0
    names = [path.name for path in embedded("llm-cxr").iterdir()]
    assert filecmp.cmpfiles(embedded("llm-cxr"), tmp_path / "llm-cxr", names, shallow=False)[0] == names
    assert "is there already" in run("get").stdout
    (tmp_path / "llm-cxr/config.json").write_text("{}")
    result = run("get")
    assert result.exit_code == 1 and "'llm-cxr' exists" in result.stderr
    assert run("get", "--output", tmp_path / "other").exit_code == 0
    result = run("get", "gpt")
    assert result.exit_code == 1 and "there is llm-cxr" in result.stderr


def test_get_on_a_full_disk_is_one_message_and_leaves_nothing(run, tmp_path, monkeypatch):
    def copy(source, target):
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(shutil, "copy", copy)
    result = run("get", "--output", tmp_path / "llm-cxr")
    assert result.exit_code == 1 and result.stderr.count("No space left on the disk") == 1
    assert list(tmp_path.iterdir()) == []


def test_info_names_versions_devices_extras_and_the_configuration(run, checkpoint):
    result = run("info", "--model", checkpoint)
    assert result.exit_code == 0, result.stderr
    for text in ("transformers-cxr", "torch", "Python", "CUDA devices", "extra 'train'", '"model_type": "llm_cxr"'):
        assert text in result.stdout
    assert str(checkpoint) in result.stdout


def test_info_says_what_of_an_extra_is_missing(run, checkpoint, monkeypatch):
    from importlib import metadata

    version = metadata.version

    def without_lpips(name):
        if name == "lpips":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", without_lpips)
    assert "extra 'train'" in (output := run("info", "--model", checkpoint).stdout)
    assert any("extra 'train'" in line and "missing: lpips" in line for line in output.splitlines())
