"""Write an evaluation as kvpress' ``evaluate.py`` leaves its own: a directory a method.

``<dataset>__<data_dir>__<model>__<press>__<ratio>[__query_aware]`` holds ``predictions.csv``,
``metrics.json`` and ``config.yaml`` (kvpress 0.5.5). kvpress' leaderboard reads such directories,
of RULER alone: the mean of its tasks, at the ratio that ``predictions.csv`` measured, and of a
configuration only fields that it knows. kvpress' scorers take the columns of ``predictions.csv`` as
the data set has them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from headprobe.evaluation.benchmarks.metrics import masked_entities, read_masks
from headprobe.evaluation.plan import PlannedEvaluation
from headprobe.evaluation.results import FULL, Evaluation, MethodAnswers
from headprobe.evaluation.settings import QUERY_AWARE
from headprobe.files import atomic_write
from headprobe.prompts.data_sets import is_of_hub, name_and_configuration
from headprobe.prompts.documents import CLOZE

_PRESSES = {
    (FULL, None): "no_press",
    ("uniform", "attention"): "snapkv",
    ("uniform", "value"): "critical_snapkv",
    ("pyramid", "attention"): "pyramidkv",
    ("adaptive", "attention"): "adakv_snapkv",
    ("streaming", "streaming"): "streaming_llm",
    ("kvzip_global", "reconstruct"): "kvzip",
    ("kvzip", "reconstruct"): "kvzip_uniform",
    ("uniform", "reconstruct"): "kvzip_uniform",
}
"""kvpress' names of the same methods; others are called by strategy and selection.

What kvpress calls ``expected_attention`` ranks the entries of all heads together.
"""
_METRICS = {"rouge_l_recall": "rouge-l"}
"""kvpress' names of metrics."""
_ONE_ANSWER = ("loogle", "longbench-v2")
"""kvpress' data sets with a text as the answer; in the others it is a list."""


def write_kvpress(planned: PlannedEvaluation, found: Evaluation, folder: Path) -> list[Path]:
    """Write a directory for every method and setting into ``folder``; return their paths.

    Raises:
        HeadprobeError: a file cannot be written.
    """
    written: list[Path] = []
    for method in found.methods:
        config = _config(planned, method)
        out = folder / _name(config)
        if out in written:
            out = out.with_name(f"{out.name}__{method.budget.replace('/', '--')}")
        out.mkdir(parents=True, exist_ok=True)
        predictions = _predictions(config["dataset"], planned, method)
        _write(out / "predictions.csv", partial(predictions.to_csv, index=False))
        metrics = json.dumps(_metrics(config["dataset"], planned, method), indent=4)
        _write(out / "metrics.json", partial(_text, metrics))
        _write(out / "config.yaml", partial(_text, _yaml(config)))
        written.append(out)
    return written


def press_name(strategy: str, selection: str | None) -> str:
    """Return what kvpress calls a method, or its strategy and a selection other than attention."""
    plain = selection in (None, "attention", strategy)
    own = strategy if plain else f"{strategy}_{selection}"
    return _PRESSES.get((strategy, selection), own)


def _config(planned: PlannedEvaluation, method: MethodAnswers) -> dict[str, Any]:
    """Return the fields of kvpress' EvaluationConfig."""
    identity, labels = planned.plan.identity, planned.plan.labels
    dataset, _, set_name = str(identity.get("benchmark", planned.name)).partition(":")
    # kvpress' data of RULER have a configuration for each length.
    lengths = [str(length) for length in identity.get("lengths", ()) if dataset == "ruler"]
    source = str(labels.get("questions"))
    configuration = name_and_configuration(source)[1] if is_of_hub(source) else ""
    model = str(labels["model"])
    return {
        "dataset": dataset,
        "data_dir": "-".join(lengths) or configuration or set_name or None,
        "model": Path(model).name if Path(model).is_absolute() else model,
        "device": identity["device"],
        "press_name": press_name(method.strategy, method.selection),
        "compression_ratio": round(1 - float(method.fractions.mean()), 4),
        "key_channel_compression_ratio": None,
        "threshold": None,
        "fraction": 1.0,
        "max_new_tokens": identity["answer_tokens"],
        "max_context_length": None,
        "query_aware": method.setting == QUERY_AWARE,
        "needle_depth": None,
        "output_dir": ".",
        "model_kwargs": {"dtype": identity["dtype"], "attn_implementation": identity["attention"]},
        "press_init_command": f"headprobe: {method.name}, budget {method.budget}, "
        f"{len(planned.questions)} questions",
        "seed": planned.seed,
        "fp8": False,
    }


def _name(config: Mapping[str, Any]) -> str:
    parts = [
        config["dataset"],
        config["data_dir"],
        config["model"].replace("/", "--"),
        config["press_name"],
        f"{config['compression_ratio']:.2f}",
        "query_aware" if config["query_aware"] else None,
    ]
    return "__".join(filter(None, parts))


def _tasks(planned: PlannedEvaluation) -> list[str]:
    """List the set of each question: the one that was named, else the row's own, or ""."""
    _, _, set_name = str(planned.plan.identity.get("benchmark", "")).partition(":")
    return [set_name or (one.row.task if one.row else "") for one in planned.questions]


def _predictions(dataset: str, planned: PlannedEvaluation, method: MethodAnswers) -> Any:
    import pandas as pd

    questions = planned.questions
    rows = [one.row for one in questions]
    tasks = _tasks(planned)
    answers = [
        _text_of(one.answers, task) if dataset in _ONE_ANSWER else list(one.answers)
        for one, task in zip(questions, tasks, strict=True)
    ]
    classes = [list(row.all_classes) if row else None for row in rows]
    given = (
        {"answers": answers, "all_classes": classes}
        if dataset == "longbench"
        else {"answer": answers}
    )
    return pd.DataFrame(
        {
            "question": [row.question if row else None for row in rows],
            **given,
            "answer_prefix": [row.answer_prefix if row else None for row in rows],
            "task": tasks,
            "max_new_tokens": [one.max_new_tokens for one in questions],
            "predicted_answer": method.responses,
            "compression_ratio": 1 - method.fractions,
        }
    )


def _text_of(answers: Sequence[str], task: str) -> str:
    """Return an answer as one text; masked entities are an object in it."""
    if task == CLOZE:
        return json.dumps(masked_entities(answers), ensure_ascii=False)
    return answers[0]


def _metrics(dataset: str, planned: PlannedEvaluation, method: MethodAnswers) -> Any:
    """Return the numbers as kvpress' scorer of the data set has them."""
    own = list(planned.questions[0].metrics) or [planned.metric]
    grades = method.grades[own[0]]
    if dataset == "longbench":
        return round(float(grades.mean()), 2)
    if dataset == "infinitebench":
        return float(grades.mean()) / 100
    if dataset == "longbench-v2":
        return {"average": float(grades.mean()) / 100}
    tasks = np.array(_tasks(planned))
    if dataset == "ruler":
        return {
            str(task): {"string_match": round(float(grades[tasks == task].mean()), 2)}
            for task in dict.fromkeys(tasks.tolist())
        }
    scale = 100 if dataset == "loogle" else 1

    def means(task: str) -> dict[str, float]:
        """Return what the questions of a task have by each metric, as kvpress calls it."""
        if dataset == "loogle" and task == CLOZE:
            return _matches(planned, method)
        found = {name: float(method.grades[name][tasks == task].mean()) for name in own}
        return {_METRICS.get(name, name): round(mean / scale, 4) for name, mean in found.items()}

    return {str(task or planned.name): means(task) for task in dict.fromkeys(tasks.tolist())}


def _matches(planned: PlannedEvaluation, method: MethodAnswers) -> dict[str, float]:
    """Compute LooGLE's matches of masked entities, all questions' together, as kvpress does.

    A name matches in part by a word. A response that names nothing counts as one exact match
    missed, and as none in part of all; so does in part one with a name that is no text.
    """
    exact = part = exact_count = count = 0
    asked = zip(planned.questions, _tasks(planned), method.responses, strict=True)
    for question, response in [(one, said) for one, task, said in asked if task == CLOZE]:
        wanted, said = masked_entities(question.answers), read_masks(response)
        both = [(name, said[mask]) for mask, name in wanted.items() if mask in said] if said else []
        count += len(wanted)
        exact_count += 1 if said is None else len(wanted)
        exact += sum(one == other for one, other in both)
        if all(isinstance(name, str) for pair in both for name in pair):
            part += sum(bool({*one.split()} & {*other.split()}) for one, other in both)
    return {"exact_match": round(exact / exact_count, 4), "partial_match": round(part / count, 4)}


def _yaml(config: Mapping[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(dict(config), default_flow_style=False, indent=2, sort_keys=False))


def _write(path: Path, save: Any) -> None:
    with atomic_write(path) as temporary:
        save(temporary)


def _text(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")
