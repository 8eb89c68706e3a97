"""A task's cases for a model: drawn from its needles, or made to be only read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headprobe.errors import UsageError
from headprobe.models.aliases import NANO
from headprobe.models.bundled import bundled
from headprobe.prompts.build import hide_needles, tokenize_needle
from headprobe.prompts.case import Case
from headprobe.prompts.grid import parse_depths, parse_lengths
from headprobe.prompts.haystacks import NOISE, sentences
from headprobe.prompts.needles import Needle, language_of, read_needles
from headprobe.prompts.sampling import balanced_order
from headprobe.prompts.style import PromptOptions, PromptWriter, describe_options
from headprobe.tasks import Probe

if TYPE_CHECKING:
    from headprobe.models.loading import LoadedModel


ANSWER_RESERVE = 64
HELD_OUT = "held-out"
CORPORA = ("english", "chinese", NANO)
"""Sets of bundled needles, by the names that ``--needles`` takes."""


@dataclass(frozen=True, eq=False, kw_only=True)
class DrawnCases:
    """A task's cases, of ``possible`` on the whole grid, and the ``options`` that made them.

    ``needles`` are all that there were to draw from; a case's ``needle_id`` is an index of theirs.
    ``haystack`` is where the prose is from. ``writer`` has framed the prompts, where anything is
    asked.
    """

    cases: Sequence[Case]
    needles: Sequence[Needle]
    possible: int
    options: Mapping[str, Any]
    haystack: str = ""
    writer: PromptWriter | None = None


def draw_cases(
    loaded: LoadedModel,
    probe: Probe,
    *,
    lengths: str | None = None,
    depths: str | None = None,
    needles: Path | None = None,
    haystack: str | None = None,
    limit: int | None = 200,
    seed: int = 0,
    held_out: bool = False,
    answer_reserve: int = ANSWER_RESERVE,
    prompt: PromptOptions | None = None,
) -> DrawnCases:
    """A probe's cases for a model: lengths up to its window, the bundled text that it can read.

    ``needles`` is a file or one of ``CORPORA``, by default ``nano`` for nano and else ``english``;
    of a corpus, ``held_out`` takes the needles that no heads are scored on. Without a ``haystack``
    the needles stand in the bundled essays of their language, nano's in noise.
    ``answer_reserve`` is what prompts leave of the model's window, in tokens.
    As long as the style of ``prompt`` is not decided, a chat model is asked in its user's turn.

    Raises:
        UsageError: an option that makes no sense, or a file that is not there or not usable.
    """
    if probe.draw is not None:
        for option, given in (("depths", depths), ("needles", needles), ("haystack", haystack)):
            if given is not None:
                message = "this task hides no needles: leave it out"
                raise UsageError(message, option=option, value=given)
        if prompt is not None and prompt != PromptOptions():
            raise UsageError("this task asks nothing: leave it out", option="prompt")
        return _draw_read(loaded, probe.draw, lengths=lengths, limit=limit, seed=seed)
    corpus = bundled_corpus(needles)
    default = NANO if loaded.name == NANO else "english"
    if needles is None or corpus:
        own = f"{corpus or default}/{HELD_OUT}" if held_out else corpus or default
        told = read_needles(bundled("needles", own, probe.needles))
        origin = f"bundled {own}"
    else:
        if not needles.exists():
            raise UsageError(
                f"no needle file {needles}; bundled needles are named {', '.join(CORPORA)}",
                option="needles",
                path=needles,
            )
        told = read_needles(needles)
        origin = str(needles)
    prose = NANO if (corpus or default) == NANO else language_of(told)
    source = haystack or (NOISE if prose == NANO else str(bundled("haystack", prose)))
    wanted_depths = parse_depths(depths)
    longest = longest_prompt(loaded.max_context, answer_reserve=answer_reserve)
    prompt = prompt or PromptOptions()
    writer = prompt_writer(loaded, probe, told, prompt)
    least = 1
    if lengths is None:
        least = max(tokenize_needle(needle, writer).size for needle in told)
    wanted_lengths = parse_lengths(lengths, longest=longest, least=least)
    cases = hide_needles(
        told,
        sentences=sentences(source, seed=seed),
        writer=writer,
        lengths=wanted_lengths,
        depths=wanted_depths,
        limit=limit,
        seed=seed,
    )
    end = max(case.length + probe.max_new_tokens(case) for case in cases)
    if loaded.max_context is not None and end > loaded.max_context:
        raise UsageError(
            f"a prompt and its answer take {end} tokens, the model's window holds "
            f"{loaded.max_context}: try shorter `lengths`"
        )
    return DrawnCases(
        cases=cases,
        needles=told,
        possible=len(told) * len(wanted_lengths) * len(wanted_depths),
        options={
            "lengths": wanted_lengths,
            "depths": wanted_depths,
            "needles": origin,
            "haystack": haystack or f"bundled {prose}",
            "limit": limit,
            "seed": seed,
            "prompt_style": writer.style,
            **describe_options(prompt, loaded.tokenizer),
            "prompts": _digest(cases),
        },
        haystack=source,
        writer=writer,
    )


def bundled_corpus(needles: Path | None) -> str | None:
    """The one of ``CORPORA`` that ``--needles`` names; ``None`` where it names a file."""
    return str(needles) if str(needles) in CORPORA else None


def prompt_writer(
    loaded: LoadedModel, probe: Probe, needles: Sequence[Needle], prompt: PromptOptions
) -> PromptWriter:
    """What frames a probe's prompts; worked examples are of the needles' language."""
    examples: list[Needle] = []
    if prompt.style == "shots":
        corpus = NANO if loaded.name == NANO else language_of(needles)
        examples = read_needles(bundled("needles", corpus, "shots", probe.needles))
    return PromptWriter(
        loaded.tokenizer,
        style=None if prompt.style == "auto" else prompt.style,
        answer_prefix=prompt.answer_prefix,
        examples=examples,
    )


def _draw_read(
    loaded: LoadedModel,
    draw: Callable[..., list[Case]],
    *,
    lengths: str | None,
    limit: int | None,
    seed: int,
) -> DrawnCases:
    """Cases that are only read: they may fill the window, nothing is kept free for an answer."""
    every = draw(
        loaded.tokenizer,
        lengths=None if lengths is None else parse_lengths(lengths, longest=loaded.max_context),
        max_context=loaded.max_context,
        seed=seed,
    )
    kept = sorted(case.case_id for case in balanced_order(every, seed)[:limit])
    cases = [replace(every[old], case_id=new) for new, old in enumerate(kept)]
    return DrawnCases(
        cases=cases,
        needles=(),
        possible=len(every),
        options={
            "lengths": sorted({case.length for case in every}),
            "limit": limit,
            "seed": seed,
            "prompts": _digest(cases),
        },
    )


def longest_prompt(max_context: int | None, *, answer_reserve: int = ANSWER_RESERVE) -> int | None:
    """Tokens of the longest prompt that leaves room for an answer; ``None`` for any length."""
    return None if max_context is None else max(1, max_context - answer_reserve)


def _digest(cases: Sequence[Case]) -> str:
    digest = hashlib.sha256()
    for case in cases:
        ids = [case.needle_id, case.span_start, case.span_end, *case.input_ids, *case.answer_ids]
        digest.update(np.array(ids, dtype="<i8").tobytes())
    return digest.hexdigest()[:16]
