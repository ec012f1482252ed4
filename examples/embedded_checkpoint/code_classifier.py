"""Convolutional classifier of the codes of chest X-rays, with its augmentation and data."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from transformers_cxr import CXRVQTokenizer
from transformers_cxr.data import StudyRecord, check_tokenizer, load_records, select_records
from transformers_cxr.training.classification import PNEUMONIA_CLASSES

# The first three of six convolutions see 7x7 codes.
REACH = 3


class CodeClassifierConfig(PreTrainedConfig):
    model_type = "code_classifier"
    codebook_size: int = 1024
    grid_size: int = 16
    num_directions: int = 3
    hidden_size: int = 64
    num_labels: int = len(PNEUMONIA_CLASSES)


class CodeClassifier(PreTrainedModel):
    """Residual network on the grid of codes, whose embeddings contain the main directions of the codebook."""

    config_class = CodeClassifierConfig
    main_input_name = "image_codes"

    def __init__(self, config: CodeClassifierConfig):
        super().__init__(config)
        width = config.hidden_size
        self.register_buffer("directions", torch.zeros(config.codebook_size, config.num_directions))
        self.projection = nn.Linear(config.num_directions, width)
        self.code_embedding = nn.Embedding(config.codebook_size, width)
        self.positions = nn.Parameter(torch.zeros(1, width, config.grid_size, config.grid_size))
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for _ in range(2 * REACH))
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2 * REACH))
        self.classifier = nn.Linear(2 * width, config.num_labels)
        self.post_init()

    def _init_weights(self, module):
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.1)

    @classmethod
    def from_codebook(cls, vq_tokenizer: CXRVQTokenizer) -> "CodeClassifier":
        """Return an untrained classifier of the codes of a tokenizer."""
        config = vq_tokenizer.config
        model = cls(CodeClassifierConfig(codebook_size=config.codebook_size, grid_size=config.grid_size))
        directions = codebook_directions(vq_tokenizer, model.config.num_directions)
        model.directions.copy_(directions / directions.std())
        return model

    def features(self, image_codes: torch.LongTensor) -> tuple[torch.FloatTensor, torch.FloatTensor]:
        """
        Return local features, each of 7x7 codes, of shape `(batch_size, hidden_size, grid_size, grid_size)`, and
        features of the images, of shape `(batch_size, 2 * hidden_size)`, for codes of shape `(batch_size, grid_size **
        2)`.
        """
        size = self.config.grid_size
        hidden = self.projection(self.directions[image_codes]) + self.code_embedding(image_codes)
        hidden = F.dropout(hidden.mT.unflatten(2, (size, size)) + self.positions, 0.1, self.training)
        for index, (norm, convolution) in enumerate(zip(self.norms, self.convolutions, strict=True)):
            if index == REACH:
                local, hidden = hidden, F.avg_pool2d(hidden, 2)
            hidden = hidden + convolution(F.silu(norm(hidden)))
        return local, torch.cat([hidden.mean((2, 3)), hidden.amax((2, 3))], dim=1)

    def forward(self, image_codes: torch.LongTensor) -> ImageClassifierOutput:
        _, features = self.features(image_codes)
        return ImageClassifierOutput(logits=self.classifier(F.dropout(features, 0.2, self.training)))


def codebook_directions(vq_tokenizer: CXRVQTokenizer, number: int = 3) -> torch.FloatTensor:
    """Return the projections of the codes on the main directions of the codebook, `(codebook_size, number)`."""
    codebook = vq_tokenizer.codebook.detach().float()
    left, values, _ = torch.linalg.svd(codebook - codebook.mean(0), full_matrices=False)
    return left[:, :number] * values[:number]


class CodeAugmentation:
    """
    Shift the grid of codes by up to two cells, repeating its border, and replace up to 30 % of the codes by one of
    their eight nearest neighbors in the codebook.
    """

    def __init__(self, vq_tokenizer: CXRVQTokenizer):
        directions = codebook_directions(vq_tokenizer)
        self.neighbors = torch.cdist(directions, directions).topk(9, largest=False).indices[:, 1:].numpy()

    def __call__(self, codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        size = round(len(codes) ** 0.5)
        rows, columns = (np.clip(np.arange(size) + rng.integers(-2, 3), 0, size - 1) for _ in range(2))
        codes = codes.reshape(size, size)[np.ix_(rows, columns)].reshape(-1)
        neighbors = self.neighbors[codes, rng.integers(0, 8, len(codes))]
        return np.where(rng.random(len(codes)) < 0.3 * rng.random(), neighbors, codes)


def load_coded_records(path: str, split: str, vq_tokenizer: CXRVQTokenizer) -> list[StudyRecord]:
    """Return the records of a split, with the codes of their images, after checking the tokenizer of the codes."""
    rows = load_records(path)
    check_tokenizer(rows, vq_tokenizer)
    return [StudyRecord.from_row(row) for row in select_records(rows, splits=[split])]
