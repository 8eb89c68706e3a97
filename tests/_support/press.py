"""kvpress' on-the-fly head scores beside ours, on the same texts."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from kvpress.presses import duo_attention_press

from headprobe.measures import TEXT_MEASURES
from headprobe.models.loading import LoadedModel


def on_the_fly(
    loaded: LoadedModel, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of every KV head, theirs and ours: their data set holds these texts."""
    chapters = pd.DataFrame({"chapter": texts})
    data = SimpleNamespace(to_pandas=lambda: chapters)
    tokenizers = SimpleNamespace(from_pretrained=lambda _: loaded.tokenizer)
    monkeypatch.setattr(duo_attention_press, "load_dataset", lambda *_, **__: data)
    monkeypatch.setattr(duo_attention_press, "AutoTokenizer", tokenizers)
    theirs = duo_attention_press.duo_attention_on_the_fly(loaded.model, num_samples=len(texts))
    found = []
    for text in texts:
        ids = loaded.tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            found.append(TEXT_MEASURES["onthefly"].read(loaded, ids, 2048).numpy())
    layout = loaded.layout
    mean = np.mean(found, axis=0).reshape(layout.layers, layout.num_kv_heads, layout.group_size)
    return theirs, mean.mean(axis=-1)
