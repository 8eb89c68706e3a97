"""Curves and query statistics from a score command to a budget and a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from headprobe.budgets import HeadBudgets
from headprobe.scores import FILE_NAME, HeadScores
from tests._support.command_line import headprobe, succeed

SMALL = ["score", "--lengths", "128", "--depths", "0,100", "--limit", "4"]


def test_a_score_command_with_utility_is_allocated_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    succeed(*SMALL)
    refused = headprobe("allocate", "--strategy", "utility")
    assert refused.returncode == 2
    assert "give the same score command again with --utility" in refused.stderr
    succeed(*SMALL, "--utility")
    succeed("allocate", "--strategy", "utility", "--budget", "24", "--out", "a.json")
    setting = ["--option", "setting=query_agnostic"]
    succeed("allocate", "--strategy", "utility", "--budget", "24", "--out", "b.json", *setting)
    one, other = (HeadBudgets.load(Path(name)) for name in ("a.json", "b.json"))
    assert one.tokens.sum() == other.tokens.sum() == 24 * one.tokens.size
    assert (one.tokens != other.tokens).any()
    assert len(np.unique(one.tokens)) > 4
    assert other.strategy["setting"] == "query_agnostic"
    run = Path("outputs", "nano", "r2")
    size = (run / FILE_NAME).stat().st_size
    succeed("export", run, "--to", "safetensors", "--out", "copy.safetensors")
    copied = HeadScores.load(Path("copy.safetensors"))
    assert copied.utility is not None
    assert size < 100_000


@pytest.mark.parametrize("task", ["razor", "reach", "alibi"])
def test_a_task_that_asks_nothing_has_no_utility(task: str, tmp_path: Path) -> None:
    done = headprobe("score", "--task", task, "--utility", cwd=tmp_path)
    assert done.returncode == 2
    assert "--utility" in done.stderr
    assert "leave it out" in done.stderr


def test_query_statistics_are_gathered_beside_scores_and_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    succeed(*SMALL)
    before = HeadScores.load(Path("outputs", "nano", "r2"))
    refused = headprobe("export", "--to", "triattention", "--out", "s.pt")
    assert "give the same score command again with --statistics" in refused.stderr
    succeed(*SMALL, "--statistics")
    after = HeadScores.load(Path("outputs", "nano", "r2"))
    np.testing.assert_array_equal(before.mean("r2"), after.mean("r2"))
    done = succeed("export", "--to", "triattention", "--layout", "layers", "--out", "s.pt")
    assert "layout layers, means over" in done.stderr
    content = torch.load("s.pt", weights_only=True)
    assert sorted(content["layer_stats"]) == list(range(6))
    flat = succeed("export", "--to", "triattention", "--out", "flat.pt")
    assert "layout flat" in flat.stderr
    assert torch.load("flat.pt", weights_only=True)["metadata"]["num_traces"] == 4
    other = headprobe("export", "--to", "headkv", "--layout", "flat", "--out", "h.json")
    assert other.returncode == 2


def test_random_tokens_have_no_statistics_to_go_by(tmp_path: Path) -> None:
    done = headprobe("score", "--task", "razor", "--statistics", cwd=tmp_path)
    assert done.returncode == 2
    assert "--statistics: this task reads random tokens: leave it out" in done.stderr
