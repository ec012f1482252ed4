"""Trainer with per-task losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from transformers import Trainer

from ..data.mixture import TASKS
from .resuming import ResumedTrainerMixin


class InstructionTrainer(ResumedTrainerMixin, Trainer):
    """
    Transformers' `Trainer` that also logs the loss of each task.

    `loss_report`, `loss_image`, `loss_vqa` and `loss_text` cover the steps since the last log, `eval_loss_report` ...
    an evaluation. Each is the mean over the response tokens of the task on all processes. An evaluation counts each
    conversation once, and `eval_loss` is the mean over all response tokens. `skipped_conversations` is the number of
    conversations that were too long since the run was started or resumed.

    With packing, training computes the logits of the responses alone, and the attention "sdpa" becomes "packed_sdpa",
    which computes each conversation by itself.

    The arguments are those of `Trainer` and one more. The collator is an [`InstructionCollator`] with
    `return_tasks=True`.

    Args:
        average_conversations (`bool`, *optional*, defaults to `False`):
            Train on the mean loss of each conversation (sample averaging, arXiv 2412.05271), not of each response
            token: an image of 256 codes then weighs as much as an answer of one word.

    Raises:
        ValueError: `average_conversations` is set together with another loss.
    """

    def __init__(self, *args, average_conversations: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        if average_conversations and (self.label_smoother is not None or self.compute_loss_func is not None):
            raise ValueError(
                "`average_conversations` has its own loss: set `label_smoothing_factor` to 0, got "
                f"{self.args.label_smoothing_factor}, and leave out `compute_loss_func`."
            )
        self.average_conversations = average_conversations
        if self.data_collator.packing and self.model.config.text_config._attn_implementation == "sdpa":
            self.model.set_attn_implementation({"text_config": "packed_sdpa"})
        # Columns: summed loss, response tokens and skipped conversations of each task.
        self._train_totals = torch.zeros(len(TASKS), 3, dtype=torch.double, device=self.args.device)
        self._num_skipped = 0

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        tasks, examples, skipped = (inputs.pop(name) for name in ("tasks", "examples", "skipped"))
        if "pixel_values" in inputs:
            # The per-task losses need the labels with codes, too.
            unwrapped = self.accelerator.unwrap_model(model)
            inputs["input_ids"], _, inputs["labels"], _ = unwrapped.replace_image_placeholders(
                inputs.pop("pixel_values"), inputs["input_ids"], labels=inputs["labels"]
            )
        targets = F.pad(inputs["labels"][:, 1:], (0, 1), value=-100)
        # Label smoothing and a custom loss need the logits of all tokens.
        default_loss = self.label_smoother is None and self.compute_loss_func is None
        if self.data_collator.packing and model.training and default_loss:
            kept = (targets[0] != -100).nonzero().flatten()
            targets, examples = targets[:, kept], examples[:, kept]
            del inputs["labels"]
            inputs |= {"shift_labels": targets, "logits_to_keep": kept}
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        with torch.set_grad_enabled(self.average_conversations and model.training):
            sums, counts = example_losses(outputs["logits"], targets, examples, len(tasks))
        if sums.requires_grad:
            loss = (sums / counts).mean() / self.current_gradient_accumulation_steps
        self._batch_tasks, self._batch_totals = tasks, torch.stack((sums.detach(), counts, skipped.double()), dim=1)
        if model.training:
            self._train_totals.index_add_(0, tasks, self._batch_totals)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            totals = self.accelerator.reduce(self._train_totals, "sum")
            self._train_totals.zero_()
            logs.update(_task_losses(totals, "loss"))
            self._num_skipped += int(totals[:, 2].sum())
            if self._num_skipped:
                logs["skipped_conversations"] = self._num_skipped
        super().log(logs, start_time)

    def prediction_step(self, *args, **kwargs):
        outputs = super().prediction_step(*args, **kwargs)
        # Drops the conversations that fill the last batch of a process.
        tasks, totals = self.accelerator.gather_for_metrics((self._batch_tasks, self._batch_totals))
        self._eval_totals.index_add_(0, tasks, totals)
        return outputs

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs):
        self._eval_totals = torch.zeros_like(self._train_totals)
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        name = f"{metric_key_prefix}_loss"
        output.metrics[name] = (self._eval_totals[:, 0].sum() / self._eval_totals[:, 1].sum()).item()
        output.metrics.update(_task_losses(self._eval_totals, name))
        return output


def example_losses(
    logits: torch.FloatTensor, targets: torch.LongTensor, examples: torch.LongTensor, num_examples: int
) -> tuple[torch.DoubleTensor, torch.DoubleTensor]:
    """
    Return the summed cross-entropy and the number of response tokens of each example of a batch.

    Args:
        logits (`torch.FloatTensor` of shape `(num_rows, row_length, vocab_size)`): output of the model.
        targets (`torch.LongTensor` of shape `(num_rows, row_length)`): next tokens, -100 outside of responses.
        examples (`torch.LongTensor` of shape `(num_rows, row_length)`): example of each token.
        num_examples (`int`): number of examples.

    Returns:
        Two `torch.DoubleTensor` of shape `(num_examples,)`: losses in nats, and numbers of tokens.
    """
    is_response = targets != -100
    losses = F.cross_entropy(logits[is_response].float(), targets[is_response], reduction="none").double()
    examples = examples[is_response]
    sums = torch.zeros(num_examples, dtype=torch.double, device=logits.device).index_add_(0, examples, losses)
    return sums, torch.bincount(examples, minlength=num_examples).double()


def _task_losses(totals: torch.Tensor, name: str) -> dict[str, float]:
    return {f"{name}_{task}": loss / tokens for task, (loss, tokens, _) in zip(TASKS, totals.tolist()) if tokens}
