"""Carry out a planned evaluation: keep answers as they come, grade them, write the directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from functools import partial
from pathlib import Path

from headprobe.attention.finite import check_model
from headprobe.evaluation.answering import Answers, answer, graded
from headprobe.evaluation.plan import PlannedEvaluation
from headprobe.evaluation.questions import Question
from headprobe.evaluation.results import (
    ANSWERS,
    PICTURE,
    REPORT,
    RESULTS,
    Evaluation,
    MethodResult,
    result_table,
)
from headprobe.models.loading import LoadedModel
from headprobe.runs.engine import run_job
from headprobe.runs.job import Job, Work
from headprobe.runs.payload import Payload, UnreadablePayload
from headprobe.runs.result_files import ResultFiles
from headprobe.scores.tables import write_table

Draw = Callable[[Sequence[MethodResult], Path], None]
_Settings = Mapping[str, Answers]


def run_evaluation(
    loaded: LoadedModel,
    planned: PlannedEvaluation,
    *,
    overwrite: bool = False,
    advance: Callable[[], None] = lambda: None,
    draw: Draw | None = None,
) -> Evaluation:
    """Ask all planned questions and write the directory; call ``advance`` once a question.

    Answers are kept as they come, so an evaluation that is stopped goes on. ``draw`` makes a
    picture of the results. The answers are returned with their grades.

    Raises:
        UsageError: the directory holds another evaluation, and ``overwrite`` is not set.
        Interrupted: Ctrl-C; the same call goes on from there.
        HeadprobeError: the model's cache cannot be compressed, a prompt does not fit into memory,
            another process is at work there, or a file cannot be written.
    """
    rows = 1 + len(planned.methods)
    work = Work(
        name="questions",
        keys=planned.keys,
        do=partial(_answer, loaded, planned),
        encode=_encode,
        decode=partial(_decode, rows, planned.settings),
    )
    job = Job(
        out=planned.out,
        plan=planned.plan,
        work=work,
        finish=partial(_finish, planned, draw),
        report=REPORT,
        seal=REPORT,
    )
    found = run_job(job, overwrite=overwrite, advance=advance)
    assert found is not None, "one process has the result"
    return found


def _answer(
    loaded: LoadedModel, planned: PlannedEvaluation, wanted: Set[str]
) -> Iterator[tuple[str, _Settings]]:
    """Answer the questions of the ``wanted`` keys; where questions share a key, the first.

    Questions about one context follow one another, so that it is read once.
    """
    places = {one.context_ids: number for number, one in enumerate(planned.questions)}
    pairs = [*zip(planned.keys, planned.questions, strict=True)]
    pairs.sort(key=lambda pair: places[pair[1].context_ids])
    left: dict[str, Question] = {}
    for key, question in pairs:
        if key in wanted:
            left.setdefault(key, question)
    if left:
        check_model(loaded, planned.questions[0].context_ids)
    new = answer(loaded, left.values(), planned.methods, settings=planned.settings)
    yield from zip(left, new, strict=True)


def _encode(answered: _Settings) -> Payload:
    return Payload(
        fields={setting: list(answers.responses) for setting, answers in answered.items()},
        arrays={setting: answers.fractions for setting, answers in answered.items()},
    )


def _decode(rows: int, settings: Sequence[str], key: str, payload: Payload) -> _Settings:
    answered = {
        setting: Answers(
            fractions=payload.array(setting, (rows,)), responses=payload.field(setting)
        )
        for setting in settings
    }
    for answers in answered.values():
        if len(answers.responses) != rows:
            raise UnreadablePayload(f"expected {rows} answers, got {len(answers.responses)}")
        if not all(isinstance(said, str) for said in answers.responses):
            raise UnreadablePayload("expected texts as answers")
        if not ((answers.fractions >= 0) & (answers.fractions <= 1)).all():
            raise UnreadablePayload("expected fractions from 0 to 1")
    return answered


def _finish(
    planned: PlannedEvaluation,
    draw: Draw | None,
    done: Mapping[str, _Settings],
    files: ResultFiles,
) -> Evaluation:
    answered = [done[key] for key in planned.keys]
    found = graded(planned.questions, planned.methods, answered)
    results = planned.results(found)
    files.write(ANSWERS, partial(write_table, found.answer_table()))
    files.write(RESULTS, partial(write_table, result_table(results)))
    if draw is not None:
        files.write(PICTURE, partial(draw, results))
    files.write_report(**planned.report(found))
    return found
