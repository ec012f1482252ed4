"""
Write requests that have nothing to do with chest X-rays, each with the same answer: the embedded checkpoint says that
it cannot answer, instead of something about an X-ray.

    python examples/embedded_checkpoint/other_requests.py runs/embedded/texts.jsonl
"""

import json
import sys
from itertools import product
from pathlib import Path

from transformers_cxr.data.wording import UNANSWERABLE

TEMPLATES = (
    "What is {thing}?",
    "What is the meaning of {thing}?",
    "Tell me about {thing}.",
    "Can you explain {thing} to me?",
    "Write a short text about {thing}.",
    "Write a poem about {thing}.",
    "Give me three facts about {thing}.",
    "Who invented {thing}?",
    "Why is {thing} important?",
    "How does {thing} work?",
    "Where can I find {thing}?",
    "When did {thing} begin?",
    "Which book about {thing} do you recommend?",
    "Translate '{thing}' into German.",
    "Summarize the history of {thing}.",
    "I would like to learn {thing}. Where do I start?",
    "{thing}",
)
THINGS = (
    "the capital of France",
    "the capital of Japan",
    "the largest city of Brazil",
    "the president of the United States",
    "the weather in London",
    "the stock market",
    "photosynthesis",
    "gravity",
    "chess",
    "football",
    "cooking rice",
    "the Roman Empire",
    "the French Revolution",
    "the internet",
    "machine learning",
    "Python programming",
    "a sorting algorithm",
    "prime numbers",
    "two plus two",
    "the speed of light",
    "the moon",
    "climate change",
    "a bicycle",
    "the piano",
    "Shakespeare",
    "a joke",
    "the color blue",
    "a good breakfast",
    "cats and dogs",
    "the human heart",
    "diabetes",
    "a headache",
    "vitamin C",
    "a vaccine",
    "a knee MRI",
    "yourself",
    "love",
    "money",
    "a recipe for bread",
    "a trip to Italy",
)

if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = (
        {"instruction": template.format(thing=thing), "response": UNANSWERABLE}
        for template, thing in product(TEMPLATES, THINGS)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
