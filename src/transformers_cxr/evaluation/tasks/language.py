"""The task "language": perplexity of texts."""

from __future__ import annotations

import re
from pathlib import Path

from ...conversion import load_language_model
from ..examples import Example
from ..metrics import Perplexity
from .task import Task


class LanguageTask(Task):
    """Perplexity of texts, before and after fine-tuning."""

    name = "language"
    hub_task = "text-generation"
    title = "Language"
    main_metrics = ("perplexity", "perplexity_ratio")
    scores = Perplexity.SCORES
    generate = None

    def examples(self, records):
        if not self.arguments.texts:
            return []
        path = Path(self.arguments.texts)
        texts = [text.strip() for text in re.split(r"\n\s*\n", path.read_text(encoding="utf-8")) if text.strip()]
        return self.sample([Example(str(i), str(i), "", path, text) for i, text in enumerate(texts)])

    def metrics(self, examples, outputs, model=None, processor=None):
        base_model = base_tokenizer = None
        if name := self.arguments.base_model:
            base_model, base_tokenizer = load_language_model(name)
            base_model.to(model.device)
        configs = [m.config.get_text_config() for m in (model, base_model) if m is not None]
        max_length = min(1024, *(getattr(config, "max_position_embeddings", 1024) for config in configs))
        metric = Perplexity(
            model, processor.tokenizer, base_model, base_tokenizer, max_length=max_length, stride=max_length // 2
        )
        return [metric.measure([example.prompt for example in examples])]
