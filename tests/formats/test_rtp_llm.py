from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headprobe.budgets import HeadBudgets
from headprobe.errors import UsageError
from headprobe.formats import export_budget, export_scores
from headprobe.scores import HeadScores


def load(path: Path) -> tuple[dict[str, Any], np.ndarray]:
    """The object that RTP-LLM takes from config.json, and its heads layer by layer."""
    whole = {"architectures": ["Qwen3ForCausalLM"], "num_attention_heads": 8}
    merged = whole | json.loads(path.read_text())
    assert sorted(merged.keys() - whole.keys()) == ["headwise_config"]
    config = merged["headwise_config"]
    layers = sorted(int(key) for key in config if key.isdigit())
    assert layers == list(range(len(layers)))
    return config, np.array([config[str(layer)] for layer in layers])


def test_whole_groups_of_the_highest_heads_see_everything(
    make_run: Callable[..., HeadScores], tmp_path: Path
) -> None:
    run = make_run()
    export_scores(run, tmp_path / "heads.json", to="rtp-llm", sparsity=0.75)
    config, heads = load(tmp_path / "heads.json")
    assert heads.shape == (3, 8)
    assert set(heads.ravel().tolist()) == {0, 1}
    groups = heads.reshape(12, 2)
    assert (groups[:, 0] == groups[:, 1]).all()
    top = np.argsort(-run.mean("r2").reshape(12, 2).max(axis=1))[:3]
    assert sorted(np.flatnonzero(groups[:, 0])) == sorted(top)
    assert (config["sink_token_num"], config["swa_token_num"]) == (4, 8192)
    assert config["seqlen_threshold"] == 16384


def test_a_budgets_heads_sinks_and_window_are_passed_on(
    streaming_budget: HeadBudgets, tmp_path: Path
) -> None:
    export_budget(streaming_budget, tmp_path / "heads.json", to="rtp-llm")
    config, heads = load(tmp_path / "heads.json")
    assert np.array_equal(heads, (streaming_budget.ratio >= 1).repeat(2, axis=1))
    assert (config["sink_token_num"], config["swa_token_num"]) == (4, 60)


def test_the_threshold_lies_beyond_sinks_and_window(
    make_run: Callable[..., HeadScores], tmp_path: Path
) -> None:
    export_scores(make_run(), tmp_path / "heads.json", to="rtp-llm", sinks=8, recent=20000)
    config, _ = load(tmp_path / "heads.json")
    assert config["seqlen_threshold"] > 20008


def test_streaming_heads_without_a_sink_are_refused(
    make_run: Callable[..., HeadScores], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="streaming heads need a sink"):
        export_scores(make_run(), tmp_path / "heads.json", to="rtp-llm", sinks=0)
