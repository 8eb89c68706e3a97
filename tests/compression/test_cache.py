from __future__ import annotations

import itertools
from collections import deque
from typing import Any

import numpy as np
import pytest
import torch
from packaging.version import Version
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    DynamicCache,
    PreTrainedModel,
    __version__,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import flash_attention_mask

from headprobe.attention.observe import observe
from headprobe.attention.rows import AttentionRows
from headprobe.budgets import HeadBudgets
from headprobe.compression import HeadBudgetCache, Target
from headprobe.compression.layer_view import EntryScores
from headprobe.compression.ranking import Ranking, rank
from headprobe.errors import HeadprobeError
from headprobe.models.config import head_layout
from headprobe.models.layout import HeadLayout
from tests._support.architectures import ARCHITECTURES, WHOLE, build
from tests._support.dense_cache import DenseCache

PROMPT, STEPS, TURN = 20, 4, 5
CLOSE = {"rtol": 0, "atol": 2e-5}
# Softly capped, sliding, chunked, with sinks, with convolutions, with one KV head, with as many as
# query heads.
TEN = [
    "llama",
    "mistral",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "gpt_oss",
    "llama4_text",
    "gpt_neox",
    "gpt_bigcode",
    "lfm2",
]
LATENT = ["deepseek_v3"]
KINDS: dict[str, dict[str, Any]] = {
    "attention": {},
    "max": {"reduce": "max"},
    "sinks": {"sinks": 2},
    "streaming": {"selection": "streaming", "sinks": 2},
    "compensation": {"compensation": True},
    "razor": {"selection": "streaming", "sinks": 2, "compensation": True, "full_heads": True},
    "query-heads": {"granularity": "query"},
    "less-than-the-window": {"window": 12},
    "no-window": {"window": 0},
}


def budgets(
    model: PreTrainedModel,
    *,
    granularity: str = "kv",
    selection: str = "attention",
    reduce: str = "mean",
    ratio: float = 0.0,
    full_heads: bool = False,
    tokens: tuple[int, int] = (4, 12),
    **fields: Any,
) -> HeadBudgets:
    """A budget whose heads get different numbers of tokens."""
    layout = head_layout(model.config, id="tiny")
    shape = (layout.layers, layout.num_kv_heads if granularity == "kv" else layout.num_heads)
    ratios = np.full(shape, ratio)
    if full_heads:
        ratios[:, 0] = 1.0
    return HeadBudgets(
        layout=layout,
        strategy={"name": "test", "reduce": reduce},
        granularity=granularity,
        selection=np.full(shape, selection),
        tokens=np.random.default_rng(0).integers(*tokens, shape),
        ratio=ratios,
        **{"window": 3, "sinks": 0, "compensation": False} | fields,
    )


def ids(tokens: int, *, batch: int = 1, seed: int = 1) -> Tensor:
    return torch.randint(3, 64, (batch, tokens), generator=torch.Generator().manual_seed(seed))


def greedy(model: PreTrainedModel, prompt: Tensor, **options: Any) -> Tensor:
    return model.generate(prompt, do_sample=False, max_new_tokens=6, **options)


def held(cache: HeadBudgetCache) -> int:
    """Bytes of all storages that the cache's layers lead to, each counted once."""
    storages, things = {}, list(cache.layers)
    while things:
        thing = things.pop()
        if isinstance(thing, Tensor):
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(thing, (list, tuple, deque)):
            things += thing
        elif isinstance(thing, dict):
            things += thing.values()
        else:
            things += getattr(thing, "__dict__", {}).values()
    return sum(storages.values())


def shown(dense: DenseCache, layers: int) -> np.ndarray:
    """Entries of every head as ``HeadBudgetCache.entries`` counts them."""
    some = next(iter(dense.shown))
    none = [[[]] * len(heads) for heads in dense.shown[some]]
    compensated = dense.budgets.compensation
    return np.array(
        [
            [
                [len(h) + (compensated and bool(d)) for h, d in zip(heads, gone, strict=True)]
                for heads, gone in zip(
                    dense.shown.get(layer, none), dense.hidden.get(layer, none), strict=True
                )
            ]
            for layer in range(layers)
        ]
    )


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", TEN)
@pytest.mark.slow
def test_ragged_equals_a_dense_cache_with_a_mask_token_by_token(
    architecture: str, kind: str
) -> None:
    """Prefill, compression, decoding, the next turn as a chunk, a second compression, decoding."""
    model = build(architecture)
    budget = budgets(model, **KINDS[kind])
    turn = PROMPT + STEPS
    tokens = ids(turn + TURN + STEPS)
    ends = [*range(PROMPT, turn + 1), *range(turn + TURN, tokens.shape[1] + 1)]
    dense = DenseCache(model, budget)
    with HeadBudgetCache(model, budget) as cache:
        for start, stop in itertools.pairwise([0, *ends]):
            if start == turn:
                cache.compress_at = turn + TURN
            logits = model(tokens[:, start:stop], past_key_values=cache).logits
            torch.testing.assert_close(logits, dense(tokens[:, start:stop]), **CLOSE)
            if stop == PROMPT:
                cache.compress()
                dense.compress()
            elif stop == cache.compress_at:
                dense.compress(since=turn)
            np.testing.assert_array_equal(cache.entries, shown(dense, len(cache.entries)))
    assert cache.get_seq_length() == tokens.shape[1]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["attention", "razor", "query-heads"])
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gemma3_text", "gpt_oss"])
def test_a_padded_batch_equals_a_dense_cache_with_a_mask(architecture: str, kind: str) -> None:
    """Padding before the first prompt, and again before the next turn."""
    model = build(architecture)
    budget = budgets(model, **KINDS[kind])
    tokens = ids(PROMPT + TURN, batch=3)
    real = torch.ones_like(tokens)
    real[0, :11] = real[1, :2] = real[1, PROMPT : PROMPT + 3] = 0
    dense = DenseCache(model, budget)
    with HeadBudgetCache(model, budget, compress_at=PROMPT) as cache:
        for start, stop in [(0, PROMPT), (PROMPT, PROMPT + TURN)]:
            inputs = {"attention_mask": real[:, :stop]}
            logits = model(tokens[:, start:stop], past_key_values=cache, **inputs).logits
            expected = dense(tokens[:, start:stop], **inputs)
            seen = real[:, start:stop].bool()
            torch.testing.assert_close(logits[seen], expected[seen], **CLOSE)
            dense.compress(since=start)
            cache.compress_at = PROMPT + TURN
        np.testing.assert_array_equal(cache.entries, shown(dense, len(cache.entries)))


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3_text"])
def test_each_sequence_of_a_padded_batch_is_cut_as_it_is_alone(architecture: str) -> None:
    model = build(architecture)
    budget = budgets(model, ratio=0.5, tokens=(2, 8))
    tokens = ids(PROMPT, batch=2)
    real = torch.ones_like(tokens)
    real[0, :7] = 0
    with HeadBudgetCache(model, budget, compress_at=PROMPT) as cache:
        together = greedy(model, tokens, attention_mask=real, past_key_values=cache)
    for sequence, start in enumerate([7, 0]):
        alone = tokens[sequence : sequence + 1, start:]
        with HeadBudgetCache(model, budget, compress_at=alone.shape[1]) as own:
            expected = greedy(model, alone, past_key_values=own)
        generated = together[sequence, start : start + expected.shape[1]]
        assert torch.equal(generated, expected[0])
        if own.get_seq_length() == cache.get_seq_length() - start:
            np.testing.assert_array_equal(cache.entries[:, sequence], own.entries[:, 0])


@torch.no_grad()
@pytest.mark.parametrize("granularity", ["kv", "query"])
@pytest.mark.parametrize("architecture", sorted({*ARCHITECTURES} - {*LATENT, *WHOLE}))
@pytest.mark.slow
def test_a_full_budget_equals_the_uncompressed_model(architecture: str, granularity: str) -> None:
    model = build(architecture)
    full = budgets(model, ratio=1.0, granularity=granularity)
    tokens = ids(PROMPT + TURN + 1)
    whole = model(tokens).logits
    with HeadBudgetCache(model, full, compress_at=PROMPT) as cache:
        for start, stop in [(0, PROMPT), (PROMPT, PROMPT + TURN), (PROMPT + TURN, len(tokens[0]))]:
            logits = model(tokens[:, start:stop], past_key_values=cache).logits
            torch.testing.assert_close(logits, whole[:, start:stop], **CLOSE)
    with HeadBudgetCache(model, full, compress_at=tokens.shape[1]) as cache:
        generated = greedy(model, tokens, past_key_values=cache)
    assert torch.equal(generated, greedy(model, tokens))


@torch.no_grad()
@pytest.mark.parametrize("chunks", [[5, 10, 15], [18], [4, 19], list(range(1, PROMPT))])
@pytest.mark.parametrize("kind", ["attention", "less-than-the-window", "razor"])
@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])
def test_prefill_in_chunks_equals_prefill_at_once(
    architecture: str, kind: str, chunks: list[int]
) -> None:
    model = build(architecture)
    budget = budgets(model, **KINDS[kind])
    tokens = ids(PROMPT + STEPS)
    logits = []
    for ends in ([], chunks):
        with HeadBudgetCache(model, budget, compress_at=PROMPT) as cache:
            for start, stop in zip([0, *ends], [*ends, PROMPT], strict=True):
                model(tokens[:, start:stop], past_key_values=cache)
            logits.append(model(tokens[:, PROMPT:], past_key_values=cache).logits)
    torch.testing.assert_close(*logits, **CLOSE)


@torch.no_grad()
def test_generate_prefills_in_chunks(tiny_llama: PreTrainedModel) -> None:
    prompt = ids(PROMPT)
    budget = budgets(tiny_llama)
    with HeadBudgetCache(tiny_llama, budget, compress_at=PROMPT) as cache:
        at_once = greedy(tiny_llama, prompt, past_key_values=cache)
    with HeadBudgetCache(tiny_llama, budget, compress_at=PROMPT) as cache:
        chunked = greedy(tiny_llama, prompt, past_key_values=cache, prefill_chunk_size=8)
    assert torch.equal(at_once, chunked)


@torch.no_grad()
def test_a_context_may_be_cut_before_the_question_is_seen(tiny_llama: PreTrainedModel) -> None:
    prompt, budget = ids(PROMPT + TURN), budgets(tiny_llama)
    dense = DenseCache(tiny_llama, budget)
    dense(prompt[:, :PROMPT])
    dense.compress()
    expected = dense(prompt[:, PROMPT:])[:, -1:].argmax(-1)
    with HeadBudgetCache(tiny_llama, budget, compress_at=PROMPT) as cache:
        tiny_llama(prompt[:, :PROMPT], past_key_values=cache)
        before = cache.entries
        generated = greedy(tiny_llama, prompt, past_key_values=cache)
    assert (before == np.minimum(budget.tokens, PROMPT)[:, None]).all()
    assert torch.equal(generated[:, PROMPT + TURN, None], expected)


@torch.no_grad()
def test_the_next_turn_is_cut_where_it_is_told_to(tiny_llama: PreTrainedModel) -> None:
    budget = budgets(tiny_llama, ratio=0.5)
    cache = HeadBudgetCache(tiny_llama, budget, compress_at=PROMPT)
    with cache:
        first = greedy(tiny_llama, ids(PROMPT), past_key_values=cache)
    turn = torch.cat([first, ids(TURN, seed=2)], dim=1)
    cache.compress_at = turn.shape[1]
    with cache:
        tiny_llama(turn[:, cache.get_seq_length() :], past_key_values=cache)
    assert (cache.entries[:, 0] == budget.kept(turn.shape[1])).all()


@torch.no_grad()
def test_a_window_only_budget_equals_a_sliding_window() -> None:
    sliding, full = build("mistral"), build("mistral", sliding_window=None)
    window = sliding.config.sliding_window
    tokens = ids(PROMPT + STEPS)
    expected = sliding(tokens).logits
    newest = budgets(full, selection="streaming", tokens=(window - 1, window), window=window - 1)
    assert not torch.allclose(full(tokens).logits, expected, atol=1e-2)
    with HeadBudgetCache(full, newest) as cache:
        for at in range(tokens.shape[1]):
            cache.compress_at = at + 1
            logits = full(tokens[:, at : at + 1], past_key_values=cache).logits
            torch.testing.assert_close(logits, expected[:, at : at + 1], **CLOSE)
    assert (cache.entries == window - 1).all()


@torch.no_grad()
@pytest.mark.parametrize("steps", [0, 1, 40])
@pytest.mark.parametrize("granularity", ["kv", "query"])
def test_measured_bytes_are_within_a_tenth_of_the_budgets_own_count(
    granularity: str, steps: int
) -> None:
    model = build("llama", head_dim=32, max_position_embeddings=512)
    budget = budgets(model, granularity=granularity, tokens=(8, 250), window=8)
    with HeadBudgetCache(model, budget, compress_at=400) as cache:
        model(ids(400), past_key_values=cache)
        for _ in range(steps):
            model(ids(1), past_key_values=cache)
    kept = budget.kept(400) + steps
    own = kept.sum() * 2 * budget.layout.head_dim * torch.float32.itemsize
    assert own <= held(cache) <= 1.1 * own
    assert cache.nbytes == held(cache)
    assert (cache.entries[:, 0] == kept).all()


@torch.no_grad()
@pytest.mark.parametrize("steps", [0, 1, 12])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("window", [8, 32])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_small_budgets_of_wide_heads_in_half_precision_hold_no_more_either(
    attention: str, window: int, batch: int, steps: int
) -> None:
    """Llama-3-8B's heads: the queries of a window of 8 take a quarter of what is kept."""
    heads = {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}
    model = build("llama", **heads, num_hidden_layers=2, max_position_embeddings=256).bfloat16()
    model.set_attn_implementation(attention)
    budget = budgets(model, tokens=(32, 97), window=window)
    tokens, real = ids(160 + steps, batch=batch), torch.ones(batch, 160 + steps, dtype=torch.long)
    real[-1, : 3 * (batch - 1)] = 0
    with HeadBudgetCache(model, budget, compress_at=160) as cache:
        for stop in range(160, 160 + steps + 1):
            new = tokens[:, cache.get_seq_length() : stop]
            model(new, past_key_values=cache, attention_mask=real[:, :stop])
    own = batch * (budget.kept(160) + steps).sum() * 2 * 128 * torch.bfloat16.itemsize
    assert own <= held(cache) <= 1.1 * own
    assert cache.nbytes == held(cache)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["llama", "gpt_bigcode", "gemma2"])
def test_bytes_are_those_of_all_tensors_held_cut_or_not(architecture: str) -> None:
    """Before a compression a window's queries and a row of the mask are held, and no more."""
    model = build(architecture)
    budget, tokens = budgets(model), ids(PROMPT + 2 * TURN)
    layout = budget.layout
    numbers = (
        2 * layout.num_kv_heads * PROMPT + layout.num_heads * budget.window
    ) * layout.head_dim
    whole = layout.layers * (numbers + PROMPT) * torch.float32.itemsize
    real = torch.ones_like(tokens)
    real[:, 0] = 0
    with HeadBudgetCache(model, budget) as cache:
        assert cache.nbytes == held(cache) == 0
        for stop in (PROMPT, PROMPT + TURN, PROMPT + 2 * TURN):
            new = tokens[:, cache.get_seq_length() : stop]
            model(new, past_key_values=cache, attention_mask=real[:, :stop])
            assert cache.nbytes == held(cache)
            if stop == PROMPT:
                assert held(cache) <= whole
                cache.compress()
                assert cache.nbytes == held(cache)
                cache.compress_at = tokens.shape[1]


@torch.no_grad()
@pytest.mark.parametrize("early", [0, 2])
def test_the_queries_since_cut_at_was_set_choose(tiny_llama: PreTrainedModel, early: int) -> None:
    """The turn is shorter than the window; a change of mind forgets what came before."""
    budget, stop = budgets(tiny_llama, window=7, tokens=(9, 13)), PROMPT + STEPS + TURN
    tokens, dense = ids(stop), DenseCache(tiny_llama, budget)
    with HeadBudgetCache(tiny_llama, budget, compress_at=PROMPT) as cache:
        tiny_llama(tokens[:, :PROMPT], past_key_values=cache)
        dense(tokens[:, :PROMPT])
        dense.compress()
        for at in range(PROMPT, stop):
            if at == PROMPT + STEPS - 1:
                cache.compress_at = None
            elif at in (PROMPT + early, PROMPT + STEPS):
                cache.compress_at = stop
            step = tokens[:, at : at + 1]
            logits = tiny_llama(step, past_key_values=cache).logits
            torch.testing.assert_close(logits, dense(step), **CLOSE)
    dense.compress(since=PROMPT + STEPS)
    for layer in cache.layers:
        kept = [stream.positions.tolist() for stream in layer._ragged.held()]
        assert kept == dense.shown[layer.index][0]


@torch.no_grad()
def test_decoding_seldom_moves_what_is_stored(tiny_llama: PreTrainedModel) -> None:
    budget = budgets(tiny_llama, tokens=(60, 100))
    with HeadBudgetCache(tiny_llama, budget, compress_at=100) as cache:
        tiny_llama(ids(100), past_key_values=cache)
        buffers = set()
        for _ in range(24):
            tiny_llama(ids(1), past_key_values=cache)
            buffers.add(cache.layers[0]._ragged.keys.data_ptr())
    assert len(buffers) <= 6


@torch.no_grad()
@pytest.mark.parametrize("queries", [1, TURN])
@pytest.mark.parametrize("kind", ["attention", "compensation", "query-heads"])
def test_a_layer_and_step_take_a_kernel_call_a_length_or_one_where_there_is_such_a_kernel(
    tiny_llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, kind: str, queries: int
) -> None:
    """No kernel for heads of different lengths runs here: a stand-in counts its calls."""
    budget, tokens = budgets(tiny_llama, **KINDS[kind]), ids(PROMPT + queries)
    calls = {"a length": 0, "all heads": 0}

    def a_length(*tensors: Any, **options: Any) -> Tensor:
        calls["a length"] += 1
        return scaled_dot_product_attention(*tensors, **options)

    def all_heads(query: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        calls["all heads"] += 1
        return query, torch.zeros(query.shape[1], query.shape[0])

    monkeypatch.setattr("headprobe.attention.kernels.scaled_dot_product_attention", a_length)
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", all_heads)
    for has_kernel in (False, True):
        monkeypatch.setattr(
            "headprobe.compression.ragged._has_varlen_kernel", lambda *_, has=has_kernel: has
        )
        with HeadBudgetCache(tiny_llama, budget, compress_at=PROMPT) as cache:
            tiny_llama(tokens[:, :PROMPT], past_key_values=cache)
            lengths = sum(len(set(layer.tolist())) for layer in cache.entries[:, 0])
            assert sum(calls.values()) == 0
            tiny_llama(tokens[:, PROMPT:], past_key_values=cache)
        expected = {"all heads": 2} if has_kernel else {"a length": lengths}
        assert {name: count for name, count in calls.items() if count} == expected
        calls = dict.fromkeys(calls, 0)


@torch.no_grad()
@pytest.mark.parametrize("targets", [1, 12])
def test_a_cut_ranks_a_layer_once_however_many_targets_there_are(
    tiny_llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, targets: int
) -> None:
    ranked = []

    def counted(scores: EntryScores, *given: Any, **options: Any) -> Ranking:
        ranked.append(scores.worth.shape)
        return rank(scores, *given, **options)

    monkeypatch.setattr("headprobe.compression.eviction.rank", counted)
    with HeadBudgetCache(tiny_llama, full(tiny_llama)) as whole:
        tiny_llama(ids(PROMPT), past_key_values=whole)
    sizes = range(4, 4 + targets)
    whole.fork([Target(budgets=budgets(tiny_llama, tokens=(n, n + 1))) for n in sizes])
    kv_heads = tiny_llama.config.num_key_value_heads
    assert ranked == [(kv_heads, PROMPT)] * tiny_llama.config.num_hidden_layers


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "gpt_oss"])
def test_joined_caches_go_on_as_each_did_alone(architecture: str) -> None:
    model, tokens = build(architecture), ids(PROMPT + TURN + 2)
    kinds = [["attention", "streaming"], ["razor"]]
    targets = [[Target(budgets=budgets(model, **KINDS[kind])) for kind in own] for own in kinds]

    def forks() -> list[HeadBudgetCache]:
        cache, made = HeadBudgetCache(model, full(model)), []
        for place, own in enumerate(targets):
            stop = PROMPT + place * TURN
            with cache:
                model(tokens[:, cache.get_seq_length() : stop], past_key_values=cache)
            made.append(cache.fork(own))
            with made[-1]:
                unread = tokens[:, stop : PROMPT + TURN].expand(len(own), -1)
                if unread.shape[1]:
                    model(unread, past_key_values=made[-1])
        return made

    def go_on(cache: HeadBudgetCache) -> Tensor:
        batch = tokens.expand(cache.entries.shape[1], -1)
        with cache:
            return torch.cat(
                [
                    model(batch[:, at : at + 1], past_key_values=cache).logits
                    for at in (PROMPT + TURN, PROMPT + TURN + 1)
                ],
                dim=1,
            )

    one, two = forks()
    assert one.can_join
    joined = go_on(one.join(two))
    torch.testing.assert_close(joined, torch.cat([go_on(cache) for cache in forks()]), **CLOSE)
    with pytest.raises(ValueError, match="the same number of tokens"):
        one.join(HeadBudgetCache(model, full(model)))


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "lfm2"])
@torch.no_grad()
def test_a_branch_goes_on_by_itself(architecture: str) -> None:
    model = build(architecture)
    ids = torch.randint(3, 60, (1, PROMPT), generator=torch.Generator().manual_seed(0))
    tails = torch.randint(3, 60, (2, 1, TURN), generator=torch.Generator().manual_seed(1))
    target = Target(budgets=budgets(model))

    def goes_on(cache: HeadBudgetCache, tail: Tensor) -> tuple[Tensor, Tensor]:
        with cache:
            read = model(tail, past_key_values=cache).logits
        with cache.fork([target], keep=False) as fork:
            return read, model(tail[:, :1], past_key_values=fork).logits

    def whole() -> HeadBudgetCache:
        with HeadBudgetCache(model, budgets(model), selections=["expected"]) as cache:
            model(ids, past_key_values=cache)
        return cache

    cache = whole()
    branches = [goes_on(cache.branch(), tails[0]), goes_on(cache, tails[1])]
    for found, tail in zip(branches, tails, strict=True):
        for logits, expected in zip(found, goes_on(whole(), tail), strict=True):
            torch.testing.assert_close(logits, expected, rtol=0, atol=0)
    compressed = whole()
    compressed.compress()
    with pytest.raises(ValueError, match="not compressed, to branch"):
        compressed.branch()


def test_a_fork_may_take_what_a_cache_held(tiny_llama: PreTrainedModel) -> None:
    with HeadBudgetCache(tiny_llama, full(tiny_llama)) as whole:
        tiny_llama(ids(PROMPT), past_key_values=whole)
    kept = whole.fork([Target(budgets=budgets(tiny_llama))])
    taken = whole.fork([Target(budgets=budgets(tiny_llama))], keep=False)
    assert whole.nbytes == held(whole) == 0
    np.testing.assert_array_equal(taken.entries, kept.entries)


@torch.no_grad()
@pytest.mark.parametrize("compress_at", [None, PROMPT])
def test_beam_search_takes_the_sequences_it_asks_for(
    tiny_llama: PreTrainedModel, compress_at: int | None
) -> None:
    full = budgets(tiny_llama, ratio=1.0)
    with HeadBudgetCache(tiny_llama, full, compress_at=compress_at) as cache:
        found = greedy(tiny_llama, ids(PROMPT), num_beams=3, past_key_values=cache)
    assert torch.equal(found, greedy(tiny_llama, ids(PROMPT), num_beams=3))


@torch.no_grad()
@pytest.mark.parametrize("cut_first", [True, False])
def test_a_cache_is_repeated_for_several_continuations(
    tiny_llama: PreTrainedModel, cut_first: bool
) -> None:
    budget, tokens = budgets(tiny_llama), ids(PROMPT + 1)
    with HeadBudgetCache(tiny_llama, budget) as cache:
        tiny_llama(tokens[:, :PROMPT], past_key_values=cache)
        if cut_first:
            cache.compress()
        cache.batch_repeat_interleave(3)
        cache.batch_select_indices(torch.tensor([2, 0]))
        if not cut_first:
            cache.compress()
        twice = tiny_llama(tokens[:, PROMPT:].repeat(2, 1), past_key_values=cache).logits
    with HeadBudgetCache(tiny_llama, budget, compress_at=PROMPT) as cache:
        tiny_llama(tokens[:, :PROMPT], past_key_values=cache)
        once = tiny_llama(tokens[:, PROMPT:], past_key_values=cache).logits
    torch.testing.assert_close(twice, once.repeat(2, 1, 1), **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["attention", "razor"])
@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma3_text"])
def test_eager_attention_is_cut_as_sdpa_is(architecture: str, kind: str) -> None:
    model = build(architecture)
    budget, tokens = budgets(model, **KINDS[kind]), ids(PROMPT + STEPS)
    logits = []
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        with HeadBudgetCache(model, budget, compress_at=PROMPT) as cache:
            model(tokens[:, :PROMPT], past_key_values=cache)
            logits.append(model(tokens[:, PROMPT:], past_key_values=cache).logits)
    torch.testing.assert_close(*logits, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_a_flash_kernel_which_gets_no_mask_is_cut_as_sdpa_is(architecture: str) -> None:
    """No kernel runs here: a stand-in gets what a kernel gets, a window and no mask."""

    def kernel(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: None, **attention_kwargs: Any
    ):
        assert mask is None
        past = torch.arange(key.shape[2])
        distance = past[-query.shape[2] :, None] - past
        seen = (distance >= 0) & (distance < (attention_kwargs.get("sliding_window") or len(past)))
        return sdpa_attention_forward(
            module, query, key, value, seen[None, None], **attention_kwargs
        )

    AttentionInterface.register("headprobe_test_flash", kernel)
    AttentionMaskInterface.register("headprobe_test_flash", flash_attention_mask)
    model = build(architecture)
    budget, tokens = budgets(model), ids(PROMPT + STEPS)
    logits = []
    for implementation in ("sdpa", "headprobe_test_flash"):
        model.config._attn_implementation = implementation
        with HeadBudgetCache(model, budget, compress_at=PROMPT) as cache:
            model(tokens[:, :PROMPT], past_key_values=cache)
            logits.append(model(tokens[:, PROMPT:], past_key_values=cache).logits)
            logits.append(model(tokens[:, :1], past_key_values=cache).logits)
    torch.testing.assert_close(logits[2:], logits[:2], **CLOSE)


@torch.no_grad()
def test_half_precision_stays_half(tiny_llama: PreTrainedModel) -> None:
    model = tiny_llama.bfloat16()
    with HeadBudgetCache(model, budgets(model, **KINDS["razor"]), compress_at=PROMPT) as cache:
        model(ids(PROMPT), past_key_values=cache)
        logits = model(ids(1), past_key_values=cache).logits
    assert logits.dtype == torch.bfloat16
    assert cache.layers[0]._ragged.keys.dtype == torch.bfloat16


def test_a_cache_cut_under_inference_mode_goes_on_outside_of_it(
    tiny_llama: PreTrainedModel,
) -> None:
    with HeadBudgetCache(tiny_llama, budgets(tiny_llama), compress_at=PROMPT) as cache:
        with torch.inference_mode():
            tiny_llama(ids(PROMPT), past_key_values=cache)
            tiny_llama(ids(2), past_key_values=cache)
        with torch.no_grad():
            tiny_llama(ids(1), past_key_values=cache)
    assert cache.get_seq_length() == PROMPT + 3


@torch.no_grad()
def test_other_caches_and_models_are_left_alone(tiny_llama: PreTrainedModel) -> None:
    other, tokens = build("qwen3"), ids(PROMPT + 1)
    expected = [model(tokens).logits[:, -1:] for model in (tiny_llama, other)]
    outer = HeadBudgetCache(tiny_llama, budgets(tiny_llama), compress_at=PROMPT)
    full = HeadBudgetCache(tiny_llama, budgets(tiny_llama, ratio=1.0), compress_at=PROMPT)
    with outer, full:
        for cache in (outer, full):
            tiny_llama(tokens[:, :PROMPT], past_key_values=cache)
        for model, wanted in zip((tiny_llama, other), expected, strict=True):
            plain = DynamicCache(config=model.config)
            model(tokens[:, :PROMPT], past_key_values=plain)
            logits = model(tokens[:, PROMPT:], past_key_values=plain).logits
            torch.testing.assert_close(logits, wanted, **CLOSE)
        logits = tiny_llama(tokens[:, PROMPT:], past_key_values=full).logits
        torch.testing.assert_close(logits, expected[0], **CLOSE)


@torch.no_grad()
def test_prefill_is_observed_inside(tiny_llama: PreTrainedModel) -> None:
    layers = []

    def sink(rows: AttentionRows) -> None:
        layers.append(rows.layer)

    with HeadBudgetCache(tiny_llama, budgets(tiny_llama), compress_at=PROMPT) as cache:
        observe(tiny_llama, ids(PROMPT), sink, past_key_values=cache)
    assert layers == [0, 1]
    assert (cache.entries[:, 0] == budgets(tiny_llama).tokens).all()


@torch.no_grad()
def test_a_reset_cache_starts_over(tiny_llama: PreTrainedModel) -> None:
    logits = []
    with HeadBudgetCache(tiny_llama, budgets(tiny_llama), compress_at=PROMPT) as cache:
        for _ in range(2):
            cache.reset()
            tiny_llama(ids(PROMPT), past_key_values=cache)
            logits.append(tiny_llama(ids(1), past_key_values=cache).logits)
    assert torch.equal(*logits)


@torch.no_grad()
def test_layers_that_share_keys_share_what_is_left_of_them() -> None:
    model = build("gemma4_text")
    tokens = ids(PROMPT + STEPS)
    with HeadBudgetCache(model, budgets(model, ratio=1.0), compress_at=PROMPT) as cache:
        model(tokens[:, :PROMPT], past_key_values=cache)
        logits = model(tokens[:, PROMPT:], past_key_values=cache).logits
    torch.testing.assert_close(logits, model(tokens).logits[:, PROMPT:], **CLOSE)
    assert (cache.entries[2:] == 0).all()


FORKED = [kind for kind in KINDS if kind not in ("query-heads", "no-window")]


def full(model: PreTrainedModel, *, window: int = 12) -> HeadBudgets:
    return budgets(model, ratio=1.0, window=window)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "gpt_oss", "lfm2"])
def test_a_fork_is_to_each_target_what_a_cache_of_its_own_is(architecture: str) -> None:
    """Compression, the question as a chunk, another, decoding; the forked cache goes on whole."""
    model = build(architecture)
    targets = [Target(budgets=budgets(model, **KINDS[kind])) for kind in FORKED]
    targets.append(Target(budgets=budgets(model), floor=0.2))
    tokens = ids(PROMPT + TURN + 1)
    ends = [PROMPT, PROMPT + TURN, PROMPT + TURN + 1]
    alone, entries = [], []
    for target in targets:
        with HeadBudgetCache(model, target.budgets, floor=target.floor) as cache:
            parts = []
            for start, stop in itertools.pairwise([0, *ends]):
                cache.compress_at = stop
                parts.append(model(tokens[:, start:stop], past_key_values=cache).logits)
            alone.append(torch.cat(parts[1:], dim=1))
            entries.append(cache.entries[:, 0])
    with HeadBudgetCache(model, full(model)) as whole:
        model(tokens[:, :PROMPT], past_key_values=whole)
    with whole.fork(targets) as fork:
        parts = []
        for start, stop in itertools.pairwise(ends):
            fork.compress_at = stop
            batch = tokens[:, start:stop].expand(len(targets), -1)
            parts.append(model(batch, past_key_values=fork).logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), torch.cat(alone), **CLOSE)
    np.testing.assert_array_equal(fork.entries, np.stack(entries, axis=1))
    with whole:
        logits = model(tokens[:, PROMPT:], past_key_values=whole).logits
    torch.testing.assert_close(logits, model(tokens).logits[:, PROMPT:], **CLOSE)


@torch.no_grad()
def test_sequences_taken_from_a_fork_keep_their_targets(tiny_llama: PreTrainedModel) -> None:
    """Taken in the middle of a turn that is compressed at its end."""
    targets = [Target(budgets=budgets(tiny_llama, tokens=(n, n + 1))) for n in (4, 6, 8)]
    turn, taken = ids(TURN + 1, batch=3), torch.tensor([2, 0])
    with HeadBudgetCache(tiny_llama, full(tiny_llama)) as whole:
        tiny_llama(ids(PROMPT), past_key_values=whole)
    logits = []
    for early in (False, True):
        with whole.fork(targets) as fork:
            fork.compress_at = PROMPT + TURN
            tiny_llama(turn[:, :2], past_key_values=fork)
            if early:
                fork.reorder_cache(taken)
            rows = taken if early else slice(None)
            tiny_llama(turn[rows, 2:TURN], past_key_values=fork)
            if not early:
                fork.reorder_cache(taken)
            logits.append(tiny_llama(turn[taken, TURN:], past_key_values=fork).logits)
        assert (fork.entries[:, 0] == 8 + 1).all()
        assert (fork.entries[:, 1] == 4 + 1).all()
    torch.testing.assert_close(*logits, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["llama", "gpt_oss"])
def test_heads_that_share_by_attention_keep_as_much_between_them(architecture: str) -> None:
    model = build(architecture)
    budget = budgets(model, tokens=(10, 11))
    found = {}
    for floor in (None, 0.0, 0.5, 1.0):
        with HeadBudgetCache(model, budget, compress_at=PROMPT, floor=floor) as cache:
            model(ids(PROMPT), past_key_values=cache)
        found[floor] = cache.entries[:, 0]
    for floor, entries in found.items():
        np.testing.assert_array_equal(entries.sum(axis=1), found[None].sum(axis=1))
        least = budget.window + ((floor or 0) * (found[None] - budget.window)).astype(int)
        assert (entries >= least).all()
    np.testing.assert_array_equal(found[1.0], found[None])
    assert (found[0.0] != found[None]).any()


@torch.no_grad()
def test_forks_that_cannot_be_are_refused(tiny_llama: PreTrainedModel) -> None:
    target = Target(budgets=budgets(tiny_llama))
    with HeadBudgetCache(tiny_llama, full(tiny_llama, window=2)) as cache:
        with pytest.raises(ValueError, match="expected one sequence to fork, got 0"):
            cache.fork([target])
        tiny_llama(ids(PROMPT - 1), past_key_values=cache)
        tiny_llama(ids(1), past_key_values=cache)
        with pytest.raises(ValueError, match="has watched 12 queries"):
            cache.fork([Target(budgets=full(tiny_llama))])
        other = Target(budgets=budgets(tiny_llama, granularity="query"))
        with pytest.raises(ValueError, match="one granularity"):
            cache.fork([target, other])
        cache.compress()
        with pytest.raises(ValueError, match="not compressed"):
            cache.fork([target])
    streaming = budgets(tiny_llama, selection="streaming")
    with pytest.raises(ValueError, match=r"by one selection, got \['streaming'\]"):
        Target(budgets=streaming, floor=0.2)
    with pytest.raises(ValueError, match="a floor where heads share across the model, got None"):
        Target(budgets=target.budgets, across="model")
    with pytest.raises(ValueError, match="a floor from 0 to 1"):
        Target(budgets=target.budgets, floor=1.2)


def test_wrong_use_is_refused(tiny_llama: PreTrainedModel) -> None:
    budget = budgets(tiny_llama)
    cache = HeadBudgetCache(tiny_llama, budget, compress_at=PROMPT - 3)
    with pytest.raises(ValueError, match="inside the cache's `with`"):
        tiny_llama(ids(PROMPT), past_key_values=cache)
    with cache:
        with pytest.raises(ValueError, match=r"end at token 17, where .* from token 0 to 20"):
            tiny_llama(ids(PROMPT), past_key_values=cache)
        with pytest.raises(ValueError, match="expected tokens in the cache"):
            cache.compress()
        cache.compress_at = PROMPT
        tiny_llama(ids(PROMPT), past_key_values=cache)
        cache.compress_at = TURN
        with pytest.raises(ValueError, match=r"more than the 20 tokens already seen, got 5"):
            tiny_llama(ids(TURN), past_key_values=cache)
        cache.compress_at = None
        tiny_llama(ids(TURN), past_key_values=cache)
        with pytest.raises(
            ValueError, match="`compress_at` to be set before the newest tokens came"
        ):
            cache.compress()
        with pytest.raises(ValueError, match="got one inside its `with`"), cache:
            pass
        with pytest.raises(ValueError, match="expected no call of crop"):
            cache.crop(-1)


def test_padding_on_the_right_is_refused(tiny_llama: PreTrainedModel) -> None:
    real = torch.ones(2, PROMPT, dtype=torch.long)
    real[0, -2:] = 0
    with (
        HeadBudgetCache(tiny_llama, budgets(tiny_llama), compress_at=PROMPT) as cache,
        pytest.raises(ValueError, match="expected padding on the left"),
    ):
        tiny_llama(ids(PROMPT, batch=2), attention_mask=real, past_key_values=cache)


def test_a_budget_for_another_model_is_refused(tiny_llama: PreTrainedModel) -> None:
    layout = HeadLayout(
        id="other", architecture="llama", layers=2, num_heads=8, num_kv_heads=2, head_dim=8
    )
    own = budgets(tiny_llama)
    fields = {name: getattr(own, name) for name in own.__dataclass_fields__}
    with pytest.raises(HeadprobeError, match="which differ in heads, 8 and 4"):
        HeadBudgetCache(tiny_llama, HeadBudgets(**fields | {"layout": layout}))
    with pytest.raises(HeadprobeError, match="'median'; known are mean, max, sum"):
        HeadBudgetCache(tiny_llama, budgets(tiny_llama, reduce="median"))


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["bloom", "deepseek_v3"])
def test_models_whose_cache_cannot_be_cut_are_named(architecture: str) -> None:
    model = build(architecture)
    if architecture in LATENT and Version(__version__) < Version("5.17"):
        pytest.skip("it caches heads")
    with (
        pytest.raises(HeadprobeError, match=r"cannot (compress the cache|reach the attention)"),
        HeadBudgetCache(model, budgets(model)) as cache,
    ):
        model(ids(PROMPT), past_key_values=cache)
