"""Losses of a language model that learns to read codes from a classifier of codes."""

import torch
from code_classifier import REACH, CodeClassifier
from torch.nn import functional as F

from transformers_cxr.training.classification import PNEUMONIA_CLASSES


class Student(torch.nn.Module):
    """
    Linear layers on the hidden states of the codes. At a third of the depth they predict the local features of the
    teacher; at two thirds, on the codes of the lower half, its global features and the finding. Attention is causal,
    so a code predicts the features of the 7x7 codes that end with it.
    """

    def __init__(self, config, teacher: CodeClassifier | None):
        super().__init__()
        self.local_layer, self.layer = config.num_hidden_layers // 3, 2 * config.num_hidden_layers // 3
        self.finding = torch.nn.Linear(config.hidden_size, len(PNEUMONIA_CLASSES))
        if teacher:
            width = teacher.config.hidden_size
            self.local_features = torch.nn.Linear(config.hidden_size, width)
            self.features = torch.nn.Linear(config.hidden_size, 2 * width)

    def forward(
        self,
        hidden_states: tuple[torch.FloatTensor],
        image_codes: torch.LongTensor,
        finding: torch.LongTensor,
        teacher: CodeClassifier | None,
    ) -> tuple[torch.FloatTensor, torch.FloatTensor]:
        """
        Return the loss of the finding and that of the features, for hidden states of the codes of shape `(batch_size,
        num_image_tokens, hidden_size)`, codes of shape `(batch_size, num_image_tokens)` and findings of shape
        `(batch_size,)`.
        """
        local, upper = (
            F.rms_norm(hidden_states[i], hidden_states[i].shape[-1:]) for i in (self.local_layer, self.layer)
        )
        lower_half = upper[:, image_codes.shape[1] // 2 :]
        logits = self.finding(lower_half).flatten(0, 1)
        targets = F.one_hot(finding, len(PNEUMONIA_CLASSES)).float()
        feature_loss = logits.new_zeros(())
        if teacher:
            with torch.no_grad():
                local_features, features = teacher.features(image_codes)
                targets = (targets + teacher.classifier(features).softmax(-1)) / 2
            size = teacher.config.grid_size
            local = self.local_features(local).unflatten(1, (size, size))[:, 2 * REACH :, 2 * REACH :]
            local_features = local_features.movedim(1, -1)[:, REACH:-REACH, REACH:-REACH]
            feature_loss = F.mse_loss(local, F.layer_norm(local_features, local_features.shape[-1:]))
            features = F.layer_norm(features, features.shape[-1:])[:, None].expand(-1, lower_half.shape[1], -1)
            feature_loss = feature_loss + F.mse_loss(self.features(lower_half), features)
        targets = targets.repeat_interleave(lower_half.shape[1], dim=0)
        return F.cross_entropy(logits, targets), feature_loss


def response_loss(logits: torch.FloatTensor, labels: torch.LongTensor) -> torch.FloatTensor:
    """Return the mean cross-entropy in which every response, a run of labels, has the same weight."""
    logits, targets = logits[:, :-1], labels[:, 1:]
    is_label = targets >= 0
    is_start = is_label & (F.pad(targets[:, :-1], (1, 0), value=-100) < 0)
    responses = is_start.flatten().cumsum(0)[is_label.flatten()] - 1
    losses = F.cross_entropy(logits[is_label], targets[is_label], reduction="none")
    return (losses / responses.bincount()[responses]).sum() / is_start.sum()
