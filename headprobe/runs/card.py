"""The card of a run on the hub: what a repository's page tells, made from the run's data alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from headprobe.files import atomic_write
from headprobe.inputs.printable import printable
from headprobe.models.layout import is_hub_id
from headprobe.prompts.style import PromptDecision
from headprobe.runs.directory import read_report
from headprobe.runs.pass_rates import describe_cases
from headprobe.scores import HeadScores
from headprobe.scores.tables import head_table
from headprobe.scores.titles import title

CARD, PICTURE = "README.md", "heads.png"
TOP_HEADS = 16
_MARKUP = re.compile(r"([\\`*_\[\]<>|~&$])")
# What of a plan tells how scores came about; no paths.
_OF_PLAN = ("dtype", "attention", "device", "decode", "steps", "lengths", "depths", "seed")
_LONGEST = 200


def write_card(
    path: Path, run: Path, scores: HeadScores, *, name: str, files: Sequence[Path]
) -> None:
    """Write the card of a run: metadata that the hub reads, then Markdown.

    Texts of the run are escaped: they may come from whoever made the run.

    Args:
        path: where the card goes.
        run: the run directory.
        scores: its scores.
        name: the repository, ``owner/name``.
        files: the files that go with the card.
    """
    from jinja2 import Environment, StrictUndefined

    measure = scores.measures[0]
    table = head_table(scores, seed=scores.plan.get("seed", 0))
    top = table[table["measure"] == measure].sort_values("rank").head(TOP_HEADS)
    # Markdown, not HTML: every text goes through the filter.
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters["text"] = _text
    page = environment.from_string(
        resources("headprobe.runs").joinpath("card.md.j2").read_text(encoding="utf-8")
    ).render(
        name=name,
        model=scores.layout.name,
        title=title(scores.task),
        layers=scores.layout.layers,
        query_heads=scores.layout.num_heads,
        kv_heads=scores.layout.num_kv_heads,
        heads=scores.layout.layers * scores.layout.num_heads,
        measures=[title(each) for each in scores.measures],
        measure=title(measure),
        top=top.to_dict("records"),
        provenance=list(_provenance(run, scores)),
        files=[(file.name, f"{file.stat().st_size:,}") for file in files],
    )
    with atomic_write(path) as whole:
        whole.write_text(f"---\n{_metadata(scores)}---\n\n{page}", encoding="utf-8")


def _metadata(scores: HeadScores) -> str:
    """Write the YAML from which the hub finds the model that the scores are of."""
    from huggingface_hub import ModelCardData

    base = scores.layout.id.partition(":")[0]
    data = ModelCardData(
        library_name="headprobe",
        base_model=base if is_hub_id(base) else None,
        tags=["headprobe", "attention-heads", "kv-cache", *scores.measures],
    )
    return f"{data.to_yaml()}\n"


def _provenance(run: Path, scores: HeadScores) -> Iterator[tuple[str, str]]:
    report = read_report(run)
    prompt = PromptDecision.in_record(scores.plan)
    reliability = scores.reliability(scores.measures[0], seed=scores.plan.get("seed", 0))
    yield "architecture", scores.layout.architecture
    yield "cases", describe_cases(scores)
    if reliability.rank_correlation is not None:
        yield "split-half reliability", reliability.rank_correlation.text()
    if prompt is not None:
        yield "prompt", prompt.describe()
    for name in _OF_PLAN:
        if scores.plan.get(name) is not None:
            yield name, _short(scores.plan[name])
    for name in ("started", "seconds"):
        if report.get(name) is not None:
            yield name, str(report[name])
    yield "versions", ", ".join(f"{name} {number}" for name, number in scores.versions.items())


def _short(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    return ", ".join(f"{one:g}" if isinstance(one, int | float) else str(one) for one in value)


def _text(value: object) -> str:
    """Escape what would be Markdown or HTML in a text, and keep it on one line."""
    return _MARKUP.sub(r"\\\1", printable(str(value), longest=_LONGEST))
