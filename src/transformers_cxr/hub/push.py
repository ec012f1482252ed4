"""Upload of checkpoints to the Hugging Face Hub."""

from __future__ import annotations

import os

from huggingface_hub import HfApi

from .cards import check_model_card


def push_checkpoint(folder: str | os.PathLike, repo: str) -> str:
    """
    Upload the files directly in a folder to the Hub, after a check of its model card.

    Args:
        folder (`str` or `os.PathLike`):
            Folder of a checkpoint. Its subfolders (training states, samples) stay here.
        repo (`str`):
            Repository on the Hub, "user/name", which is created if needed.

    Returns:
        `str`: address of the commit.

    Raises:
        FileNotFoundError: the folder has no model card.
        ValueError: the model card lacks something. The error names all that is missing.
        OSError: the Hub refused the upload.
    """
    check_model_card(folder)
    api = HfApi()
    api.create_repo(repo, exist_ok=True)
    return str(api.upload_folder(folder_path=folder, repo_id=repo, ignore_patterns=["*/*"]).commit_url)


__all__ = ["push_checkpoint"]
