"""Checkpoints that can be published: the code of the model, model cards, upload."""

from .._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        ".cards": ("Training", "check_model_card", "model_card"),
        ".push": ("push_checkpoint",),
        ".remote_code": ("add_remote_code", "save_with_remote_code"),
    },
)
