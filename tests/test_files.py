import errno
import os
import signal

import pytest
from safetensors import SafetensorError

from transformers_cxr.files import atomic_write, disk_full_error, file_fingerprint, locked_output, read_json


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    return path


def test_a_file_appears_whole_and_replaces_the_older_one(path):
    with atomic_write(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old" and partial.suffix == ".txt"
    assert path.read_text() == "new" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 27818112 vs 27818004"),
    ],
)
def test_a_full_disk_leaves_the_older_file_and_an_error_with_the_way_out(path, error):
    with pytest.raises(OSError, match="Finished work is kept: free some space.*x.txt"), atomic_write(path) as partial:
        partial.write_text("half")
        raise error
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]
    with pytest.raises(RuntimeError, match="out of memory"), disk_full_error(path):
        raise RuntimeError("out of memory")


@pytest.mark.parametrize("moment", ["writing", "replace"])
def test_a_kill_at_any_moment_leaves_the_older_file(path, moment):
    if not (child := os.fork()):

        def kill(*args, **kwargs):
            os.kill(os.getpid(), signal.SIGKILL)

        if moment != "writing":
            setattr(os, moment, kill)
        with atomic_write(path) as partial:
            partial.write_text("new")
            if moment == "writing":
                kill()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert path.read_text() == "old"
    with atomic_write(path) as partial:
        partial.write_text("again")
    assert path.read_text() == "again" and list(path.parent.iterdir()) == [path]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "new" / "folder"
    with pytest.raises(ZeroDivisionError), atomic_write(folder, overwrite=False) as partial:
        partial.mkdir()
        (partial / "x.txt").write_text("half")
        1 / 0  # noqa: B018
    (folder.parent / f".incomplete-{folder.name}").mkdir()  # left by a killed process
    with atomic_write(folder, overwrite=False) as partial:
        partial.mkdir()
        (partial / "x.txt").write_text("whole")
    assert (folder / "x.txt").read_text() == "whole" and list(folder.parent.iterdir()) == [folder]
    with pytest.raises(FileExistsError, match="exists. Remove it"), atomic_write(folder, overwrite=False):
        pass


def test_a_fingerprint_changes_with_any_file_and_byte(tmp_path):
    def fingerprint(**contents):
        for name, content in contents.items():
            (tmp_path / f"{name}.parquet").write_bytes(content)
        return file_fingerprint(tmp_path), file_fingerprint(tmp_path / "a.parquet")

    folder, file = fingerprint(a=b"a" * 100_000)
    assert fingerprint(a=b"a" * 100_000) == (folder, file)
    assert set(fingerprint(a=b"a" * 99_999 + b"c")).isdisjoint({folder, file})
    assert fingerprint(a=b"a" * 100_000, b=b"b") != (folder, file)
    # A folder of images has its names.
    folders = set()
    for name in ("1.png", "a/2.png"):
        (tmp_path / "images/a").mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(b"pixels")
        folders.add(file_fingerprint(tmp_path / "images"))
    assert len(folders) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": [1, 2}', "studies.json' is not a JSON file: Expecting ',' delimiter"),
        ("[" * 100_000, "studies.json' is not a JSON file: maximum recursion depth"),
        ("[]", r"Expected a JSON object in '.*studies.json', got \[\]"),
        ("{}", "Expected `number` of type int in '.*studies.json', got None"),
        ('{"number": "1"}', "Expected `number` of type int in '.*studies.json', got '1'"),
    ],
)
def test_a_json_file_of_another_kind_is_named(tmp_path, content, message):
    (tmp_path / "studies.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_json(tmp_path / "studies.json", {"number": int})


def test_an_output_has_one_run_at_a_time_whose_other_processes_do_not_lock_it(tmp_path, monkeypatch):
    with locked_output(tmp_path / "run"):
        with pytest.raises(BlockingIOError, match="Another run is writing to this output"):
            with locked_output(tmp_path / "run"):
                pass
        monkeypatch.setenv("RANK", "1")
        with locked_output(tmp_path / "run"):
            pass
