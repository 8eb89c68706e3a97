from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from headprobe.errors import HeadprobeWarning, UsageError
from headprobe.models.bundled import bundled
from headprobe.models.layout import HeadLayout
from headprobe.models.loading import LoadedModel, load_model
from headprobe.prompts.spec import CaseSpec
from headprobe.runs.directory import CASES
from headprobe.runs.draw import DrawnCases, draw_cases
from headprobe.runs.held_out import check_held_out, held_out_seed, scored_corpus
from headprobe.scores import HeadScores
from headprobe.tasks import TASKS
from tests._support.refusals import refused


@pytest.fixture(scope="module")
def nano() -> LoadedModel:
    return load_model("nano", weights=False)


def draw(nano: LoadedModel, **options: Any) -> DrawnCases:
    held_out = options.pop("held_out", False)
    spec = CaseSpec(lengths=(128,), limit=12, **options)
    return draw_cases(nano, TASKS["r2"].probe, spec, held_out=held_out)


def scored_run(folder: Path, drawn: DrawnCases) -> Path:
    folder.mkdir()
    table = pd.DataFrame(
        {"position": case.position, "input_ids": list(case.input_ids)} for case in drawn.cases
    )
    table.to_parquet(folder / CASES)
    return folder


def test_needles_that_were_scored_are_refused_wherever_they_come_from(
    nano: LoadedModel, tmp_path: Path
) -> None:
    run = scored_run(tmp_path / "run", draw(nano))
    held_out = draw(nano, held_out=True, seed=1)
    check_held_out(held_out, [run], nano.tokenizer)
    scored = {case.needle_id for case in draw(nano).cases}
    # Under another name, in another order, at other places, with another seed.
    lines = bundled("needles", "nano", "r2.jsonl").read_text().splitlines()
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(reversed(lines)))
    again = draw(nano, needles=other, seed=9)
    with pytest.raises(UsageError) as raised:
        check_held_out(again, [run], nano.tokenizer)
    message = f"{len(scored)} of 48 needles are those that {run} was scored on"
    assert message in str(raised.value)
    assert "`allow_scored_needles`" in str(raised.value)


def test_a_run_without_its_cases_cannot_say(nano: LoadedModel, tmp_path: Path) -> None:
    with pytest.warns(HeadprobeWarning, match="no case table in"):
        check_held_out(draw(nano, held_out=True), [tmp_path], nano.tokenizer)


def test_the_seed_is_another_than_the_scores_were_taken_with() -> None:
    assert held_out_seed(None, []) == 1
    assert held_out_seed(None, [4, 2]) == 5
    assert held_out_seed(7, [4, 8]) == 7
    with refused("drew the cases that were scored", option="seed", value=4):
        held_out_seed(4, [4, 8])


def test_held_out_needles_are_the_default_and_are_named(nano: LoadedModel) -> None:
    assert draw(nano).plan.labels["needles"] == "bundled nano"
    assert draw(nano, held_out=True).plan.labels["needles"] == "bundled nano/held-out"


@pytest.mark.parametrize(
    ("plan", "corpus"),
    [
        ({"needles": "bundled chinese"}, Path("chinese")),
        ({"needles": "bundled nano"}, Path("nano")),
        ({"needles": "own/chinese.jsonl"}, None),
        ({}, None),
    ],
)
def test_needles_are_held_out_of_the_corpus_that_was_scored(
    plan: dict[str, Any], corpus: Path | None
) -> None:
    layout = HeadLayout(id="a", architecture="b", layers=1, num_heads=2, num_kv_heads=1, head_dim=2)
    run = HeadScores(
        layout=layout,
        task="r2",
        per_case={"r2": np.ones((1, 1, 2), dtype=np.float32)},
        needles=(0,),
        cases=1,
        plan=plan,
    )
    assert scored_corpus([run]) == corpus
    assert scored_corpus([]) is None


def test_an_answer_that_does_not_fit_behind_its_prompt_is_refused(
    nano: LoadedModel, tmp_path: Path
) -> None:
    long = " ".join(["velvet kettles"] * 200)
    needle = {"needle": f"Noah likes {long}.", "question": "What?", "real_needle": long}
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps(needle | {"answer": long}))
    spec = partial(CaseSpec, depths=(50.0,), needles=path)
    assert draw_cases(nano, TASKS["r2"].probe, spec(lengths=(1024,))).cases
    with pytest.raises(UsageError, match=r"take .* tokens, the model takes 2112"):
        draw_cases(nano, TASKS["r2"].probe, spec(lengths=(2048,)))
