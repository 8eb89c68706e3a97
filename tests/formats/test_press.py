"""kvpress itself, on tiny models and on the bundled one: `make test-kvpress`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from kvpress import AdaKVPress, BasePress, LUKVPress, ScorerPress, SnapKVPress
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from headprobe.allocators import BudgetSize, allocate
from headprobe.budgets import HeadBudgets
from headprobe.compression import HeadBudgetCache
from headprobe.errors import HeadprobeError, UsageError
from headprobe.formats import export_budget, export_scores
from headprobe.formats.kvpress import HeadBudgetPress
from headprobe.models.bundled import bundled
from headprobe.models.config import head_layout
from headprobe.models.layout import HeadLayout
from headprobe.scores import HeadScores

PROMPT = 24
CONTEXT = 400
"""Tokens that the bundled model's counts are of: a tenth of them is a whole number."""
TOKENS = 24
"""Entries a KV head when answers are counted."""


@dataclass
class DrawnPress(ScorerPress):
    """Any scores, which the test can look at."""

    dtype: torch.dtype = torch.float32
    scores: dict[int, Tensor] = field(default_factory=dict)

    def score(self, module: Any, hidden_states: Tensor, keys: Tensor, *_: Any) -> Tensor:
        drawn = torch.rand(keys.shape[:3]).to(self.dtype)
        self.scores[module.layer_idx] = drawn
        return drawn


def budgets(model: PreTrainedModel, **changes: Any) -> HeadBudgets:
    layout = head_layout(model.config, id="test")
    shape = layout.layers, layout.num_kv_heads
    fields: dict[str, Any] = {
        "layout": layout,
        "strategy": {"name": "test"},
        "granularity": "kv",
        "window": 4,
        "sinks": 2,
        "compensation": False,
        "selection": np.full(shape, "attention"),
        "tokens": np.full(shape, 10),
        "ratio": np.zeros(shape),
    }
    return HeadBudgets(**fields | changes)


def ids(tokens: int, *, batch: int = 1) -> Tensor:
    return torch.randint(64, (batch, tokens), generator=torch.Generator().manual_seed(1))


def pressed(press: BasePress | None, model: PreTrainedModel, prompt: Tensor) -> DynamicCache:
    """The cache of the prompt under the press, or without one."""
    cache = DynamicCache()
    context: AbstractContextManager[None] = press(model) if press else nullcontext()
    with torch.no_grad(), context:
        model(prompt, past_key_values=cache, logits_to_keep=1)
    return cache


@torch.no_grad()
def go_on(model: PreTrainedModel, cache: DynamicCache, after: Tensor, start: int) -> Tensor:
    """Logits of what follows at these positions, over what the cache has kept."""
    positions = torch.arange(start, start + after.shape[1])[None]
    return model(after, past_key_values=cache, position_ids=positions).logits


def dropped(model: PreTrainedModel, length: int, *, batch: int = 1) -> np.ndarray:
    """Which entries kvpress masks, ``[layer, sequence, KV head, entry]``."""
    lost = torch.zeros(
        model.config.num_hidden_layers, batch, model.config.num_key_value_heads, length
    )
    for layer, block in enumerate(model.model.layers):
        if block.self_attn.masked_key_indices is not None:
            lost[layer][block.self_attn.masked_key_indices] += 1
    assert lost.max() <= 1
    return lost.bool().numpy()


def kept(model: PreTrainedModel, length: int) -> np.ndarray:
    """How many entries each KV head keeps, ``[layer, KV head]``."""
    return length - dropped(model, length)[:, 0].sum(axis=-1)


def in_order(scores: list[float], *, window: int, sinks: int, streaming: bool) -> list[int]:
    """The entries of a head in the order in which docs/formats.md keeps them."""
    entries = list(range(len(scores)))
    order = entries[::-1][:window]
    order += [entry for entry in entries[:sinks] if entry not in order]
    rest = [entry for entry in entries if entry not in order]
    worth = {entry: entry if streaming else scores[entry] for entry in rest}
    return order + sorted(rest, key=worth.__getitem__, reverse=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("window", "sinks"), [(0, 0), (4, 2), (0, 30), (30, 4), (9, 20)])
def test_every_head_keeps_window_sinks_and_the_highest_scores(
    tiny_llama: PreTrainedModel, window: int, sinks: int, dtype: torch.dtype
) -> None:
    length = 24 if dtype == torch.float32 else 300
    draw = np.random.default_rng(0)
    budget = budgets(
        tiny_llama,
        window=window,
        sinks=sinks,
        selection=np.array([["attention", "streaming"], ["attention", "attention"]]),
        tokens=draw.integers(0, 24, (2, 2)),
        ratio=np.array([[0.0, 0.3], [0.9, 0.0]]),
    )
    press = DrawnPress(dtype=dtype)
    pressed(HeadBudgetPress(press, budget), tiny_llama, ids(length, batch=2))
    lost = dropped(tiny_llama, length, batch=2)
    for layer, sequence, head in np.ndindex(2, 2, 2):
        streaming = budget.selection[layer, head] == "streaming"
        scores = press.scores[layer][sequence, head].tolist()
        order = in_order(scores, window=window, sinks=sinks, streaming=streaming)
        expected = order[: budget.kept(length)[layer, head]]
        assert sorted(expected) == np.flatnonzero(~lost[layer, sequence, head]).tolist()


def test_the_compression_ratio_is_the_dropped_fraction(
    tiny_llama: PreTrainedModel,
) -> None:
    budget = budgets(tiny_llama, tokens=np.array([[6, 24], [12, 99]]))
    press = HeadBudgetPress(DrawnPress(), budget)
    with pytest.raises(ValueError, match="expected a forward pass before"):
        _ = press.compression_ratio
    pressed(press, tiny_llama, ids(PROMPT))
    assert press.compression_ratio == pytest.approx(1 - budget.fraction(PROMPT))
    assert press.compression_ratio == pytest.approx((18 + 12) / (4 * PROMPT))


def test_a_full_budget_equals_the_uncompressed_model(tiny_llama: PreTrainedModel) -> None:
    press = HeadBudgetPress(DrawnPress(), budgets(tiny_llama, ratio=np.ones((2, 2))))
    prompt, after = ids(PROMPT), ids(3)
    pressed(HeadBudgetPress(DrawnPress(), budgets(tiny_llama)), tiny_llama, prompt)
    logits = [
        go_on(tiny_llama, pressed(one, tiny_llama, prompt), after, PROMPT) for one in (press, None)
    ]
    assert torch.equal(*logits)
    assert not press.press.scores


def test_streaming_heads_give_what_the_reference_runtime_gives(
    tiny_llama: PreTrainedModel,
) -> None:
    budget = budgets(
        tiny_llama,
        selection=np.full((2, 2), "streaming"),
        tokens=np.array([[6, 24], [12, 9]]),
    )
    prompt, after = ids(PROMPT), ids(3)
    cache = pressed(HeadBudgetPress(DrawnPress(), budget), tiny_llama, prompt)
    ours = go_on(tiny_llama, cache, after, PROMPT)
    with HeadBudgetCache(tiny_llama, budget, compress_at=PROMPT) as reference, torch.no_grad():
        tiny_llama(prompt, past_key_values=reference)
        expected = tiny_llama(after, past_key_values=reference).logits
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    whole = go_on(tiny_llama, pressed(None, tiny_llama, prompt), after, PROMPT)
    assert (ours - whole).abs().max() > 0.1


def test_what_kvpress_cannot_do_is_refused(tiny_llama: PreTrainedModel) -> None:
    right = budgets(tiny_llama)
    with pytest.raises(ValueError, match="expected a ScorerPress, got AdaKVPress"):
        HeadBudgetPress(AdaKVPress(DrawnPress()), right)
    with pytest.raises(UsageError, match="allocate again with `compensation=False`"):
        HeadBudgetPress(DrawnPress(), budgets(tiny_llama, compensation=True))
    by_query = {"granularity": "query", "selection": np.full((2, 4), "attention")}
    sizes = {"tokens": np.full((2, 4), 9), "ratio": np.zeros((2, 4))}
    with pytest.raises(UsageError, match="allocate again with `granularity=kv`"):
        HeadBudgetPress(DrawnPress(), budgets(tiny_llama, **by_query, **sizes))
    layout = HeadLayout(
        id="other", architecture="llama", layers=2, num_heads=8, num_kv_heads=2, head_dim=8
    )
    other = HeadBudgetPress(DrawnPress(), budgets(tiny_llama, layout=layout))
    with pytest.raises(HeadprobeError, match="which differ in heads, 8 and 4"):
        pressed(other, tiny_llama, ids(PROMPT))
    tiny_llama.set_attn_implementation("eager")
    with pytest.raises(HeadprobeError, match="attn_implementation='sdpa'"):
        pressed(HeadBudgetPress(DrawnPress(), right), tiny_llama, ids(PROMPT))


@pytest.fixture(scope="module")
def nano() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(bundled("models", "nano")).eval()


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The run directory of a task on the bundled model."""
    folder = tmp_path_factory.mktemp("runs")

    def score(task: str) -> Path:
        out = folder / task
        if not out.exists():
            options = ["--task", task, "--lengths", "512", "--limit", "66", "--out", str(out)]
            command = [sys.executable, "-m", "headprobe", "score", *options]
            subprocess.run(command, check=True, capture_output=True)
        return out

    return score


@pytest.fixture(scope="module")
def text(scored: Callable[[str], Path]) -> Tensor:
    """The end of a prompt."""
    cases = pd.read_parquet(scored("r2") / "cases.parquet")
    return torch.tensor(cases.input_ids[0][-CONTEXT:])[None]


@pytest.fixture(scope="module")
def budget(scored: Callable[[str], Path]) -> HeadBudgets:
    """A tenth of the context by score, the window of 8 included."""
    run = HeadScores.load(scored("r2"))
    return allocate(run.mean("r2"), run.layout, budget=BudgetSize(tokens=CONTEXT // 10), beta=1.05)


def test_our_press_keeps_what_the_budget_says(
    nano: PreTrainedModel, text: Tensor, budget: HeadBudgets
) -> None:
    pressed(HeadBudgetPress(SnapKVPress(window_size=8), budget), nano, text)
    assert np.array_equal(kept(nano, CONTEXT), budget.tokens)
    assert len(np.unique(budget.tokens)) > 6
    assert not dropped(nano, CONTEXT)[..., -8:].any()


def snapkv(tokens: int, length: int) -> SnapKVPress:
    """kvpress's own, so many entries a head: it rounds down."""
    return SnapKVPress(1 - (tokens + 0.5) / length, window_size=8)


def test_a_uniform_budget_is_plain_snapkv(nano: PreTrainedModel, text: Tensor) -> None:
    uniform = budgets(nano, window=8, sinks=0, tokens=np.full((6, 4), 40))
    plain = pressed(snapkv(40, CONTEXT), nano, text)
    left = [layer.keys for layer in plain.layers]
    logits = [go_on(nano, plain, text[:, :2], CONTEXT)]
    ours = pressed(HeadBudgetPress(SnapKVPress(window_size=8), uniform), nano, text)
    remain = torch.from_numpy(~dropped(nano, CONTEXT)[:, 0])
    for layer, head in np.ndindex(6, 4):
        keys = ours.layers[layer].keys[0, head]
        same = (keys[:, None] == left[layer][0, head]).all(dim=-1)
        assert torch.equal(same.any(dim=1), remain[layer, head])
    logits.append(go_on(nano, ours, text[:, :2], CONTEXT))
    torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-3)


def test_lukv_with_our_curve_keeps_the_budget(
    nano: PreTrainedModel, text: Tensor, budget: HeadBudgets, tmp_path: Path
) -> None:
    export_budget(budget, tmp_path / "curve.npy", to="kvpress", context_length=CONTEXT)
    press = LUKVPress(SnapKVPress(window_size=8), compression_ratio=0.9, sink=0, window=8)
    press._budget_curves = np.load(tmp_path / "curve.npy", allow_pickle=False)
    pressed(press, nano, text)
    assert np.array_equal(kept(nano, CONTEXT), budget.tokens)
    theirs = dropped(nano, CONTEXT)
    pressed(HeadBudgetPress(SnapKVPress(window_size=8), budget), nano, text)
    assert np.array_equal(dropped(nano, CONTEXT), theirs)


def test_lukv_with_the_curve_of_utility_keeps_what_it_allocates(
    nano: PreTrainedModel, text: Tensor, tmp_path: Path
) -> None:
    options = ["--lengths", "512", "--limit", "12", "--utility", "--out", str(tmp_path / "run")]
    command = [sys.executable, "-m", "headprobe", "score", *options]
    subprocess.run(command, check=True, capture_output=True)
    run = HeadScores.load(tmp_path / "run")
    export_scores(run, tmp_path / "curve.npy", to="kvpress", strategy="utility")
    for lost in (0.5, 0.9):
        press = LUKVPress(SnapKVPress(window_size=8), compression_ratio=lost, sink=0, window=8)
        press._budget_curves = np.load(tmp_path / "curve.npy", allow_pickle=False)
        pressed(press, nano, text)
        size = BudgetSize(fraction=1 - lost)
        scores = run.mean("r2")
        given = {"strategy": "utility", "curves": run.utility, "window": 0}
        budget = allocate(scores, run.layout, budget=size, **given)
        assert np.abs(kept(nano, CONTEXT) - budget.kept(CONTEXT).clip(min=1)).max() <= 1
        assert len(np.unique(budget.ratio)) > 6


def example(name: str) -> str:
    """The Python example of docs/formats.md that holds this name."""
    docs = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    blocks = [block.split("```")[0] for block in docs.split("```python\n")[1:]]
    [found] = [block for block in blocks if name in block]
    return found


def test_duo_attention_with_our_pattern_keeps_the_budget(
    nano: PreTrainedModel,
    text: Tensor,
    scored: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = HeadScores.load(scored("r2"))
    mask = allocate(run.mean("r2"), run.layout, strategy="duo", sinks=4, recent=28)
    export_budget(mask, tmp_path / "pattern", to="duo")
    monkeypatch.chdir(tmp_path)
    exec(example("class PatternPress"), names := {})
    press = names["press"]
    pressed(press, nano, text)
    assert np.array_equal(kept(nano, CONTEXT), mask.kept(CONTEXT))
    assert press.compression_ratio == pytest.approx(1 - mask.fraction(CONTEXT))
    theirs = dropped(nano, CONTEXT)
    pressed(HeadBudgetPress(SnapKVPress(window_size=8), mask), nano, text)
    assert np.array_equal(dropped(nano, CONTEXT), theirs)


def test_the_examples_of_the_docs_run(
    nano: PreTrainedModel,
    budget: HeadBudgets,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    budget.save(Path("budget.json"))
    export_budget(budget, Path("curve.npy"), to="kvpress", context_length=CONTEXT)
    hub_id, words = "meta-llama/Meta-Llama-3-8B-Instruct", "the " * 150
    ours = example("HeadBudgetPress(").replace(hub_id, str(bundled("models", "nano")))
    exec(ours.replace('"..."', repr(words)), names := {})
    length = names["context"].shape[1]
    assert float(capsys.readouterr().out) == pytest.approx(1 - budget.fraction(length))
    given = {"model": nano, "context": names["context"], "cache": DynamicCache()}
    exec(example("LUKVPress("), given)
    assert kept(nano, length).mean() == pytest.approx(length / 2, abs=1)


@torch.no_grad()
def accuracy(model: PreTrainedModel, cases: pd.DataFrame, press: BasePress | None) -> float:
    """Fraction of the answers that greedy decoding gives after a prompt that is cut at its end.

    Run as a draft, an answer is what greedy decoding gives if each of its tokens is the best one.
    """
    right = []
    for case in cases.itertuples():
        prompt, answer = torch.tensor(case.input_ids)[None], torch.tensor(case.answer_ids)
        cache = DynamicCache()
        with press(model) if press else nullcontext():
            first = model(prompt, past_key_values=cache, logits_to_keep=1).logits[0]
        best = [first, go_on(model, cache, answer[None], prompt.shape[1])[0, :-1]]
        right.append(torch.equal(torch.cat(best).argmax(dim=-1), answer))
    return float(np.mean(right))


@pytest.mark.parametrize("task", ["r2", "retrieval"])
def test_answers_under_a_budget_are_counted_beside_uniform_snapkv(
    task: str,
    nano: PreTrainedModel,
    scored: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = HeadScores.load(scored(task))
    cases = pd.read_parquet(scored(task) / "cases.parquet")
    length = int(cases.length[0])
    by_score = allocate(run.mean(task), run.layout, budget=BudgetSize(tokens=TOKENS))
    assert by_score.tokens.mean() == TOKENS
    presses = {
        "full cache": None,
        "full budget": HeadBudgetPress(
            snapkv(TOKENS, length), budgets(nano, ratio=np.ones((6, 4)))
        ),
        "HeadBudgetPress by score": HeadBudgetPress(snapkv(TOKENS, length), by_score),
        "uniform SnapKV": snapkv(TOKENS, length),
    }
    fractions = {name: accuracy(nano, cases, press) for name, press in presses.items()}
    with capsys.disabled():
        answers = ", ".join(f"{name} {fraction:.0%}" for name, fraction in fractions.items())
        print(f"\n{task}, {TOKENS} of {length} tokens a KV head, {len(cases)} cases: {answers}")
    assert fractions["full budget"] == fractions["full cache"] > 0.9
    assert min(fractions.values()) > 0.5
