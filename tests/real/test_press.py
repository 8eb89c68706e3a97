"""kvpress itself on a pretrained chat model, in its own environment: `make test-real`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kvpress import SnapKVPress
from torch import Tensor
from transformers import DynamicCache

from headprobe.allocators import BudgetSize, allocate
from headprobe.budgets import HeadBudgets
from headprobe.formats.kvpress import HeadBudgetPress
from headprobe.models.bundled import bundled
from headprobe.models.loading import LoadedModel
from tests._support.press import on_the_fly

pytestmark = pytest.mark.real

TOKENS = 200


@pytest.fixture(scope="module")
def text(smollm2: LoadedModel) -> Tensor:
    turns = [{"role": "user", "content": "The binder of books lives by the river. " * TOKENS}]
    ids = smollm2.tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)
    return ids["input_ids"][:, :TOKENS]


def test_onthefly_is_duo_attention_on_the_fly(
    smollm2: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [path.read_text() for path in sorted(bundled("haystack", "english").glob("*.txt"))[:3]]
    theirs, ours = on_the_fly(smollm2, texts, monkeypatch)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("mean", [20, 60])
def test_our_press_keeps_what_the_budget_grants(
    smollm2: LoadedModel, text: Tensor, mean: int
) -> None:
    scores = np.random.default_rng(0).random((30, 9), dtype=np.float32) ** 8
    budget: HeadBudgets = allocate(scores, smollm2.layout, budget=BudgetSize(tokens=mean))
    granted = budget.kept(TOKENS)
    assert granted.shape == (30, 3)
    assert len(np.unique(granted)) > 10
    with HeadBudgetPress(SnapKVPress(window_size=8), budget)(smollm2.model):
        smollm2.model(text, past_key_values=DynamicCache(), logits_to_keep=1)
    dropped = np.zeros((30, 3, TOKENS), dtype=int)
    for layer, block in enumerate(smollm2.model.model.layers):
        if block.self_attn.masked_key_indices is not None:
            _, heads, entries = (part.numpy() for part in block.self_attn.masked_key_indices)
            np.add.at(dropped[layer], (heads, entries), 1)
    assert dropped.max() == 1
    np.testing.assert_array_equal(TOKENS - dropped.sum(axis=-1), granted)
    assert not dropped[..., -8:].any()
