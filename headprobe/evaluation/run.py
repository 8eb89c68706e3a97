"""An evaluation from its plan to its directory: answers kept as they come, then graded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from headprobe.errors import Interrupted
from headprobe.evaluation.answering import Answers, answer, graded
from headprobe.evaluation.plan import JOURNAL, PlannedEvaluation
from headprobe.evaluation.results import (
    ANSWERS,
    PICTURE,
    REPORT,
    RESULTS,
    SETTINGS,
    MethodResult,
    write,
)
from headprobe.files import make_directory
from headprobe.models.loading import LoadedModel
from headprobe.runs.directory import remove
from headprobe.runs.progress import Journal, Observation, open_journal


def run_evaluation(
    loaded: LoadedModel,
    planned: PlannedEvaluation,
    *,
    overwrite: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> list[MethodResult]:
    """Ask everything and write the directory; ``advance`` is called once a question.

    Answers are kept as they come, so an evaluation that is stopped goes on.

    Raises:
        UsageError: the directory holds an evaluation with another plan, and ``overwrite`` is not
            set.
        Interrupted: Ctrl-C; the same call goes on from there.
        HeadprobeError: the model's cache cannot be cut, a prompt does not fit into memory, another
            process is at work there, or a file cannot be written.
    """
    make_directory(planned.out)
    if overwrite:
        files = [planned.out / name for name in (ANSWERS, RESULTS, REPORT, PICTURE)]
        remove([planned.out / JOURNAL], files)
    with open_journal(planned.out / JOURNAL, planned.plan) as journal:
        answered = _answer(loaded, planned, journal, advance=advance)
        found = graded(planned.questions, planned.methods, answered)
        results = found.results(metric=planned.metric, seed=planned.seed)
        write(found, results, planned.out, report=planned.report(results))
    return results


def _answer(
    loaded: LoadedModel,
    planned: PlannedEvaluation,
    journal: Journal,
    *,
    advance: Callable[[], None],
) -> list[dict[str, Answers]]:
    """The answers to all questions, those of the journal and those that it lacks."""
    rows = 1 + len(planned.methods)
    a_question = rows * len(SETTINGS)
    done = journal.observed()
    left = [place for place in range(len(planned.questions)) if place * a_question not in done]
    for _ in range(len(planned.questions) - len(left)):
        advance()
    try:
        new = answer(loaded, [planned.questions[place] for place in left], planned.methods)
        for place, answers in zip(left, new, strict=True):
            journal.add(*_observations(answers, first=place * a_question))
            advance()
    except KeyboardInterrupt:
        reached = len(journal.observed()) // a_question
        raise Interrupted(
            f"stopped after {reached} of {len(planned.questions)} questions; "
            "the same command goes on"
        ) from None
    seen = [*journal.observations()]
    return [
        {
            setting: _answers(seen[first + number * rows : first + (number + 1) * rows])
            for number, setting in enumerate(SETTINGS)
        }
        for first in range(0, len(seen), a_question)
    ]


def _observations(answers: Mapping[str, Answers], *, first: int) -> list[Observation]:
    """Answers to one question as a journal holds them, numbered from ``first``.

    They are graded when all are there, so a grade is not written.
    """
    pairs = [
        (fraction, response)
        for setting in SETTINGS
        for fraction, response in zip(
            answers[setting].fractions, answers[setting].responses, strict=True
        )
    ]
    return [
        Observation(
            case_id=first + number,
            generated_ids=(),
            step_start=0,
            step_end=0,
            response=response,
            score=0.0,
            scores={"fraction": np.array([[fraction]])},
        )
        for number, (fraction, response) in enumerate(pairs)
    ]


def _answers(seen: Sequence[Observation]) -> Answers:
    return Answers(
        fractions=np.array([float(one.scores["fraction"][0, 0]) for one in seen]),
        responses=[one.response for one in seen],
    )
