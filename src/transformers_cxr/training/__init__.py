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
        ".finetuning": ("DataArguments", "build_trainer", "load_data", "train_and_save"),
        ".lora": ("add_lora", "lora_config", "new_token_ids", "train_new_embeddings_only"),
        ".preferences": (
            "PolicyArguments",
            "check_lengths",
            "load_policy",
            "preference_dataset",
            "prompt_dataset",
            "write_images_as_text",
        ),
        ".resuming": ("ResumedTrainerMixin", "resume_checkpoint"),
        ".rewards": ("checked_reward", "finding_probability", "label_f1", "report_format", "whole_image"),
        ".saving": ("SavingArguments", "add_card_and_code", "save_trained_model"),
        ".trainer": ("InstructionTrainer",),
    },
)
