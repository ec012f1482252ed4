import errno
import json
import os
import signal

import pytest
from safetensors import SafetensorError

from transformers_cxr.files import atomic_write, check_same_settings, disk_full_error, file_fingerprint, lock


def test_a_file_appears_whole_and_replaces_the_older_one(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with atomic_write(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old" and partial.suffix == ".txt"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_the_older_file_and_nothing_else(tmp_path, number):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="Finished work is kept: free some space.*x.txt") as error:
        with atomic_write(path) as partial:
            partial.write_text("half")
            raise OSError(number, "No space left on device")
    assert error.value.errno == number
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 27818112 vs 27818004"),
    ],
)
def test_what_safetensors_and_torch_say_of_a_full_disk_becomes_the_same_message(tmp_path, error):
    with pytest.raises(OSError, match=f"Finished work is kept: free some space.*{tmp_path}"):
        with disk_full_error(tmp_path):
            raise error
    with pytest.raises(RuntimeError, match="out of memory"), disk_full_error(tmp_path):
        raise RuntimeError("out of memory")


@pytest.mark.parametrize("moment", ["writing", "fsync", "replace"])
def test_a_kill_at_any_moment_leaves_the_older_file_or_the_whole_new_one(tmp_path, moment):
    path = tmp_path / "x.txt"
    path.write_text("old")
    if not (child := os.fork()):

        def kill(*args, **kwargs):
            os.kill(os.getpid(), signal.SIGKILL)

        if moment == "fsync":
            os.fsync = kill
        if moment == "replace":
            os.replace = kill
        with atomic_write(path) as partial:
            partial.write_text("new")
            if moment == "writing":
                kill()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert path.read_text() == "old"
    with atomic_write(path) as partial:
        partial.write_text("again")
    assert path.read_text() == "again" and list(tmp_path.iterdir()) == [path]


def test_a_lock_is_held_by_one_at_a_time(tmp_path):
    with lock(tmp_path):
        with pytest.raises(BlockingIOError, match="Another run is writing to this output"), lock(tmp_path):
            pass
    with lock(tmp_path):
        pass


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "new" / "folder"
    with pytest.raises(ValueError), atomic_write(folder, overwrite=False) as partial:
        partial.mkdir()
        (partial / "x.txt").write_text("half")
        raise ValueError
    assert list(folder.parent.iterdir()) == []
    # Left by a killed process.
    (folder.parent / f".incomplete-{folder.name}").mkdir()
    with atomic_write(folder, overwrite=False) as partial:
        partial.mkdir()
        (partial / "x.txt").write_text("whole")
    assert (folder / "x.txt").read_text() == "whole" and list(folder.parent.iterdir()) == [folder]
    with pytest.raises(FileExistsError, match="exists. Remove it"), atomic_write(folder, overwrite=False):
        pass


def test_a_run_is_resumed_with_the_same_settings_only(tmp_path):
    path = tmp_path / "run/settings.json"
    settings = {"steps": 10, "data": tmp_path, "model": {"size": 8}}
    check_same_settings(path, settings)
    check_same_settings(path, settings)
    assert json.loads(path.read_text()) == {"steps": 10, "data": str(tmp_path), "model": {"size": 8}}
    with pytest.raises(ValueError, match=r"settings: model was {'size': 8} and is None; seed was None and is 1\. Use"):
        check_same_settings(path, {"steps": 10, "data": tmp_path, "seed": 1})
    check_same_settings(path, {"steps": 20}, replace=True)
    check_same_settings(path, {"steps": 20})


def test_fingerprints_follow_the_content(tmp_path):
    def fingerprint(name, *contents):
        for number, content in enumerate(contents):
            path = tmp_path / name / f"{number}.parquet"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        return file_fingerprint(path.parent), file_fingerprint(path)

    folder, file = fingerprint("first", b"a" * 100_000, b"b")
    assert fingerprint("again", b"a" * 100_000, b"b") == (folder, file)
    # One byte of many.
    assert fingerprint("other", b"a" * 99_999 + b"c", b"b") != (folder, file)
    assert fingerprint("fewer", b"b")[0] != folder
