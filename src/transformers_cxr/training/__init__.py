"""Training of the VQ-GAN and of the language model."""

from .._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        ".arguments": ("parse_arguments", "run_script"),
        ".augmentation": ("augment",),
        ".callbacks": ("SampleCallback",),
        ".collator": ("InstructionCollator",),
        ".dataset": ("InstructionDataset", "encode_conversation"),
        ".lora": ("add_lora", "new_token_ids", "train_new_embeddings_only"),
        ".resuming": ("resume_checkpoint",),
        ".trainer": ("InstructionTrainer",),
    },
)
