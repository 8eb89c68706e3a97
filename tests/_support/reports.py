"""Run directories made of random numbers, and files beside them, for reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from headprobe.files import file_digest
from headprobe.models.layout import HeadLayout
from headprobe.runs.directory import CASES, ROWS
from headprobe.runs.kept_rows import BINS, REASONS, KeptCase, KeptRows, strongest_heads
from headprobe.scores import FILE_NAME, HeadScores

NANO = HeadLayout(
    id="tiny", architecture="LlamaForCausalLM", layers=6, num_heads=8, num_kv_heads=4, head_dim=32
)
LARGE = HeadLayout(
    id="llama3-8b",
    architecture="LlamaForCausalLM",
    layers=32,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
)


def make_run(
    directory: Path,
    *,
    layout: HeadLayout = NANO,
    task: str = "r2",
    measures: tuple[str, ...] = ("r2", "contrast"),
    cases: int = 40,
    kept: int = 4,
    tokens: int = 400,
    word: str = " word",
    seed: int = 0,
) -> HeadScores:
    """Write a run of which every tenth case failed; scores of ``contrast`` have signs."""
    generator = np.random.default_rng(seed)
    passed = np.arange(cases) % 10 != 0
    shape = (int(passed.sum()), layout.layers, layout.num_heads)
    weight = generator.pareto(1.5, shape[1:]) / 10
    scores = HeadScores(
        layout=layout,
        task=task,
        per_case={
            name: (weight * generator.random(shape) - (name == "contrast") * 0.05).astype("f4")
            for name in measures
        },
        needles=tuple((np.flatnonzero(passed) % 8).tolist()),
        cases=cases,
        plan={"seed": 0, "depths": [0.0, 50.0, 100.0], "task": task, "limit": cases},
        versions={"headprobe": "0.1.0"},
    )
    directory.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(
        {
            "case_id": range(cases),
            "needle_id": np.arange(cases) % 8,
            "kind": pd.array(["compare"] * cases, dtype="string"),
            "length": tokens + 100 * (np.arange(cases) % 3),
            "depth": 50.0 * (np.arange(cases) % 3) + 1.0,
            "success": np.where(passed, 100.0, 0.0),
            "accepted": passed,
            "response": [f"{word.strip()} {i}" for i in range(cases)],
            "answer": [f"{word}{tokens // 2 + 1}".strip()] * cases,
            "wrong_answer": [f"{word}{tokens // 2 - 5}".strip()] * cases,
        }
    )
    table.to_parquet(directory / CASES)
    if kept:
        heads = strongest_heads(scores.mean(measures[0]))
        chosen = [_kept(i, layout, len(heads), tokens, word, generator) for i in range(kept)]
        KeptRows(heads=heads, cases=tuple(chosen)).save(directory / ROWS)
    scores.save(
        directory / FILE_NAME,
        files={n: file_digest(directory / n) for n in (CASES, ROWS) if (directory / n).exists()},
    )
    return scores


def _kept(
    case_id: int,
    layout: HeadLayout,
    heads: int,
    tokens: int,
    word: str,
    generator: np.random.Generator,
) -> KeptCase:
    steps, kept, middle = 5, min(128, tokens), tokens // 2
    attention = generator.dirichlet(np.full(BINS, 0.05), (steps, layout.layers, layout.num_heads))
    weights = np.sort(generator.dirichlet(np.full(kept, 0.1), (heads, steps)))[..., ::-1]
    at = generator.permuted(np.tile(np.arange(tokens), (heads * steps, 1)), axis=1)[:, :kept]
    # The first step's rows rest on the needle.
    weights[:, 0] = [0.9, *np.full(kept - 1, 0.1 / (kept - 1))]
    at = at.reshape(heads, steps, kept)
    at[:, 0, 0] = middle
    texts = [f"{word}{i}" for i in range(tokens)]
    return KeptCase(
        case_id=case_id,
        why=REASONS[case_id % len(REASONS)],
        tokens=tuple(texts),
        first_query=tokens - steps,
        chosen=tuple(f" said{i}" for i in range(steps)),
        step_start=0,
        step_end=3,
        needle=(middle - 10, middle + 10),
        span=(middle, middle + 10),
        question=(tokens - 30, tokens - 10),
        answer=texts[middle + 1].strip(),
        wrong_answer=texts[middle - 5].strip(),
        counted=(0, 3),
        bins=np.rint(255 * np.sqrt(attention[:3].mean(axis=0))).astype(np.uint8),
        top_tokens=at.astype(np.int32),
        top_weights=weights.astype(np.float16),
    )


def make_evaluation(directory: Path, *, layout: HeadLayout = NANO) -> dict[str, Any]:
    """Write the file of an evaluation whose accuracy grows with the fraction that is kept."""
    grade = {"value": 90.0, "ci_low": 80.0, "ci_high": 100.0}
    points = [("full", "100%", 1.0, 90.0)]
    points += [
        (name, f"{100 * fraction:g}%", fraction, value * (1.0 if name == "headkv" else 0.5))
        for name in ("headkv", "uniform")
        for fraction, value in ((0.01, 40.0), (0.1, 80.0))
    ]
    fields = {
        "plan": {"layout": layout.to_json(), "task": "r2", "lengths": [1000], "model": layout.id},
        "questions": 16,
        "metric": "f1",
        "results": [
            {
                "setting": "query_aware",
                "strategy": strategy,
                "selection": "attention",
                "budget": budget,
                "is_baseline": strategy == "uniform",
                "fraction": fraction,
                "metric": "f1",
                "grades": {"f1": grade | {"value": value}},
                "of_full": value / 90,
                "best_baseline": None,
                "gain": None,
            }
            for strategy, budget, fraction, value in points
        ],
        "versions": {},
        "started": "2026-01-01",
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "evaluation.json").write_text(json.dumps(fields))
    return fields


def make_ablation(directory: Path, *, layout: HeadLayout = NANO) -> None:
    """Write the file of an ablation of one measure."""
    points = [{"value": v, "ci_low": v - 5, "ci_high": v + 5} for v in (90.0, 10.0)]
    fields = {
        "model": layout.to_json(),
        "task": "r2",
        "metric": "passed",
        "cases": 16,
        "accuracy": points[0],
        "curves": [
            {
                "measure": "r2",
                "top_k": [1, 8],
                "top": points,
                "random": points[:1] * 2,
                "bottom": points[:1] * 2,
                "area": {"value": 0.5, "ci_low": 0.4, "ci_high": 0.6},
            }
        ],
        "plan": {"ablation": "zero"},
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "ablation.json").write_text(json.dumps(fields))
