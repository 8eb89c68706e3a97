"""Ablations of the bundled model: answers against a copy whose weights are cut, files, resuming."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from headprobe.ablation import run as ablating
from headprobe.ablation.ablated import ablated, mean_outputs
from headprobe.ablation.curves import Ablation
from headprobe.ablation.plan import PlannedAblation, plan_ablation
from headprobe.ablation.rankings import HeadChoice
from headprobe.ablation.run import ablate
from headprobe.errors import HeadprobeError, Interrupted, UsageError
from headprobe.models.bundled import bundled
from headprobe.models.layout import Head
from headprobe.models.loading import LoadedModel, load_model
from headprobe.prompts.case import Case
from headprobe.prompts.spec import CaseSpec
from headprobe.runs.case_runner import observe_cases, observe_in_batch
from headprobe.runs.directory import CASES
from headprobe.runs.draw import draw_cases
from headprobe.runs.held_out import check_held_out
from headprobe.runs.memory import ChunkSizes
from headprobe.runs.progress import FILE_NAME, open_progress
from headprobe.scores import HeadScores
from headprobe.scores.tables import write_table
from headprobe.tasks import PASSED_ABOVE, TASKS
from headprobe.tasks.grading import f1
from tests._support.refusals import refused

pytestmark = pytest.mark.slow

HEADS: dict[str, Any] = {"top_k": (1, 8), "random_draws": 2}
SPEC: dict[str, Any] = {"lengths": (128, 160), "limit": 4}


@pytest.fixture(scope="module")
def nano() -> LoadedModel:
    return load_model("nano", device="cpu", dtype="float32")


def scored(loaded: LoadedModel, *measures: str, **fields: Any) -> HeadScores:
    """Layer 4, whose heads look the answer up, above all others."""
    scores = np.random.default_rng(0).random((2, 6, 8), dtype=np.float32)
    scores[:, 4] += 1
    return HeadScores(
        layout=loaded.layout,
        per_case={name: scores for name in measures or ("r2",)},
        needles=(0, 1),
        cases=2,
        **{"task": "r2", "plan": {"seed": 0}} | fields,
    )


def planned(loaded: LoadedModel, out: Path, **options: Any) -> PlannedAblation:
    runs = options.pop("runs", [("run", scored(loaded))])
    heads, spec = (
        cls(**small | {f.name: options.pop(f.name) for f in fields(cls) if f.name in options})
        for cls, small in ((HeadChoice, HEADS), (CaseSpec, SPEC))
    )
    return plan_ablation(loaded, runs, heads, spec, out=out, **options)


def cut(model: PreTrainedModel, heads: tuple[Head, ...]) -> PreTrainedModel:
    """A copy whose output projections do not read the heads."""
    other = copy.deepcopy(model)
    for layer, head in heads:
        other.model.layers[layer].self_attn.o_proj.weight.data[:, 32 * head : 32 * head + 32] = 0
    return other


def grades(loaded: LoadedModel, run: PlannedAblation) -> list[float]:
    found: list[float] = [0.0] * len(run.cases)
    for seen in observe_cases(loaded, run.cases, run.task):
        found[seen.case_id] = 100.0 * (seen.score > PASSED_ABOVE)
    return found


@pytest.fixture(scope="module")
def whole(
    nano: LoadedModel, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PlannedAblation, Ablation]:
    """An ablation from start to end; it is for all tests of this file, so look only."""
    run = planned(nano, tmp_path_factory.mktemp("ablation") / "whole")
    return run, ablate(nano, run)


def test_answers_are_those_of_a_model_whose_projections_do_not_read_the_heads(
    nano: LoadedModel, whole: tuple[PlannedAblation, Ablation]
) -> None:
    run, done = whole
    assert done.full.tolist() == grades(nano, run)
    assert done.full.any()
    lost = []
    for trial, found in zip(done.trials, done.grades, strict=True):
        lost.append(found.sum() < done.full.sum())
        if trial.k == 8:
            plain = replace(nano, model=cut(nano.model, trial.heads))
            assert found.tolist() == grades(plain, run)
    # The model answers through layer 4.
    top_k = [trial.choice == "top" and trial.k == 8 for trial in done.trials]
    assert all(np.array(lost)[top_k])
    assert done.curves()[0].area.value > 0


@pytest.mark.parametrize(("sequences", "ablation"), [(3, "zero"), (64, "mean")])
def test_groups_in_one_batch_answer_as_each_alone_token_by_token(
    nano: LoadedModel, tmp_path: Path, sequences: int, ablation: str
) -> None:
    run = planned(nano, tmp_path, ablation=ablation, calibration=2, random_draws=1)
    run = replace(run, sequences=sequences, chunk_sizes=ChunkSizes(prefill_chunk=128))
    ablate(nano, run)
    means = mean_outputs(nano.model, [case.input_ids for case in run.calibration])
    with open_progress(tmp_path / FILE_NAME) as progress:
        units = dict(progress.units())
    given = set()
    for heads, keys in run.keys.items():
        with ablated(nano.model, heads, means=means if ablation == "mean" else None):
            for seen in observe_cases(nano, run.cases, run.task, packed=False):
                said = units[keys[seen.case_id]].fields["response"]
                assert said == seen.response
                given.add(said)
    assert len(given) > 4


def test_a_batch_of_groups_takes_the_passes_of_one(nano: LoadedModel, tmp_path: Path) -> None:
    passes: list[int] = []
    hook = nano.model.register_forward_pre_hook(
        lambda _, args, kwargs: passes.append(len(args[0])), with_kwargs=True
    )
    run = planned(nano, tmp_path, lengths=(512, 600), depths=(50.0,), limit=2)
    assert run.sequences == 1
    ablate(nano, replace(run, sequences=64))
    hook.remove()
    batched = [size for size in passes if size > 1]
    assert set(batched) == {8}
    # The path, the tails with their drafts, and a step a pass for answers that go astray.
    assert len(batched) <= 2 + max(run.task.probe.max_new_tokens(case) for case in run.cases)


def test_mean_ablation_takes_means_over_prompts_of_other_needles(
    nano: LoadedModel, tmp_path: Path
) -> None:
    run = planned(nano, tmp_path, ablation="mean", calibration=3, random_draws=1, top_k=(4,))
    assert len(run.calibration) == 3
    assert not {case.input_ids for case in run.calibration} & {c.input_ids for c in run.cases}
    done = ablate(nano, run)
    means = mean_outputs(nano.model, [case.input_ids for case in run.calibration])
    trial = done.trials[0]
    with ablated(nano.model, trial.heads, means=means):
        assert done.grades[0].tolist() == grades(nano, run)
    assert done.plan["ablation"] == "mean"
    other = planned(nano, tmp_path, ablation="mean", calibration=4)
    assert other.plan.identity["calibration_digest"] != done.plan["calibration_digest"]


def test_means_are_over_needles_that_heads_are_scored_on(nano: LoadedModel, tmp_path: Path) -> None:
    held_out = bundled("needles", "nano/held-out", "r2.jsonl")
    asked = tmp_path / "own.jsonl"
    asked.write_text("".join(held_out.read_text().splitlines(keepends=True)[:4]))
    run = planned(nano, tmp_path / "out", ablation="mean", calibration=3, needles=asked)
    write_table(case_rows(run.calibration), tmp_path / "means" / CASES)
    own = draw_cases(nano, TASKS["r2"].probe, CaseSpec(lengths=(160,), limit=3))
    with pytest.raises(UsageError, match="3 of 48 needles are those"):
        check_held_out(own, [tmp_path / "means"], nano.tokenizer)


def test_walking_without_measures_gives_the_same_answers(nano: LoadedModel, tmp_path: Path) -> None:
    run = planned(nano, tmp_path)
    for task in ("r2", "retrieval"):
        bare = {
            s.case_id: s for s in observe_cases(nano, run.cases, replace(TASKS[task], measures=()))
        }
        for seen in observe_cases(nano, run.cases, TASKS[task]):
            assert bare[seen.case_id].generated_ids == seen.generated_ids
            assert not bare[seen.case_id].scores


def test_cases_are_not_those_that_were_scored(nano: LoadedModel, tmp_path: Path) -> None:
    run = planned(nano, tmp_path, runs=[("a", scored(nano, plan={"seed": 6}))])
    assert run.seed == run.plan.identity["seed"] == 7
    assert "held-out" in str(run.plan.labels["needles"])
    assert planned(nano, tmp_path, seed=3).seed == 3
    both = [("a", scored(nano, plan={"seed": 6})), ("b", scored(nano, plan={"seed": 2}))]
    for seed in (2, 6):
        with refused("drew the cases that were scored", option="seed", value=seed):
            planned(nano, tmp_path, runs=both, seed=seed)


def case_rows(cases: Sequence[Case]) -> pd.DataFrame:
    return pd.DataFrame({"position": c.position, "input_ids": list(c.input_ids)} for c in cases)


def test_needles_that_heads_were_scored_on_are_refused(nano: LoadedModel, tmp_path: Path) -> None:
    own = bundled("needles", "nano", "r2.jsonl")
    spec = CaseSpec(lengths=(160,), limit=3, needles=own)
    drawn = draw_cases(nano, TASKS["r2"].probe, spec)
    write_table(case_rows(drawn.cases), tmp_path / "run" / CASES)
    runs = [(str(tmp_path / "run"), scored(nano))]
    assert planned(nano, tmp_path / "out", runs=runs).cases
    with pytest.raises(UsageError, match=r"3 of 48 needles are those that .*run was scored on"):
        planned(nano, tmp_path / "out", runs=runs, needles=own)


def test_heads_that_several_trials_ablate_are_ablated_once(
    nano: LoadedModel, tmp_path: Path
) -> None:
    both = [("a", scored(nano, "r2", "mass"))]
    run = planned(nano, tmp_path, runs=both)
    alone = planned(nano, tmp_path)
    assert len(run.trials) == 2 * len(alone.trials)
    assert run.groups == alone.groups
    assert run.total == len(run.groups) * 4
    answers: list[int] = []
    done = ablate(nano, run, advance=lambda: answers.append(1))
    assert len(answers) == run.total
    one, other = done.curves()
    assert one.top == other.top
    assert one.area == other.area


def test_the_files_hold_the_curves(whole: tuple[PlannedAblation, Ablation]) -> None:
    run, done = whole
    table = pd.read_csv(run.out / "ablation.csv")
    pd.testing.assert_frame_equal(table, done.table())
    report = json.loads((run.out / "ablation.json").read_text())
    assert report["accuracy"]["value"] == done.accuracy.value
    assert report["plan"]["top"] == [1, 8]
    assert "torch" in report["versions"]


def test_a_stopped_run_goes_on_and_another_metric_only_grades(
    nano: LoadedModel,
    whole: tuple[PlannedAblation, Ablation],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    observed: list[int] = []

    def stop(*arguments: Any, **options: Any) -> Iterator[Any]:
        for n, seen in observe_in_batch(*arguments, **options):
            if len(observed) == 10:
                raise KeyboardInterrupt
            observed.append(seen.case_id)
            yield n, seen

    monkeypatch.setattr(ablating, "observe_in_batch", stop)
    run = planned(nano, tmp_path / "stopped")
    with pytest.raises(Interrupted, match=rf"stopped after 10 of {run.total} answers"):
        ablate(nano, run)
    assert not (tmp_path / "stopped" / "ablation.json").exists()
    monkeypatch.setattr(ablating, "observe_in_batch", observe_in_batch)
    done = ablate(nano, run)
    np.testing.assert_array_equal(done.grades, whole[1].grades)

    def refuse(*_: Any, **options: Any) -> Iterator[Any]:
        assert not options["wanted"]
        yield from ()

    monkeypatch.setattr(ablating, "observe_in_batch", refuse)
    again = ablate(nano, planned(nano, tmp_path / "stopped", metric="f1"))
    assert again.metric == "f1"
    with open_progress(tmp_path / "stopped" / FILE_NAME) as progress:
        units = dict(progress.units())
    said = [units[key].fields["response"] for key in run.keys[()]]
    answers = [[case.answer] for case in run.cases]
    np.testing.assert_array_equal(again.full, [*map(f1, said, answers)])
    with pytest.raises(UsageError, match='ablation was "zero", now "mean"'):
        ablate(nano, planned(nano, tmp_path / "stopped", ablation="mean"))


def test_more_heads_draws_and_cases_go_on_from_fewer(
    nano: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    larger = {"top_k": (1, 4, 8), "random_draws": 3, "limit": 5}
    whole = ablate(nano, planned(nano, tmp_path / "whole", **larger))
    before = planned(nano, tmp_path / "grown")
    ablate(nano, before)
    after = planned(nano, tmp_path / "grown", **larger)
    asked: list[int] = []

    def count(*arguments: Any, **options: Any) -> Iterator[Any]:
        for n, seen in observe_in_batch(*arguments, **options):
            asked.append(seen.case_id)
            yield n, seen

    monkeypatch.setattr(ablating, "observe_in_batch", count)
    grown = ablate(nano, after)
    np.testing.assert_array_equal(grown.grades, whole.grades)
    old, new = ({key for keys in run.keys.values() for key in keys} for run in (before, after))
    assert old < new
    assert len(asked) == len(new - old)


def test_overwriting_starts_over(
    nano: LoadedModel, whole: tuple[PlannedAblation, Ablation], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(whole[0].out, tmp_path / "copy"))
    (out / "ablation.png").write_bytes(b"old")
    done = ablate(nano, planned(nano, out, random_draws=1), overwrite=True)
    assert done.random_draws == 1
    assert not (out / "ablation.png").exists()


def test_the_model_is_as_before_after_an_error_in_the_walk(
    nano: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered = dict(ALL_ATTENTION_FUNCTIONS)

    def fail(*_: Any, **__: Any) -> Iterator[Any]:
        raise KeyError("walk")
        yield

    monkeypatch.setattr(ablating, "observe_in_batch", fail)
    with pytest.raises(KeyError, match="walk"):
        ablate(nano, planned(nano, tmp_path))
    assert dict(ALL_ATTENTION_FUNCTIONS) == registered


def test_a_model_that_answers_nothing_has_nothing_to_lose(
    nano: LoadedModel, tmp_path: Path
) -> None:
    lost = replace(nano, model=cut(nano.model, tuple((4, head) for head in range(8))))
    with pytest.raises(
        HeadprobeError, match=r"answers none of 4 cases \(.*\), so there is nothing"
    ):
        ablate(lost, planned(nano, tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": (25,)}, "top_k=25: .* 48 heads; expected at most 24"),
        ({"measures": ("locos",)}, "no run given holds the measure 'locos'"),
        ({"lengths": (4000,)}, "lengths=4000: .* do not fit the model's max context"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    nano: LoadedModel, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        planned(nano, tmp_path, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ablation": "half"}, "expected an ablation by zero or mean, got 'half'"),
        ({"metric": "rouge"}, "expected a metric of .*, got 'rouge'"),
        ({"top_k": (2, 1)}, "expected ascending numbers of heads"),
        ({"random_draws": 0}, "expected draws of 1 or more, got 0"),
    ],
)
def test_what_a_caller_got_wrong_is_a_value_error(
    nano: LoadedModel, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        planned(nano, tmp_path, **options)


def test_the_task_is_the_first_run_s_that_asks(nano: LoadedModel, tmp_path: Path) -> None:
    weights = ("w", scored(nano, task="alibi", plan={}))
    copying = ("c", scored(nano, task="retrieval"))
    assert planned(nano, tmp_path, runs=[weights, copying]).task_name == "retrieval"
    assert planned(nano, tmp_path, runs=[weights]).task_name == "r2"
    assert planned(nano, tmp_path, runs=[copying], task=TASKS["r2"]).task_name == "r2"
