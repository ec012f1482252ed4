"""Mistakes of the user of a command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def mistakes_as_messages() -> Iterator[None]:
    """
    What the user can put right (a wrong file, a folder that exists, an extra that is not installed, a device without memory,
    weights that a full disk does not take) is one message and exit code 1; Ctrl-C is exit code 130.
    """
    try:
        yield
    # Typer ends a command quietly when the reader of its output has gone away.
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        raise _message(error) from error
    except ImportError as error:
        # An import that fails for any other reason is a bug.
        if "pip install" not in str(error):
            raise
        raise _message(error) from error
    except Exception as error:
        # torch and safetensors, which have these errors, are not imported for their names alone.
        name = type(error).__name__
        if name == "OutOfMemoryError":
            raise _message(f"{error} Try a smaller `--batch-size` or another `--device`.") from error
        if name == "SafetensorError":
            raise _message(error) from error
        raise
    except KeyboardInterrupt as error:
        typer.echo("Interrupted. What was finished is kept.", err=True)
        raise typer.Exit(130) from error


def _message(error: Exception | str) -> typer.Exit:
    typer.echo(f"Error: {error}", err=True)
    return typer.Exit(1)
