from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from headprobe.budgets import SELECTIONS as NAMES
from headprobe.budgets import HeadBudgets
from headprobe.compression import HeadBudgetCache, Target
from headprobe.compression.layer_view import EntryScores, LayerView
from headprobe.compression.ranking import Ranking, rank
from headprobe.compression.reconstruction import Repetition, repetitions
from headprobe.compression.selections import SELECTIONS, Selection, expected, reconstruct, value
from headprobe.errors import HeadprobeError
from headprobe.models.config import head_layout
from headprobe.models.loading import load_model
from tests._support import plain_selections as plain
from tests._support.architectures import build

PROMPT, WINDOW, SLIDING = 20, 3, 8
# Grouped queries; a sliding window and a norm of the queries; a soft cap beside a sliding window.
THREE = ["llama", "gemma3_text", "gemma2"]
PIECES = [(0, 13), (13, PROMPT)]


def budgets(model: PreTrainedModel, selection: str, **fields: Any) -> HeadBudgets:
    layout = head_layout(model.config, id="tiny")
    shape = (layout.layers, layout.num_kv_heads)
    given = {
        "window": WINDOW,
        "tokens": np.random.default_rng(0).integers(5, 8, shape),
        "ratio": np.zeros(shape),
    }
    return HeadBudgets(
        layout=layout,
        strategy={"name": "test"},
        granularity="kv",
        sinks=0,
        compensation=False,
        selection=np.full(shape, selection),
        **given | fields,
    )


def ids(tokens: int, *, batch: int = 1, seed: int = 1) -> Tensor:
    return torch.randint(3, 64, (batch, tokens), generator=torch.Generator().manual_seed(seed))


def repeated(tokens: Tensor) -> list[Repetition]:
    """Each piece after a few tokens of an instruction."""
    asked = [5, 6, 7]
    return [
        Repetition(ids=(*asked, *tokens[0, start:stop].tolist()), start=start, stop=stop)
        for start, stop in PIECES
    ]


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[EntryScores]:
    """The scores that are ranked, layer by layer."""
    found: list[EntryScores] = []

    def keep(scores: EntryScores, *given: Any, **options: Any) -> Ranking:
        found.append(scores)
        return rank(scores, *given, **options)

    monkeypatch.setattr("headprobe.compression.eviction.rank", keep)
    return found


@torch.no_grad()
def compress_by(
    model: PreTrainedModel, tokens: Tensor, selection: str, chunks: Sequence[int] = (PROMPT,)
) -> None:
    with HeadBudgetCache(model, budgets(model, selection)) as cache:
        for piece in tokens.split([*chunks], dim=1):
            model(piece, past_key_values=cache)
        if selection == "reconstruct":
            cache.reconstruct(repeated(tokens))
        cache.compress()


def expected_scores(
    model: PreTrainedModel, tokens: Tensor, selection: str, index: int, kv_head: int
) -> tuple[list[float], list[float] | None]:
    """What each entry of a head is worth, and by what number the first half goes."""
    layers = plain.read(model, tokens)
    layer = layers[index]
    entries = layer.entries
    older = entries[:-WINDOW]

    def pool(numbers: list[float]) -> list[float]:
        return [
            max(numbers[o] for o in older[max(0, i - 3) : i + 4]) if k in older else -math.inf
            for i, k in enumerate(entries)
        ]

    mean = plain.mean_attention(layer, kv_head, WINDOW)
    if selection == "attention":
        return pool(mean), None
    if selection == "streaming":
        return [float(i) for i in range(len(entries))], None
    if selection == "defensive":
        heads = [plain.largest_attention(layer, h, WINDOW) for h in range(len(layer.key))]
        floor = sum(own[k] for own in heads for k in older) / (len(heads) * len(older))
        return pool([max(one, floor) for one in heads[kv_head]]), None
    if selection == "value":
        first = pool(mean)
        norms = [plain.output_norm(layer, kv_head, k) for k in entries]
        return [(a + value.EPSILON) * n for a, n in zip(first, norms, strict=True)], first
    if selection == "expected":
        scores = plain.expected_attention(layer, kv_head, entries, ahead=expected.AHEAD, sinks=4)
        return [scores.get(k, math.inf) for k in entries], None
    found = [0.0] * PROMPT
    for repetition in repeated(tokens):
        both = torch.cat([tokens, torch.tensor([repetition.ids])], dim=1)
        own = plain.read(model, both)[index]
        heads = [
            plain.largest_of_repetition(
                own, h, PROMPT, repetition.start, repetition.stop, sinks=reconstruct.SINKS
            )
            for h in plain.heads_of(own, kv_head)
        ]
        found[repetition.start : repetition.stop] = map(max, zip(*heads, strict=True))
    return [math.inf if k < reconstruct.SINKS else found[k] for k in entries], None


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("architecture", THREE)
def test_scores_equal_the_plain_formula(
    architecture: str, selection: str, scored: list[EntryScores]
) -> None:
    model, tokens = build(architecture), ids(PROMPT)
    compress_by(model, tokens, selection)
    for index in (0, model.config.num_hidden_layers - 1):
        for kv_head in range(2):
            worth, first = expected_scores(model, tokens, selection, index, kv_head)
            older = slice(0, len(worth) - WINDOW)
            own = scored[index].worth[kv_head, older].tolist()
            torch.testing.assert_close(own, worth[older], rtol=2e-4, atol=1e-6)
            if first is not None:
                halved = scored[index].first[kv_head, older].tolist()
                torch.testing.assert_close(halved, first[older], rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("selection", ["expected", "reconstruct", "defensive"])
@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])
def test_scores_do_not_depend_on_the_prefill_chunks(
    architecture: str, selection: str, scored: list[EntryScores]
) -> None:
    model, tokens = build(architecture), ids(PROMPT)
    for chunks in [(PROMPT,), (2, 11, 7)]:
        compress_by(model, tokens, selection, chunks)
    half = len(scored) // 2
    for whole, parts in zip(scored[:half], scored[half:], strict=True):
        torch.testing.assert_close(parts.worth, whole.worth, rtol=1e-3, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("selection", ["defensive", "value", "expected"])
@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "phi", "glm", "gpt2", "cohere2"])
def test_each_sequence_of_a_padded_batch_keeps_what_it_keeps_alone(
    architecture: str, selection: str
) -> None:
    """Rotated in halves, in pairs, in part, in some layers, not at all."""
    model, tokens = build(architecture), ids(PROMPT + 2, batch=2)
    real = torch.ones_like(tokens)
    real[0, :7] = 0
    budget = budgets(model, selection)
    with HeadBudgetCache(model, budget, compress_at=PROMPT) as cache:
        places = (real.cumsum(dim=1) - 1).clamp(min=0)
        for part in (slice(0, PROMPT), slice(PROMPT, None)):
            inputs = {"attention_mask": real[:, : part.stop], "position_ids": places[:, part]}
            together = model(tokens[:, part], past_key_values=cache, **inputs).logits
    for sequence, start in enumerate([7, 0]):
        alone = tokens[sequence : sequence + 1, start:]
        with HeadBudgetCache(model, budget, compress_at=PROMPT - start) as own:
            model(alone[:, : PROMPT - start], past_key_values=own)
            logits = model(alone[:, PROMPT - start :], past_key_values=own).logits
        torch.testing.assert_close(together[sequence], logits[0], rtol=0, atol=1e-4)


@torch.no_grad()
def test_one_fork_cuts_to_targets_of_many_selections(tiny_llama: PreTrainedModel) -> None:
    tokens, after = ids(PROMPT), ids(2, seed=3)
    targets = [budgets(tiny_llama, name) for name in SELECTIONS]
    with HeadBudgetCache(tiny_llama, targets[0], selections=[*SELECTIONS]) as cache:
        tiny_llama(tokens, past_key_values=cache)
        cache.reconstruct(repeated(tokens))
    with cache.fork([Target(budgets=one) for one in targets]) as fork:
        together = tiny_llama(after.expand(len(targets), -1), past_key_values=fork).logits
    for row, target in zip(together, targets, strict=True):
        with HeadBudgetCache(tiny_llama, target) as own:
            tiny_llama(tokens, past_key_values=own)
            if "reconstruct" in target.selection:
                own.reconstruct(repeated(tokens))
            own.compress()
            alone = tiny_llama(after, past_key_values=own).logits
        torch.testing.assert_close(row, alone[0], rtol=0, atol=2e-5)
    assert len({tuple(row.flatten().tolist()) for row in together}) == len(targets)


@torch.no_grad()
@pytest.mark.parametrize("selection", ["attention", "reconstruct"])
@pytest.mark.parametrize("architecture", THREE)
def test_heads_share_across_the_model_by_the_plain_formula(
    architecture: str, selection: str
) -> None:
    """Floors first, then one entry after the other to the head whose next one is worth most.

    Layers whose sliding window holds fewer tokens than others keep what they had.
    """
    model, tokens = build(architecture), ids(PROMPT)
    budget = budgets(model, selection)
    with HeadBudgetCache(model, budget) as cache:
        model(tokens, past_key_values=cache)
        if selection == "reconstruct":
            cache.reconstruct(repeated(tokens))
    targets = [
        *(Target(budgets=budget, floor=floor, across="model") for floor in (0.0, 0.5, 1.0)),
        Target(budgets=budget),
    ]
    own = np.moveaxis(cache.fork(targets).entries, 1, 0)
    kept = own[-1]
    worth = {
        head: sorted(expected_scores(model, tokens, selection, *head)[0][:-WINDOW], reverse=True)
        for head in np.ndindex(kept.shape)
        if cache.capacity[head[0]] == cache.capacity.max()
    }
    for target, found in zip(targets[:-1], own, strict=False):
        sure = np.minimum(kept, WINDOW) + (target.floor * (kept - WINDOW)).astype(int)
        shares = cache.capacity == cache.capacity.max()
        taken = np.where(shares[:, None], sure, kept)
        while taken.sum() < kept.sum():
            open_heads = [head for head in worth if taken[head] - WINDOW < len(worth[head])]
            taken[max(open_heads, key=lambda head: worth[head][taken[head] - WINDOW])] += 1
        np.testing.assert_array_equal(found, taken)
    np.testing.assert_array_equal(own[2], kept)
    assert (own[0] != kept).any(), "no head has more than before"
    if architecture == "llama":
        assert (own[0].sum(axis=1) != kept.sum(axis=1)).any(), "no layer has more than before"


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "lfm2"])
def test_a_repetition_leaves_the_cache_as_it_was(architecture: str) -> None:
    model, tokens, after = build(architecture), ids(PROMPT), ids(2, seed=3)
    logits = []
    for repeats in (False, True):
        with HeadBudgetCache(model, budgets(model, "reconstruct")) as cache:
            model(tokens, past_key_values=cache)
            if repeats:
                before = cache.nbytes
                cache.reconstruct(repeated(tokens))
                layers = sum(one._observed.reconstruction is not None for one in cache._own)
                held = layers * model.config.num_attention_heads * PROMPT * 4
                assert cache.nbytes == before + held
            logits.append(model(after, past_key_values=cache).logits)
    assert torch.equal(*logits)


def test_selections_that_lack_something_say_what(tiny_llama: PreTrainedModel) -> None:
    for name, lacks in [
        ("value", "the output projection"),
        ("expected", "the queries of the whole context"),
        ("reconstruct", "call `reconstruct` before the compression"),
    ]:
        with HeadBudgetCache(tiny_llama, budgets(tiny_llama, "attention")) as cache:
            tiny_llama(ids(PROMPT), past_key_values=cache)
        with pytest.raises(HeadprobeError, match=lacks):
            cache.fork([Target(budgets=budgets(tiny_llama, name))])
    with HeadBudgetCache(tiny_llama, budgets(tiny_llama, "reconstruct")) as cache:
        tiny_llama(ids(PROMPT), past_key_values=cache)
        cache.reconstruct(repeated(ids(PROMPT)))
        tiny_llama(ids(1), past_key_values=cache)
        with pytest.raises(HeadprobeError, match="call `reconstruct` before the compression"):
            cache.compress()


def test_a_rotation_that_is_not_known_is_refused() -> None:
    model = build("llama4_text")
    with (
        pytest.raises(
            HeadprobeError, match="cannot follow the rotary embedding of a 'llama4_text'"
        ),
        HeadBudgetCache(model, budgets(model, "expected")) as cache,
    ):
        model(ids(PROMPT), past_key_values=cache)


def test_names_are_those_that_a_budget_may_hold() -> None:
    assert tuple(SELECTIONS) == NAMES


@torch.no_grad()
def test_another_package_adds_a_selection(
    tiny_llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest, by a function of the view alone."""

    def oldest(view: LayerView) -> EntryScores:
        return EntryScores(worth=-view.positions.float())

    monkeypatch.setitem(SELECTIONS, "oldest", Selection(summary="the oldest", score=oldest))
    monkeypatch.setattr("headprobe.budgets.head_budgets.SELECTIONS", (*NAMES, "oldest"))
    budget = budgets(tiny_llama, "oldest")
    with HeadBudgetCache(tiny_llama, budget, compress_at=PROMPT) as cache:
        tiny_llama(ids(PROMPT), past_key_values=cache)
    for layer, held in enumerate(cache._own):
        positions = held._held().positions
        for head, row in enumerate(positions.tolist()):
            older = budget.tokens[layer, head] - WINDOW
            kept = [position for position in row if 0 <= position < PROMPT]
            assert kept == [*range(older), *range(PROMPT - WINDOW, PROMPT)]


def test_a_context_is_repeated_in_pieces_that_fit() -> None:
    tokenizer = load_model("nano").tokenizer
    context = [*range(3, 303)]
    whole = repetitions(context, tokenizer)
    assert [(one.start, one.stop) for one in whole] == [(0, 300)]
    assert list(whole[0].ids[-300:]) == context
    parts = repetitions(context, tokenizer, start=10, max_context=450)
    assert [one.start for one in parts] == [10, *(one.stop for one in parts[:-1])]
    assert parts[-1].stop == 300
    assert max(300 + len(one.ids) for one in parts) <= 450
    for one in parts[1:]:
        quoted = context[one.start - 8 : one.start]
        assert " ".join(map(str, quoted)) in " ".join(map(str, one.ids))
