"""
The `transformers-cxr` command line. A command imports its libraries when it runs, so that `--help` is immediate.
"""

from __future__ import annotations

import os
import sys

import typer

from .chat import chat
from .conversion import convert, convert_codes, convert_vq_gan, export, export_vq_gan
from .demo import demo
from .encode import encode
from .evaluate import compare, evaluate
from .generate import generate
from .get import get
from .info import info
from .options import to_typer_command
from .push import push
from .reader_study import reader_study, score_reader_study
from .reconstruct import reconstruct
from .report_and_ask import ask, report
from .rexrank import rexrank
from .train import train

PANELS = {
    "Use a checkpoint": (report, ask, generate, chat, demo),
    "Train": (train,),
    "Evaluate": (evaluate, compare, reader_study, score_reader_study, rexrank),
    "Images as codes": (encode, reconstruct),
    "Checkpoints and data": (get, info, push, convert, export, convert_vq_gan, export_vq_gan, convert_codes),
}

app = typer.Typer(
    help="Chest X-rays and language models: reports, answers and generated images by LLM-CXR. For research only.",
    epilog="Exit codes: 0 success; 1 error, or some inputs failed; 2 wrong usage; 130 Ctrl-C.",
    rich_markup_mode="markdown",
    # A bug shows Python's own traceback.
    pretty_exceptions_enable=False,
)
for panel, commands in PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(to_typer_command(command))

FIRST_STEPS = """\
Chest X-rays and language models. For research only. To begin:

  transformers-cxr report XRAY.png                     write a report of an X-ray (PNG, JPEG, DICOM ...)
  transformers-cxr ask XRAY.png "Is there pneumonia?"  answer a question about it
  transformers-cxr generate "Normal chest X-ray."      generate X-rays from a text
  transformers-cxr demo                                all of this in the browser
  transformers-cxr train --table reports.csv           fine-tune the checkpoint on X-rays of your own
  transformers-cxr info                                what the checkpoint is and knows

All commands: transformers-cxr --help. Options and examples of one: transformers-cxr COMMAND --help."""


@app.callback(invoke_without_command=True)
def first_steps(context: typer.Context) -> None:
    """Show what one can do first, without a command."""
    if context.invoked_subcommand is None:
        typer.echo(FIRST_STEPS)


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        # A file name that is not UTF-8 must not end a run.
        stream.reconfigure(errors="backslashreplace")
    # Progress bars and warnings of the libraries would bury the result.
    for library in ("HF_HUB", "HF_DATASETS"):
        os.environ.setdefault(f"{library}_DISABLE_PROGRESS_BARS", "1")
    for library in ("TRANSFORMERS", "DATASETS", "HF_HUB"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    app()


if __name__ == "__main__":
    main()
