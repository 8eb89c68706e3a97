"""Try a file on its reader, and say what became of it."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from headprobe.cli.wording import worded
from headprobe.errors import HeadprobeError, HeadprobeWarning

Outcome = Literal["read", "refused", "else"]
LONGEST_LINE = 1000

ANYTHING = object()
"""The truth of a file whose damage a reader cannot see: what it reads is as good as any."""


@dataclass(frozen=True, kw_only=True)
class Input:
    """A file, or the name of a source; ``damage`` says what was done to it, if anything.

    ``truth`` is what a reader has to find in it, ``None`` where it has to be refused. A file
    without damage has to be read; with damage it may be refused instead.
    """

    source: Path | str
    truth: Any
    damage: str = ""


@dataclass(frozen=True, kw_only=True)
class Family:
    """A kind of file.

    ``make`` draws one into a folder, good or damaged; ``read`` reads it as a user would, into what
    can be compared with its truth.
    """

    make: Callable[[random.Random, Path], Input]
    read: Callable[[Path | str], Any]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What became of an input, and what was seen."""

    outcome: Outcome
    input: Input
    seen: str


def attempt(family: Family, one: Input) -> Trial:
    """Read an input: rightly, or with one clear line; all else is a fault."""
    try:
        with warnings.catch_warnings(action="error"):
            warnings.simplefilter("ignore", HeadprobeWarning)
            found = family.read(one.source)
    except HeadprobeError as error:
        line = worded(error)
        is_clear = line.isprintable() and 10 < len(line) < LONGEST_LINE
        refused = bool(one.damage) and is_clear
        return Trial(outcome="refused" if refused else "else", input=one, seen=line)
    except (Exception, RecursionError) as error:
        return Trial(outcome="else", input=one, seen=f"{type(error).__name__}: {error}")
    right = one.truth is ANYTHING or (one.truth is not None and found == one.truth)
    return Trial(outcome="read" if right else "else", input=one, seen=f"read {found!r:.300}")


def trials(family: Family, folder: Path, *, count: int, seed: int) -> list[Trial]:
    """Try ``count`` inputs of a family, each drawn by its own seed into its own folder."""
    found = []
    for number in range(count):
        own = folder / str(number)
        own.mkdir()
        found.append(attempt(family, family.make(random.Random(f"{seed} {number}"), own)))
    return found
