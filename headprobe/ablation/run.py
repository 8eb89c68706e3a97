"""Carry out a planned ablation: answer with heads ablated, grade, write the directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from headprobe.ablation.ablated import MeanOutputs, ablated, mean_outputs
from headprobe.ablation.curves import Ablation
from headprobe.ablation.plan import PlannedAblation
from headprobe.attention.finite import check_model
from headprobe.errors import HeadprobeError, out_of_memory
from headprobe.models.layout import Head
from headprobe.prompts.case import Case
from headprobe.runs.case_runner import observe_in_batch, why_not_packed
from headprobe.runs.engine import run_job
from headprobe.runs.failures import advice, count_failures, describe_failures
from headprobe.runs.job import Job, Work
from headprobe.runs.observation import Observation, decode, encode
from headprobe.runs.payload import Payload
from headprobe.runs.result_files import ResultFiles
from headprobe.scores.tables import write_table
from headprobe.tasks.grading import METRICS, PASSED

if TYPE_CHECKING:
    from headprobe.models.loading import LoadedModel

TABLE, REPORT, PICTURE = "ablation.csv", "ablation.json", "ablation.png"

Draw = Callable[[Ablation, Path], None]
_Answers = Mapping[str, Observation]


def ablate(
    loaded: LoadedModel,
    run: PlannedAblation,
    *,
    overwrite: bool = False,
    advance: Callable[[], None] = lambda: None,
    draw: Draw | None = None,
) -> Ablation:
    """Let the model answer with each group of heads ablated, and write the loss of accuracy.

    Answers are kept as they come, so a run that is stopped goes on. ``advance`` is called once an
    answer, answers of an earlier start included. ``draw`` makes a picture of the ablation.

    Raises:
        UsageError: the directory holds another ablation, and ``overwrite`` is not set.
        Interrupted: Ctrl-C; the same call goes on from there.
        HeadprobeError: the model answers nothing as it is.
    """
    ablator = _Ablator(loaded, run)
    work = Work(
        name="answers",
        keys=[key for keys in run.keys.values() for key in keys],
        do=ablator.answer,
        encode=encode,
        decode=_decode,
        rounds=[run.keys[()], [key for heads in run.groups[1:] for key in run.keys[heads]]],
        is_enough=ablator.check_full,
    )
    job = Job(
        out=run.out,
        plan=run.plan,
        work=work,
        finish=partial(ablator.finish, draw),
        report=REPORT,
        seal=REPORT,
    )
    result = run_job(job, overwrite=overwrite, advance=advance)
    assert result is not None, "one process has the result"
    return result


def _decode(key: str, payload: Payload) -> Observation:
    return decode(payload, case_id=0, measures=(), shape=(0, 0))


class _Ablator:
    """A model whose heads are ablated, and the cases that it answers."""

    def __init__(self, loaded: LoadedModel, run: PlannedAblation) -> None:
        self._loaded = loaded
        self._run = run
        self._full: dict[int, Sequence[int]] = {}

    def answer(self, wanted: Set[str]) -> Iterator[tuple[str, Observation]]:
        """Answer cases with heads ablated, several groups of heads in one batch."""
        run = self._run
        if wanted:
            check_model(self._loaded, run.cases[0].input_ids)
        size = run.sequences if self._packed else 1
        for asked, left in self._by_cases(wanted).items():
            for start in range(0, len(left), size):
                groups = left[start : start + size]
                means = self._means if any(groups) else None
                with ablated(self._loaded.model, *groups, means=means):
                    for n, seen in self._answers(len(groups), asked):
                        yield run.keys[groups[n]][seen.case_id], seen

    def _by_cases(self, wanted: Set[str]) -> dict[frozenset[int], list[tuple[Head, ...]]]:
        """Return the groups of heads whose answers are wanted, by the cases to ask them."""
        found: dict[frozenset[int], list[tuple[Head, ...]]] = {}
        for heads, keys in self._run.keys.items():
            # Of cases that are alike the first is asked.
            first = {key: case_id for case_id, key in reversed([*enumerate(keys)])}
            asked = frozenset(first[key] for key in wanted & first.keys())
            if asked:
                found.setdefault(asked, []).append(heads)
        return found

    def _answers(self, sequences: int, wanted: Set[int]) -> Iterator[tuple[int, Observation]]:
        """Let the model answer cases in every sequence of a batch, or in one sequence."""
        return observe_in_batch(
            self._loaded,
            self._run.cases,
            self._run.task,
            wanted=wanted,
            tree=self._run.tree,
            chunk_sizes=self._run.chunk_sizes,
            packed=self._packed,
            sequences=sequences,
            similar=self._full,
        )

    def check_full(self, done: _Answers) -> bool:
        """Take the answers of the model as it is as drafts of all others; never stop early.

        Raises:
            HeadprobeError: the model answers nothing as it is.
        """
        run = self._run
        self._full = {n: done[key].generated_ids for n, key in enumerate(run.keys[()])}
        if not any(map(self._grade, run.cases, (done[key] for key in run.keys[()]))):
            said = [replace(done[key], case_id=n) for n, key in enumerate(run.keys[()])]
            failed = count_failures(run.cases, said, run.task.probe)
            raise HeadprobeError(
                f"the model answers none of {len(run.cases)} cases "
                f"({describe_failures(failed)}), so there is nothing to lose: {advice(failed)}"
            )
        return False

    def finish(self, draw: Draw | None, done: _Answers, files: ResultFiles) -> Ablation:
        """Grade the answers and write the files."""
        run = self._run
        grades = {
            heads: np.array([*map(self._grade, run.cases, (done[key] for key in keys))])
            for heads, keys in run.keys.items()
        }
        result = Ablation(
            layout=self._loaded.layout,
            task=run.task_name,
            metric=run.metric,
            needles=tuple(case.needle_id for case in run.cases),
            full=grades[()],
            trials=run.trials,
            grades=np.stack([grades[trial.group] for trial in run.trials]),
            plan=run.plan.to_json(),
            seed=run.seed,
        )
        files.write(TABLE, partial(write_table, result.table()))
        if draw is not None:
            files.write(PICTURE, partial(draw, result))
        files.write_report(**result.to_json())
        return result

    @cached_property
    def _packed(self) -> bool:
        """True if the model runs prompts that share a path together."""
        return why_not_packed(self._loaded, self._run.cases, self._run.task) is None

    @cached_property
    def _means(self) -> MeanOutputs | None:
        """The mean output of every head; ``None`` where heads are ablated by zero."""
        prompts = [case.input_ids for case in self._run.calibration]
        if not prompts:
            return None
        try:
            return mean_outputs(
                self._loaded.model, prompts, prefill_chunk=self._run.chunk_sizes.prefill_chunk
            )
        except torch.OutOfMemoryError as error:
            raise out_of_memory(error, tokens=max(map(len, prompts))) from error

    def _grade(self, case: Case, seen: Observation) -> float:
        if self._run.metric == PASSED:
            return 100.0 * seen.passed
        return METRICS[self._run.metric](seen.response, [case.answer])
