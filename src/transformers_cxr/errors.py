"""Errors that a user can correct, as messages of commands and scripts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

# Errors of torch, safetensors, Jinja and httpx, by name: importing these packages takes seconds.
_FIXABLE_ERRORS = {
    "OutOfMemoryError": " Try a smaller `--batch-size` or another `--device`.",
    "SafetensorError": " Is a weight file damaged or the disk full?",
    "TransportError": " Is the network up?",
    "TemplateError": " The chat template of the checkpoint raised it.",
}


@contextmanager
def cli_errors() -> Iterator[None]:
    """
    Print an error that the user can fix as one message and exit with code 1; exit with code 130 on Ctrl-C. Any other
    error is a bug and passes.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        typer.echo("Interrupted. Finished results are kept.", err=True)
        raise SystemExit(130) from error
    except Exception as error:
        # Typer ends a command quietly when its output is closed, as by `head`.
        is_fixable = isinstance(error, (ValueError, OSError)) and not isinstance(error, BrokenPipeError)
        is_missing_extra = isinstance(error, ImportError) and "pip install" in str(error)
        names = [error_class.__name__ for error_class in type(error).__mro__]
        advice = next((_FIXABLE_ERRORS[name] for name in names if name in _FIXABLE_ERRORS), None)
        if not is_fixable and not is_missing_extra and advice is None:
            raise
        typer.echo(f"Error: {error}{advice or ''}", err=True)
        raise SystemExit(1) from error
