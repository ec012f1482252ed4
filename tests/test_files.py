import errno
import os
import signal

import pytest
from safetensors import SafetensorError

from transformers_cxr.files import durable_file, full_disk_as_message, locked


def test_a_file_appears_whole_and_replaces_the_older_one(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with durable_file(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old" and partial.suffix == ".txt"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_the_older_file_and_nothing_else(tmp_path, number):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="What was finished is kept: free some space.*x.txt") as error:
        with durable_file(path) as partial:
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
    with pytest.raises(OSError, match=f"What was finished is kept: free some space.*{tmp_path}"):
        with full_disk_as_message(tmp_path):
            raise error
    with pytest.raises(RuntimeError, match="out of memory"), full_disk_as_message(tmp_path):
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
        with durable_file(path) as partial:
            partial.write_text("new")
            if moment == "writing":
                kill()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert path.read_text() == "old"
    with durable_file(path) as partial:
        partial.write_text("again")
    assert path.read_text() == "again" and list(tmp_path.iterdir()) == [path]


def test_a_lock_is_held_by_one_at_a_time(tmp_path):
    with locked(tmp_path):
        with pytest.raises(BlockingIOError, match="Another run is writing to this output"), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass
