"""An evaluation from its plan to its directory: answers kept as they come, then graded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from headprobe.errors import Interrupted
from headprobe.evaluation.answering import Answers, answer, graded
from headprobe.evaluation.outcomes import (
    ANSWERS,
    PICTURE,
    REPORT,
    RESULTS,
    SETTINGS,
    Outcome,
    write,
)
from headprobe.evaluation.plan import PlannedEvaluation
from headprobe.files import make_directory
from headprobe.models.loading import LoadedModel
from headprobe.plots import draw_evaluation, save
from headprobe.runs.directory import remove
from headprobe.runs.progress import Journal, Observation, open_journal

JOURNAL = "evaluation.sqlite"


def run_evaluation(
    loaded: LoadedModel,
    planned: PlannedEvaluation,
    *,
    fresh: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> list[Outcome]:
    """Ask everything and write the directory; ``advance`` is called once a question.

    Answers are kept as they come, so an evaluation that is stopped goes on.

    Raises:
        UsageError: the directory holds an evaluation with another plan, and ``fresh`` is not set.
        Interrupted: Ctrl-C; the same call goes on from there.
        HeadprobeError: the model's cache cannot be cut, a prompt does not fit into memory, another
            process is at work there, or a file cannot be written.
    """
    make_directory(planned.out)
    if fresh:
        files = [planned.out / name for name in (ANSWERS, RESULTS, REPORT, PICTURE)]
        remove([planned.out / JOURNAL], files)
    with open_journal(planned.out / JOURNAL, planned.plan) as journal:
        answered = _answer(loaded, planned, journal, advance=advance)
        found = graded(planned.questions, planned.contenders, answered)
        outcomes = found.outcomes(metric=planned.metric, seed=planned.seed)
        write(found, outcomes, planned.out, report=planned.report(outcomes))
        picture = draw_evaluation(outcomes, metric=planned.metric, subject=planned.subject)
        save(picture, planned.out / PICTURE)
    return outcomes


def _answer(
    loaded: LoadedModel,
    planned: PlannedEvaluation,
    journal: Journal,
    *,
    advance: Callable[[], None],
) -> list[dict[str, Answers]]:
    """The answers to all questions, those of the journal and those that it lacks."""
    rows = 1 + len(planned.contenders)
    a_question = rows * len(SETTINGS)
    done = journal.observed()
    left = [place for place in range(len(planned.questions)) if place * a_question not in done]
    for _ in range(len(planned.questions) - len(left)):
        advance()
    try:
        new = answer(loaded, [planned.questions[place] for place in left], planned.contenders)
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
        (share, response)
        for setting in SETTINGS
        for share, response in zip(answers[setting].shares, answers[setting].responses, strict=True)
    ]
    return [
        Observation(
            case_id=first + number,
            generated_ids=(),
            response=response,
            success=0.0,
            scores={"share": np.array([[share]])},
        )
        for number, (share, response) in enumerate(pairs)
    ]


def _answers(seen: Sequence[Observation]) -> Answers:
    return Answers(
        shares=np.array([float(one.scores["share"][0, 0]) for one in seen]),
        responses=[one.response for one in seen],
    )
