"""A case: one prompt with a known answer and known watched tokens."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from headprobe.files import json_digest


@dataclass(frozen=True, kw_only=True)
class QuestionSpan:
    """The place of the question in a prompt: tokens ``start`` to ``end``, half open.

    ``blank_ids`` are the tokens that replace the question where nothing is asked: "N/A".
    """

    start: int
    end: int
    blank_ids: tuple[int, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Case:
    """One prompt with a known answer.

    ``length`` counts the tokens of the whole prompt, special tokens included; ``depth`` is the
    needle's place in per cent of the haystack, ``position`` the token index of its first token.
    ``span_start`` and ``span_end`` (half open) bound the watched tokens. ``answer_ids`` are the
    tokens of ``answer`` as the model would write it; ``wrong_answer`` is an answer that a response
    must not name. ``kind`` is the needle's kind. ``question`` is the place of the question, after
    the span, if the prompt asks one.
    """

    case_id: int
    needle_id: int
    length: int
    depth: float
    position: int
    input_ids: tuple[int, ...]
    span_start: int
    span_end: int
    answer: str
    answer_ids: tuple[int, ...]
    wrong_answer: str | None = None
    kind: str | None = None
    question: QuestionSpan | None = None

    def __post_init__(self) -> None:
        if len(self.input_ids) != self.length:
            raise ValueError(f"expected {self.length} tokens, got {len(self.input_ids)}")
        if not 0 <= self.position <= self.span_start < self.span_end <= self.length:
            raise ValueError(
                f"expected a span inside the prompt, got {self.span_start} to {self.span_end}"
            )
        asked = self.question
        if asked and not self.span_end <= asked.start < asked.end < self.length:
            raise ValueError(
                f"expected a question between span and end, got {asked.start} to {asked.end}"
            )

    @property
    def span(self) -> slice:
        """The watched tokens as a slice of the prompt."""
        return slice(self.span_start, self.span_end)


# Fields that number a case or place it in a grid, and fields that follow from the whole prompt.
_ASIDE = ("case_id", "needle_id", "length", "depth", "kind")


def case_key(case: Case) -> str:
    """Return a digest of all that decides an observation: prompt, watched span, question, answer.

    Cases with one key give the same observation, whatever their numbers and their grid.
    """
    kept = {f.name: getattr(case, f.name) for f in fields(case) if f.name not in _ASIDE}
    if case.question is not None:
        kept["question"] = asdict(case.question)
    return json_digest(kept)
