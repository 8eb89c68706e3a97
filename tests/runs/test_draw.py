from __future__ import annotations

import dataclasses
import itertools
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from headprobe.errors import HeadprobeWarning, UsageError
from headprobe.models.bundled import bundled
from headprobe.models.loading import LoadedModel, load_model
from headprobe.prompts.case import case_key
from headprobe.prompts.spec import CaseSpec
from headprobe.runs.draw import DrawnCases, draw_cases
from headprobe.runs.plan import prepare
from headprobe.runs.prefix_tree import PrefixTree
from headprobe.tasks import TASKS


@pytest.fixture(scope="module")
def other() -> LoadedModel:
    """A model that is not the bundled one to those who ask for its name."""
    return dataclasses.replace(load_model("nano", weights=False), name="other")


def draw(loaded: LoadedModel, *, task: str = "r2", **options: Any) -> DrawnCases:
    held_out = options.pop("held_out", False)
    given: dict[str, Any] = {"lengths": (1200,), "depths": (50.0,), "limit": 30}
    spec = CaseSpec(**given | options)
    return draw_cases(loaded, TASKS[task].probe, spec, held_out=held_out)


def text_of(loaded: LoadedModel, drawn: DrawnCases) -> str:
    return " ".join(loaded.tokenizer.decode(case.input_ids) for case in drawn.cases)


def essays(language: str) -> str:
    return " ".join(file.read_text() for file in bundled("haystack", language).iterdir())


@pytest.mark.parametrize(
    ("named", "held_out", "size", "needles", "haystack"),
    [
        (None, False, 108, "bundled english", "bundled english"),
        (None, True, 60, "bundled english/held-out", "bundled english"),
        ("english", True, 60, "bundled english/held-out", "bundled english"),
        ("chinese", False, 18, "bundled chinese", "bundled chinese"),
        ("chinese", True, 18, "bundled chinese/held-out", "bundled chinese"),
        ("nano", False, 48, "bundled nano", "bundled nano"),
    ],
)
def test_bundled_needles_are_named_and_stand_in_prose_of_their_language(
    other: LoadedModel,
    named: str | None,
    held_out: bool,
    size: int,
    needles: str,
    haystack: str,
) -> None:
    drawn = draw(other, needles=None if named is None else Path(named), held_out=held_out)
    assert len(drawn.needles) == size
    assert drawn.plan.labels["needles"] == needles
    assert drawn.plan.labels["haystack"] == haystack


def test_needles_of_ones_own_stand_in_prose_of_their_language(
    other: LoadedModel, tmp_path: Path
) -> None:
    own = Path(
        shutil.copy(bundled("needles", "chinese", "retrieval.jsonl"), tmp_path / "own.jsonl")
    )
    drawn = draw(other, task="retrieval", needles=own, limit=1, lengths=(2000,))
    assert drawn.plan.labels["needles"] == str(own)
    assert drawn.plan.labels["haystack"] == "bundled chinese"
    (case,) = drawn.cases
    first = other.tokenizer.decode(case.input_ids[1:60]).strip()
    assert first[:8] in essays("chinese")


def test_a_name_that_is_none_is_told_which_there_are(other: LoadedModel) -> None:
    with pytest.raises(UsageError, match=r"no needle file chineese; .*english, chinese, nano"):
        draw(other, needles=Path("chineese"))


def test_a_few_cases_hold_every_kind_equally_often(other: LoadedModel) -> None:
    drawn = draw(other, limit=30)
    counts = Counter(case.kind for case in drawn.cases)
    kinds = ("one-hop", "two-hop", "counting", "linking", "comparing")
    assert counts == dict.fromkeys(kinds, 6)


@pytest.mark.parametrize(
    ("name", "task", "tokens", "paths"),
    [("nano", "r2", 0.27, 60), ("english", "r2", 0.36, 115), ("english", "retrieval", 0.26, 90)],
)
def test_the_default_cases_share_paths_and_are_balanced(
    name: str, task: str, tokens: float, paths: int
) -> None:
    loaded = load_model("nano", weights=False)
    if name != "nano":
        loaded = dataclasses.replace(loaded, name=name, max_context=None)
    cases = draw(loaded, task=task, lengths=None, depths=None, limit=200).cases
    tree = PrefixTree.of([case.input_ids for case in cases])
    assert tree.unique_tokens < tokens * tree.lengths.sum()
    assert len(tree.groups()) < paths
    each = Counter(case.length for case in cases)
    assert set(each.values()) == {20}
    assert len(each) == 10
    assert len({(case.needle_id, case.input_ids) for case in cases}) == 200
    needles = Counter(case.needle_id for case in cases)
    assert max(needles.values()) - min(needles.values()) <= 1


def test_a_larger_limit_draws_the_same_cases_and_more(other: LoadedModel) -> None:
    drawn = [draw(other, lengths=(1000, 1500), limit=limit).cases for limit in (4, 30, 108, 150)]
    keys = [{case_key(case) for case in cases} for cases in drawn]
    assert all(few < more for few, more in itertools.pairwise(keys))


def test_a_file_pasted_twice_gives_no_more_needles(other: LoadedModel, tmp_path: Path) -> None:
    lines = bundled("needles", "english", "r2.jsonl").read_text()
    twice = tmp_path / "twice.jsonl"
    twice.write_text(lines + lines)
    with pytest.warns(HeadprobeWarning, match="108 of 216 needles"):
        drawn = draw(other, needles=twice, limit=None)
    assert {case.needle_id for case in drawn.cases} == set(range(108))
    assert drawn.possible == 108


def test_rounds_of_a_run_that_may_stop_early_divide_no_pack(tmp_path: Path) -> None:
    nano = load_model("nano", weights=False)
    spec = CaseSpec(limit=100)
    run = prepare(nano, TASKS["r2"], spec, until_stable=0.95, out=tmp_path)
    rounds = list(run.rounds())
    assert sorted(itertools.chain(*rounds)) == list(range(100))
    assert all(len(portion) >= 48 for portion in rounds[:-1])
    for group in run.tree.groups():
        pack = set(run.tree.order[group.start : group.stop].tolist())
        assert sum(not pack.isdisjoint(portion) for portion in rounds) == 1
