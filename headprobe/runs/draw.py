"""Draw a task's cases for a model, from needles or from random tokens."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headprobe.errors import UsageError
from headprobe.files import json_digest
from headprobe.models.aliases import NANO
from headprobe.models.bundled import bundled
from headprobe.prompts.build import hide_needles, tokenize_needle
from headprobe.prompts.case import Case
from headprobe.prompts.grid import DEPTHS_BY_DEFAULT, choose_lengths
from headprobe.prompts.haystacks import NOISE, sentences
from headprobe.prompts.needles import Needle, language_of, read_needles
from headprobe.prompts.sampling import balanced_order
from headprobe.prompts.spec import CORPORA, CaseSpec
from headprobe.prompts.style import PromptOptions, PromptWriter, describe_options
from headprobe.runs.identity import Plan
from headprobe.tasks import Probe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from headprobe.models.loading import LoadedModel


ANSWER_RESERVE = 64
HELD_OUT = "held-out"
# The number of first sentences whose digest identifies a haystack.
_PEEKED = 32


@dataclass(frozen=True, eq=False, kw_only=True)
class DrawnCases:
    """A task's cases, and the ``plan`` that made them.

    ``possible`` counts the cases of the whole grid. ``needles`` are all needles that cases were
    drawn from; a case's ``needle_id`` is an index of them. Under a plan of the same identity a
    larger ``limit`` draws the same cases and more. ``haystack`` is the source of the prose.
    ``writer`` framed the prompts, if anything is asked.
    """

    cases: Sequence[Case]
    needles: Sequence[Needle]
    possible: int
    plan: Plan
    haystack: str = ""
    writer: PromptWriter | None = None


def draw_cases(
    loaded: LoadedModel,
    probe: Probe,
    spec: CaseSpec,
    *,
    held_out: bool = False,
    answer_reserve: int = ANSWER_RESERVE,
    prompt: PromptOptions | None = None,
) -> DrawnCases:
    """Draw a probe's cases for a model, with defaults that fit its context and its language.

    The default needles are corpus ``nano`` for the nano model, else ``english``. The default
    haystack is the bundled essays of the needles' language, for nano noise. As long as the style of
    ``prompt`` is not decided, a chat model is asked in the user's turn.

    Args:
        loaded: the model.
        probe: the kind of cases.
        spec: the cases that are wanted.
        held_out: take the needles of a corpus on which no heads are scored.
        answer_reserve: the tokens of the model's context that prompts leave free.
        prompt: the form of prompts.

    Raises:
        UsageError: an option does not apply, or a file is missing or unusable.
    """
    if probe.draw is not None:
        for option in ("depths", "needles", "haystack"):
            if getattr(spec, option) is not None:
                message = "this task hides no needles: leave it out"
                raise UsageError(message, option=option, value=getattr(spec, option))
        if prompt is not None and prompt != PromptOptions():
            raise UsageError("this task asks nothing: leave it out", option="prompt")
        if probe.reads_text:
            return _draw_texts(loaded, probe.draw, spec)
        _refuse_text(spec)
        return _draw_read(loaded, probe.draw, spec)
    _refuse_text(spec)
    seed = spec.seed or 0
    default = NANO if loaded.name == NANO else "english"
    corpus = bundled_corpus(spec.needles)
    if spec.needles is None or corpus:
        own = f"{corpus or default}/{HELD_OUT}" if held_out else corpus or default
        told, origin = read_needles(bundled("needles", own, probe.needles)), f"bundled {own}"
    else:
        told, origin = _read_needles(spec.needles), str(spec.needles)
    told_in = language_of(" ".join(needle.text for needle in told))
    prose = NANO if (corpus or default) == NANO else told_in
    source = spec.haystack or (NOISE if prose == NANO else str(bundled("haystack", prose)))
    depths = spec.depths or DEPTHS_BY_DEFAULT
    longest = longest_prompt(loaded.max_context, answer_reserve=answer_reserve)
    prompt = prompt or PromptOptions()
    writer = prompt_writer(loaded, probe, told, prompt)
    least = 1
    if spec.lengths is None:
        least = max(tokenize_needle(needle, writer).size for needle in told)
    lengths = choose_lengths(spec.lengths, longest=longest, least=least)
    haystack_digest, drawn = _peek(sentences(source, seed=seed))
    cases = hide_needles(
        told,
        sentences=drawn,
        writer=writer,
        lengths=lengths,
        depths=depths,
        limit=spec.limit,
        seed=seed,
    )
    end = max(case.length + probe.max_new_tokens(case) for case in cases)
    if loaded.max_context is not None and end > loaded.max_context:
        raise UsageError(
            f"a prompt and its answer take {end} tokens, the model takes {loaded.max_context}: "
            "try shorter `lengths`"
        )
    return DrawnCases(
        cases=cases,
        needles=told,
        possible=len(told) * len(lengths) * len(depths),
        plan=Plan(
            identity={
                "lengths": lengths,
                "depths": list(depths),
                "needles_digest": json_digest([asdict(needle) for needle in told]),
                "haystack_digest": haystack_digest,
                "prompt_style": writer.style,
                **describe_options(prompt, loaded.tokenizer, language=told_in),
                "seed": seed,
            },
            labels={
                "needles": origin,
                "haystack": spec.haystack or f"bundled {prose}",
                "limit": spec.limit,
            },
        ),
        haystack=source,
        writer=writer,
    )


def _read_needles(path: Path) -> list[Needle]:
    if not path.exists():
        raise UsageError(
            f"no needle file {path}; bundled needles are named {', '.join(CORPORA)}",
            option="needles",
            path=path,
        )
    return read_needles(path)


def bundled_corpus(needles: Path | None) -> str | None:
    """Return the corpus of ``CORPORA`` that ``needles`` names; ``None`` if it names a file."""
    return str(needles) if str(needles) in CORPORA else None


def prompt_writer(
    loaded: LoadedModel, probe: Probe, needles: Sequence[Needle], prompt: PromptOptions
) -> PromptWriter:
    """Make the writer of a probe's prompts, with worked examples in the needles' language."""
    examples: list[Needle] = []
    if prompt.style == "shots":
        told_in = language_of(" ".join(needle.text for needle in needles))
        corpus = NANO if loaded.name == NANO else told_in
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
    spec: CaseSpec,
) -> DrawnCases:
    """Draw cases that are only read: they may fill the context, since there is no answer."""
    seed, lengths = spec.seed or 0, spec.lengths
    every = draw(
        loaded.tokenizer,
        lengths=None if lengths is None else choose_lengths(lengths, longest=loaded.max_context),
        max_context=loaded.max_context,
        seed=seed,
    )
    kept = sorted(case.case_id for case in balanced_order(every, seed)[: spec.limit])
    cases = [replace(every[old], case_id=new) for new, old in enumerate(kept)]
    return DrawnCases(
        cases=cases,
        needles=(),
        possible=len(every),
        plan=Plan(
            identity={"lengths": sorted({case.length for case in every}), "seed": seed},
            labels={"limit": spec.limit},
        ),
    )


def _refuse_text(spec: CaseSpec) -> None:
    if spec.text is not None:
        message = "this task reads no natural text: leave it out"
        raise UsageError(message, option="text", value=spec.text)


def _draw_texts(loaded: LoadedModel, draw: Callable[..., list[Case]], spec: CaseSpec) -> DrawnCases:
    """Draw natural texts from the bundled essays, for nano from its own noise, or a user's file."""
    default = NOISE if loaded.name == NANO else str(bundled("haystack", "english"))
    source = spec.text or default
    digest, prose = _peek(sentences(source, seed=spec.seed or 0, option="text"))
    drawn = _draw_read(loaded, partial(_with_prose, draw, prose), spec)
    return replace(
        drawn,
        haystack=source,
        plan=Plan(
            identity={**drawn.plan.identity, "text_digest": digest},
            labels={**drawn.plan.labels, "text": spec.text or "bundled"},
        ),
    )


def _with_prose(
    draw: Callable[..., list[Case]],
    prose: Iterator[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    **options: Any,
) -> list[Case]:
    """Draw texts from prose: the seed has drawn it already, if it is drawn at all."""
    return draw(tokenizer, sentences=prose, **options)


def _peek(sentences: Iterator[str]) -> tuple[str, Iterator[str]]:
    """Return a digest of the first sentences of a haystack, and all of them."""
    first = list(itertools.islice(sentences, _PEEKED))
    return json_digest(first), itertools.chain(first, sentences)


def longest_prompt(max_context: int | None, *, answer_reserve: int = ANSWER_RESERVE) -> int | None:
    """Return the tokens of the longest prompt that leaves space for an answer; ``None`` if any."""
    return None if max_context is None else max(1, max_context - answer_reserve)
