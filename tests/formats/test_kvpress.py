from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from headprobe.allocators import BudgetSize, allocate
from headprobe.budgets import HeadBudgets
from headprobe.errors import HeadprobeError, UsageError
from headprobe.formats import export_budget, export_scores, kvpress
from headprobe.scores import HeadScores
from headprobe.scores.utility import FRACTIONS, UtilityCurves
from tests._support.refusals import refused

MakeRun = Callable[..., HeadScores]


def kept_by_the_press(curve: np.ndarray, ratio: float, tokens: int) -> np.ndarray:
    """LUKVPress.compress: entries that each head of each layer keeps of ``tokens``."""
    index = max(0, min(98, round(ratio * 100) - 1))
    counts = []
    for pruned in curve[index].astype(np.float32):
        ideal = np.clip(1 - pruned, 0, 1) * tokens
        heads = len(pruned)
        total = max(heads, min(heads * tokens, round(float(ideal.sum()))))
        base = np.floor(ideal).astype(int)
        missing = total - base.sum()
        if missing > 0:
            base[np.argsort(-(ideal - base), kind="stable")[:missing]] += 1
        counts.append(np.clip(base, 1, tokens))
    return np.array(counts)


def test_the_curve_is_what_the_press_loads(make_run: MakeRun, tmp_path: Path) -> None:
    export_scores(make_run(), tmp_path / "curve.npy", to="kvpress")
    curve = np.load(tmp_path / "curve.npy", allow_pickle=False)
    assert curve.shape == (99, 3, 4)
    assert curve.dtype == np.float32
    assert curve.min() >= 0
    assert curve.max() <= 1
    np.testing.assert_allclose(curve.mean(axis=(1, 2)), np.arange(1, 100) / 100, atol=1e-6)
    assert (np.diff(curve, axis=0) >= -1e-6).all()


@pytest.mark.parametrize("ratio", [0.05, 0.5, 0.9, 0.99])
def test_the_press_keeps_what_headkv_allocates(
    ratio: float, make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run()
    notes = export_scores(run, tmp_path / "curve.npy", to="kvpress", beta=1.5, reduce="sum")
    assert notes == ("the 2 query heads of a KV head were reduced by sum",)
    kept = kept_by_the_press(np.load(tmp_path / "curve.npy"), ratio, tokens=4000)
    budgets = allocate(
        run.mean("r2"),
        run.layout,
        budget=BudgetSize(fraction=1 - ratio),
        beta=1.5,
        reduce="sum",
        window=0,
    )
    assert np.abs(kept - budgets.ratio * 4000).max() <= 1
    assert abs(kept.sum() - (1 - ratio) * 4000 * 12) <= 3


@pytest.mark.parametrize("setting", ["query_aware", "query_agnostic"])
def test_the_press_keeps_what_utility_allocates(
    setting: str, make_run: MakeRun, tmp_path: Path
) -> None:
    gains = np.random.default_rng(0).random((4, 2, 3, 4, len(FRACTIONS))).astype(np.float16) / 100
    run = make_run(utility=UtilityCurves.of(list(gains), [900] * 4))
    options = {"strategy": "utility", "setting": setting}
    assert export_scores(run, tmp_path / "curve.npy", to="kvpress", **options) == ()
    curve = np.load(tmp_path / "curve.npy", allow_pickle=False)
    for lost in range(1, 100):
        budgets = allocate(
            run.mean("r2"),
            run.layout,
            budget=BudgetSize(fraction=1 - lost / 100),
            window=0,
            curves=run.utility,
            **options,
        )
        np.testing.assert_allclose(1 - curve[lost - 1], budgets.ratio, atol=1e-6)
        kept = kept_by_the_press(curve, lost / 100, tokens=4000)
        assert np.abs(kept - budgets.kept(4000)).max() <= 1
    with refused("does not hold"):
        export_scores(make_run(), tmp_path / "other.npy", to="kvpress", **options)
    assert not (tmp_path / "other.npy").exists()


def test_a_budget_is_kept_at_its_own_compression(
    make_budget: Callable[..., HeadBudgets], tmp_path: Path
) -> None:
    budgets = make_budget(tokens=np.arange(14, 26).reshape(3, 4) * 4)
    notes = export_budget(budgets, tmp_path / "curve.npy", to="kvpress", context_length=780)
    assert notes == ("of 780 tokens it is the budget at compression_ratio 0.90",)
    kept = kept_by_the_press(np.load(tmp_path / "curve.npy"), 0.9, tokens=780)
    assert np.array_equal(kept, budgets.tokens)
    assert export_budget(budgets, tmp_path / "curve.npy", to="kvpress") == ()


def test_no_head_keeps_more_than_all_and_the_rest_goes_to_the_others(
    make_budget: Callable[..., HeadBudgets], tmp_path: Path
) -> None:
    tokens = np.full((3, 4), 10)
    tokens[1, 2] = 1000
    export_budget(make_budget(tokens=tokens), tmp_path / "curve.npy", to="kvpress")
    curve = np.load(tmp_path / "curve.npy")
    np.testing.assert_allclose(curve.mean(axis=(1, 2)), np.arange(1, 100) / 100, atol=1e-6)
    assert curve[49, 1, 2] == 0
    np.testing.assert_allclose(curve[49, 0], 1 - (6 - 1) / 11, rtol=1e-5)


def test_negative_scores_are_shifted(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(np.random.default_rng(1).normal(size=(2, 3, 8)))
    notes = export_scores(run, tmp_path / "curve.npy", to="kvpress")
    assert "r2 has negative scores" in notes[1]


def test_what_cannot_be_used_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"an \.npy file; curve\.json is not called so"):
        export_scores(make_run(), tmp_path / "curve.json", to="kvpress")
    with pytest.raises(HeadprobeError, match="all r2 scores are zero"):
        export_scores(make_run(np.zeros((1, 3, 8))), tmp_path / "curve.npy", to="kvpress")
    assert not list(tmp_path.iterdir())


def test_without_kvpress_the_press_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kvpress", None)
    monkeypatch.delitem(sys.modules, "headprobe.formats._press", raising=False)
    with pytest.raises(HeadprobeError, match=r"needs kvpress: pip install kvpress \(import of"):
        _ = kvpress.HeadBudgetPress
    with pytest.raises(AttributeError, match=r"kvpress' has no attribute 'BudgetPress'"):
        _ = kvpress.BudgetPress
