"""Mistakes of the user of a command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def mistakes_as_messages() -> Iterator[None]:
    """What the user can put right (a wrong file, a folder that exists) is one message and exit code 1."""
    try:
        yield
    except (ValueError, OSError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error
