import pytest
import typer

from transformers_cxr.cli.errors import mistakes_as_messages


class OutOfMemoryError(RuntimeError):
    pass


class SafetensorError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("wrong [bold]"), 1, "Error: wrong [bold]\n"),
        (FileNotFoundError("not there"), 1, "Error: not there\n"),
        (ImportError("It needs x: `pip install transformers-cxr[demo]`."), 1, "transformers-cxr[demo]"),
        (OutOfMemoryError("CUDA out of memory."), 1, "smaller `--batch-size`"),
        (SafetensorError("No space left on device"), 1, "Error: No space left on device\n"),
        (KeyboardInterrupt(), 130, "Interrupted. What was finished is kept."),
    ],
)
def test_what_the_user_can_put_right_is_a_message_and_an_exit_code(capsys, error, code, message):
    with pytest.raises(typer.Exit) as end, mistakes_as_messages():
        raise error
    assert end.value.exit_code == code
    output = capsys.readouterr()
    assert message in output.err and output.out == ""


@pytest.mark.parametrize("error", [TypeError("bug"), ImportError("no module"), RuntimeError("bug"), BrokenPipeError()])
def test_anything_else_is_passed_on(error):
    with pytest.raises(type(error)), mistakes_as_messages():
        raise error
