import httpx
import pytest

from transformers_cxr.errors import cli_errors


class OutOfMemoryError(RuntimeError):
    pass


class SafetensorError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "exit_code", "message"),
    [
        (ValueError("wrong [bold]"), 1, "Error: wrong [bold]\n"),
        (FileNotFoundError("not there"), 1, "Error: not there\n"),
        (ImportError("It needs x: `pip install transformers-cxr[demo]`."), 1, "transformers-cxr[demo]"),
        (OutOfMemoryError("CUDA out of memory."), 1, "smaller `--batch-size`"),
        (SafetensorError("invalid header length"), 1, "Error: invalid header length Is a weight file damaged"),
        (httpx.ConnectError("refused"), 1, "Error: refused Is the network up?"),
        (KeyboardInterrupt(), 130, "Interrupted. Finished results are kept."),
    ],
)
def test_fixable_error_is_a_message_and_an_exit_code(capsys, error, exit_code, message):
    with pytest.raises(SystemExit) as end, cli_errors():
        raise error
    assert end.value.code == exit_code
    output = capsys.readouterr()
    assert message in output.err and output.out == ""


@pytest.mark.parametrize("error", [TypeError("bug"), ImportError("no module"), RuntimeError("bug"), BrokenPipeError()])
def test_any_other_error_passes(error):
    with pytest.raises(type(error)), cli_errors():
        raise error
