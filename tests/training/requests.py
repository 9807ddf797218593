"""Requests of a few words, and what a model says after them."""

import torch

from mogu.data.requests import Request
from tests.tiny import IM_END

TEXTS = ["Hi", "Write a poem about the sea.", "How do I bake bread?", "Sing", "Explain how tides come about."]
SILENT = lambda done, total: None  # noqa: E731


def requests(label="benign", texts=TEXTS):
    return [
        Request(f"{label}.jsonl:{n}", text, [{"role": "user", "content": text}], label, category="fraud")
        for n, text in enumerate(texts, start=1)
    ]


def greedy(model, ids, tokens):
    written = []
    for _ in range(tokens):
        logits = model(input_ids=torch.tensor([ids + written]), use_cache=False).logits
        written.append(int(logits[0, -1].argmax()))
        if written[-1] == IM_END:
            break
    return written
