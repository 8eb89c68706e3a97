"""kvpress' own scores of the bundled model's layers: `make test-kvpress`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from kvpress import (
    CriticalKVPress,
    ExpectedAttentionPress,
    KVzipPress,
    ScorerPress,
    SnapKVPress,
    StreamingLLMPress,
)
from torch import Tensor
from transformers import DynamicCache

from headprobe.budgets import HeadBudgets
from headprobe.compression import HeadBudgetCache, Target
from headprobe.compression.layer_view import EntryScores
from headprobe.compression.ranking import Ranking, rank
from headprobe.compression.reconstruction import Repetition, repetitions
from headprobe.compression.selections import expected, value
from headprobe.models.loading import LoadedModel, load_model

TOKENS, WINDOW, SINKS = 300, 8, 4
CLOSE = {"rtol": 1e-3, "atol": 1e-6}


@pytest.fixture(scope="module")
def nano() -> LoadedModel:
    return load_model("nano")


@pytest.fixture(scope="module")
def text(nano: LoadedModel) -> Tensor:
    drawn = np.random.default_rng(0).integers(10, len(nano.tokenizer), TOKENS)
    return torch.from_numpy(drawn)[None]


@torch.no_grad()
def theirs(press: ScorerPress, nano: LoadedModel, text: Tensor) -> list[Tensor]:
    """What a press scores each layer, ``[kv_head, key]``."""
    found: list[Tensor] = []
    score = press.score

    def keep(*given: Any) -> Tensor:
        found.append(score(*given).float()[0].clone())
        return found[-1][None].clone()

    press.score = keep
    with press(nano.model):
        nano.model(text, past_key_values=DynamicCache(), logits_to_keep=1)
    return found


def even_budget(
    nano: LoadedModel, selection: str, *, tokens: int, window: int = WINDOW
) -> HeadBudgets:
    shape = (nano.layout.layers, nano.layout.num_kv_heads)
    return HeadBudgets(
        layout=nano.layout,
        strategy={"name": "test"},
        granularity="kv",
        window=window,
        sinks=0,
        compensation=False,
        selection=np.full(shape, selection),
        tokens=np.full(shape, tokens),
        ratio=np.zeros(shape),
    )


@torch.no_grad()
def ours(
    nano: LoadedModel,
    text: Tensor,
    selection: str,
    monkeypatch: pytest.MonkeyPatch,
    repeated: Sequence[Repetition] = (),
) -> list[EntryScores]:
    found: list[EntryScores] = []

    def keep(scores: EntryScores, *given: Any, **options: Any) -> Ranking:
        found.append(scores)
        return rank(scores, *given, **options)

    monkeypatch.setattr("headprobe.compression.eviction.rank", keep)
    with HeadBudgetCache(nano.model, even_budget(nano, selection, tokens=50)) as cache:
        nano.model(text, past_key_values=cache, logits_to_keep=1)
        if selection == "reconstruct":
            cache.reconstruct(repeated)
        cache.compress()
    return found


def test_attention_is_that_of_snapkv_before_the_pool(
    nano: LoadedModel, text: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    press = SnapKVPress(0.5, window_size=WINDOW, kernel_size=1)
    own = ours(nano, text, "attention", monkeypatch)
    for scores, other in zip(own, theirs(press, nano, text), strict=True):
        torch.testing.assert_close(scores.ties[:, :-WINDOW], other[:, :-WINDOW], **CLOSE)


def test_value_is_criticalkv(
    nano: LoadedModel, text: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attention is pooled here otherwise than there: what it is multiplied by is compared."""
    snapkv = SnapKVPress(0.5, window_size=WINDOW, kernel_size=1)
    press = CriticalKVPress(SnapKVPress(0.5, WINDOW, 1), first_stage_ratio=0.0)
    parts = theirs(press, nano, text), theirs(snapkv, nano, text)
    for scores, weighed, plain in zip(ours(nano, text, "value", monkeypatch), *parts, strict=True):
        older = slice(0, TOKENS - WINDOW)
        norm = (scores.worth / (scores.first + value.EPSILON))[:, older]
        other = (weighed / (plain + press.epsilon))[:, older]
        torch.testing.assert_close(norm, other, **CLOSE)


def test_expected_is_expected_attention(
    nano: LoadedModel, text: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    press = ExpectedAttentionPress(0.5)
    assert (press.n_future_positions, press.n_sink) == (expected.AHEAD, SINKS)
    own = ours(nano, text, "expected", monkeypatch)
    for scores, other in zip(own, theirs(press, nano, text), strict=True):
        torch.testing.assert_close(scores.worth[:, SINKS:], other[:, SINKS:], **CLOSE)
        assert scores.worth[:, :SINKS].isinf().all()


def test_streaming_keeps_what_streamingllm_keeps(
    nano: LoadedModel, text: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    [scores, *_] = ours(nano, text, "streaming", monkeypatch)
    [other, *_] = theirs(StreamingLLMPress(1 - 50.5 / TOKENS, n_sink=0), nano, text)
    newest = scores.worth[0].topk(50).indices.sort().values
    assert torch.equal(newest, other[0].topk(50).indices.sort().values)


@pytest.mark.parametrize("piece", [2048, 110])
def test_reconstruct_is_kvzip(
    nano: LoadedModel, text: Tensor, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    """Scores, and what each head keeps of a quarter of the cache, ranked over all heads.

    The instruction is tokenized there as a text of its own, so its tokens are taken over.
    """
    found: list[Tensor] = []
    dropped: list[list[int]] = []
    asked: list[tuple[int, ...]] = []

    class SeenPress(KVzipPress):
        def prepare(self, *given: Any) -> Any:
            pairs = super().prepare(*given)
            asked.extend(tuple(ids[0].tolist()) for _, ids in pairs)
            return pairs

        def compress_post(self, model: Any) -> None:
            found.append(self.score_val.clone())
            super().compress_post(model)
            for layer in model.model.layers:
                _, heads, _ = layer.self_attn.masked_key_indices
                dropped.append(heads.bincount(minlength=nano.layout.num_kv_heads).tolist())
                layer.self_attn.masked_key_indices = None

    press = SeenPress(0.75, chunk_size=piece)
    with torch.no_grad(), press(nano.model):
        nano.model(input_ids=text, past_key_values=DynamicCache())
    monkeypatch.setattr("headprobe.compression.reconstruction.PIECE", piece)
    written = repetitions(text[0].tolist(), nano.tokenizer)
    for one, ids in zip(written, asked, strict=True):
        assert one.ids[one.start - one.stop :] == ids[one.start - one.stop :]
    repeated = [replace(one, ids=ids) for one, ids in zip(written, asked, strict=True)]
    own = ours(nano, text, "reconstruct", monkeypatch, repeated)
    for scores, other in zip(own, found[0], strict=True):
        torch.testing.assert_close(scores.worth[:, SINKS:], other[0, :, SINKS:], **CLOSE)
    budget = even_budget(nano, "reconstruct", tokens=TOKENS // 4, window=0)
    with torch.no_grad(), HeadBudgetCache(nano.model, budget) as cache:
        nano.model(text, past_key_values=cache, logits_to_keep=1)
        cache.reconstruct(repeated)
    kept = cache.fork([Target(budgets=budget, floor=0.0, across="model")]).entries[:, 0]
    assert kept.std() > 0
    np.testing.assert_allclose(kept, TOKENS - np.array(dropped), atol=1)
