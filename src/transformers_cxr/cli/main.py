"""
`transformers-cxr`: the registry of the commands. What a command needs is imported when it runs, so that `--help` is
immediate.
"""

from __future__ import annotations

import os

import typer

from .chat import chat
from .checkpoints import get, info
from .conversion import convert, convert_codes, convert_vq_gan, export, export_vq_gan
from .demo import demo
from .drawing import generate, reconstruct
from .encode import encode
from .evaluate import compare, evaluate, reader_study, rexrank, score_reader_study
from .reading import ask, report

PANELS = {
    "Use a checkpoint": (report, ask, generate, chat, demo),
    "Evaluate": (evaluate, compare, reader_study, score_reader_study, rexrank),
    "Images as codes": (encode, reconstruct),
    "Checkpoints and data": (get, info, convert, export, convert_vq_gan, export_vq_gan, convert_codes),
}

app = typer.Typer(
    help="Chest X-rays and language models: reports, answers and drawings by LLM-CXR. For research only.",
    epilog="Exit codes: 0 fine; 1 a mistake, or some inputs failed; 2 wrong usage; 130 Ctrl-C.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    # A bug shows Python's own stack trace.
    pretty_exceptions_enable=False,
)
for panel, commands in PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)


def main() -> None:
    # The progress bars and notices of the libraries would stand between the user and the result.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for library in ("TRANSFORMERS", "DATASETS", "HF_HUB"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    app()


if __name__ == "__main__":
    main()
