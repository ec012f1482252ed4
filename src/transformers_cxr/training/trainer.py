"""The Trainer that tells the losses of the tasks apart."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from transformers import Trainer

from .dataset import TASKS


class InstructionTrainer(Trainer):
    """
    Transformers' `Trainer`, which also logs the loss of each task: `loss_report`, `loss_image`, `loss_vqa` and `loss_text`
    of the steps since the last log, and `eval_loss_report` ... of an evaluation. Each is the mean over all response tokens
    of the task, on all processes; an evaluation counts each conversation once, and its `eval_loss` is the mean over all
    response tokens. `skipped_conversations` counts those that were too long, so far in this run.

    It takes the arguments of `Trainer`. The collator is an [`InstructionCollator`] with `return_tasks=True`.

    Raises:
        ValueError: packing in several rows with flash attention, which finds packed conversations in a single row only.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        attention = self.model.config.text_config._attn_implementation
        if self.data_collator.packing == "rows" and "flash" in attention:
            raise ValueError(
                f"The attention '{attention}' tells packed conversations apart in one row only: take the packing 'one_row'."
            )
        if self.label_smoother is not None:
            # The Trainer shifts the labels for the classes of Transformers alone.
            self.label_smoother = partial(self.label_smoother, shift_labels=True)
        # Loss, response tokens and skipped conversations of each task.
        self._train_totals = torch.zeros(len(TASKS), 3, dtype=torch.double, device=self.args.device)
        self._skipped = 0

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        tasks, examples, skipped = (inputs.pop(name) for name in ("tasks", "examples", "skipped"))
        if "pixel_values" in inputs:
            # The labels are needed here as well, so the codes are put in before the model would do it.
            base = self.accelerator.unwrap_model(model)
            inputs["input_ids"], inputs["labels"] = base.replace_image_placeholders(
                inputs["input_ids"], inputs.pop("pixel_values"), inputs["labels"]
            )
        # With label smoothing or a loss of the caller's, the Trainer takes them out.
        labels = inputs["labels"]
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        self._of_examples = torch.stack(
            (*losses_of_examples(outputs["logits"], labels, examples, len(tasks)), skipped.double()), dim=1
        )
        self._tasks_of_examples = tasks
        if model.training:
            self._train_totals.index_add_(0, tasks, self._of_examples)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            totals = self.accelerator.reduce(self._train_totals, "sum")
            self._train_totals.zero_()
            logs.update(_losses_of_tasks(totals, "loss"))
            self._skipped += int(totals[:, 2].sum())
            if self._skipped:
                logs["skipped_conversations"] = self._skipped
        super().log(logs, start_time)

    def _run_epoch(self, **kwargs):
        # Transformers takes one more step with a finished run whose last epoch is not whole.
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(**kwargs)

    def prediction_step(self, *args, **kwargs):
        outputs = super().prediction_step(*args, **kwargs)
        # Without the conversations that fill up the last batch of a process.
        gathered = self.accelerator.gather_for_metrics((self._of_examples, self._tasks_of_examples))
        self._eval_totals.index_add_(0, gathered[1], gathered[0])
        return outputs

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs):
        self._eval_totals = torch.zeros_like(self._train_totals)
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        name = f"{metric_key_prefix}_loss"
        output.metrics[name] = (self._eval_totals[:, 0].sum() / self._eval_totals[:, 1].sum()).item()
        output.metrics.update(_losses_of_tasks(self._eval_totals, name))
        return output


@torch.no_grad()
def losses_of_examples(
    logits: torch.FloatTensor, labels: torch.LongTensor, examples: torch.LongTensor, num_examples: int
) -> tuple[torch.DoubleTensor, torch.DoubleTensor]:
    """
    The summed cross-entropy and the number of response tokens of each example of a batch.

    Args:
        logits (`torch.FloatTensor` of shape `(num_rows, row_length, vocab_size)`):
            Output of the model.
        labels (`torch.LongTensor` of shape `(num_rows, row_length)`):
            -100 outside of responses.
        examples (`torch.LongTensor` of shape `(num_rows, row_length)`):
            Whose token each one is.
        num_examples (`int`):
            Number of examples.

    Returns:
        Two `torch.DoubleTensor` of shape `(num_examples,)`: nats and tokens.
    """
    targets = F.pad(labels[:, 1:], (0, 1), value=-100)
    predicting = targets != -100
    losses = F.cross_entropy(logits[predicting].float(), targets[predicting], reduction="none").double()
    owners = examples[predicting]
    sums = torch.zeros(num_examples, dtype=torch.double, device=logits.device).index_add_(0, owners, losses)
    return sums, torch.bincount(owners, minlength=num_examples).double()


def _losses_of_tasks(totals: torch.Tensor, name: str) -> dict[str, float]:
    return {f"{name}_{task}": loss / tokens for task, (loss, tokens, _) in zip(TASKS, totals.tolist()) if tokens}
