"""The specification of the cases to draw, checked before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from headprobe.models.aliases import NANO

CASES_BY_DEFAULT = 200
CORPORA = ("english", "chinese", NANO)
"""The names of bundled sets of needles, given in the place of a file of needles."""


@dataclass(frozen=True, kw_only=True)
class CaseSpec:
    """The cases to draw; the defaults fit the model.

    ``lengths`` are tokens of whole prompts, ascending; left out, ten up to 10,000 or what the model
    allows. ``depths`` are needle places in per cent of the haystack, ascending; left out,
    ten evenly from 0 to 100. ``needles`` is a file or one of ``CORPORA``, ``haystack`` the name of
    a source; left out, the bundled ones. ``text`` is the source of natural text that is only read,
    ``questions`` that of documents with questions about them, a file or a data set of the hub.
    ``limit`` is the most cases, balanced over needles,
    lengths and depths; ``None`` draws all. ``seed`` seeds all draws; left out, it is 0, or a seed
    with which the scored cases were not drawn.
    """

    lengths: tuple[int, ...] | None = None
    depths: tuple[float, ...] | None = None
    needles: Path | None = None
    haystack: str | None = None
    text: str | None = None
    questions: str | None = None
    limit: int | None = CASES_BY_DEFAULT
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("lengths", "depths"):
            values = getattr(self, name)
            if values is not None and (not values or sorted(set(values)) != list(values)):
                raise ValueError(f"expected ascending {name}, got {values}")
        if self.lengths is not None and self.lengths[0] < 1:
            raise ValueError(f"expected lengths of 1 or more, got {self.lengths[0]}")
        if self.depths is not None and not 0 <= self.depths[0] <= self.depths[-1] <= 100:
            raise ValueError(f"expected depths from 0 to 100, got {self.depths}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"expected a limit of 1 or more, got {self.limit}")
