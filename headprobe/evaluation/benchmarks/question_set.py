"""The questions of a benchmark: its rows read from a file or the hub, or RULER's made here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from headprobe.errors import UsageError
from headprobe.evaluation.benchmarks.asking import Prompt, RowWriter, shorten
from headprobe.evaluation.benchmarks.protocol import SCORE, Protocol, Style
from headprobe.evaluation.benchmarks.registry import Chosen
from headprobe.evaluation.benchmarks.rows import Row, read_rows
from headprobe.evaluation.benchmarks.ruler.documents import read_corpus
from headprobe.evaluation.benchmarks.ruler.sample import Sample
from headprobe.evaluation.benchmarks.ruler.tasks import OF_DOCUMENTS, generate
from headprobe.evaluation.question_sets import QuestionSet
from headprobe.evaluation.questions import Question, warn_of_shortened
from headprobe.models.loading import LoadedModel
from headprobe.prompts.data_sets import is_of_hub, source_digest
from headprobe.prompts.grid import choose_lengths
from headprobe.prompts.spec import CaseSpec
from headprobe.prompts.style import PromptOptions, describe_options
from headprobe.runs.draw import longest_prompt
from headprobe.runs.identity import Plan

SHORTEST = 4096
"""Tokens of a generated prompt and its answer, by default: RULER's shortest."""
MOST = 500
"""Generated questions where no limit is given: RULER's number, in all."""


@dataclass(frozen=True, eq=False, kw_only=True)
class _Asked:
    """A row as it is asked, and the protocol that it is asked by."""

    row: Row
    prompt: Prompt
    protocol: Protocol
    was_shortened: bool = False


def benchmark_questions(
    loaded: LoadedModel,
    chosen: Chosen,
    source: str | Path | None,
    spec: CaseSpec,
    prompt: PromptOptions,
    *,
    max_new_tokens: int | None,
) -> QuestionSet:
    """Ask a benchmark's rows by their sets' protocols.

    Args:
        loaded: the model.
        chosen: the benchmark and, if one was named, its set.
        source: the rows: a file, or a data set of the hub; for RULER's questions over documents
            also SQuAD or HotpotQA. Left out, RULER's rows are made.
        spec: of rows that are read, the ``limit``; of those that are made, ``lengths`` and ``seed``
            too.
        prompt: how questions are put; style auto is the protocol's.
        max_new_tokens: the most tokens of an answer, in the protocol's place.

    Raises:
        UsageError: an option does not apply, a length does not fit, or a row cannot be used.
        HeadprobeError: a data set cannot be loaded, or an optional package is missing.
    """
    _refuse(spec, prompt)
    writer = RowWriter(loaded.tokenizer, style=_style(prompt))
    of_documents = chosen.set_name in OF_DOCUMENTS
    generates = source is None or (of_documents and _is_corpus(source))
    if source is None or generates:
        rows, origin = _made(loaded, chosen, source, spec, writer, max_new_tokens)
    else:
        rows, origin = _read(loaded, chosen, source, spec, writer, max_new_tokens)
    asked = list(islice(rows, spec.limit or (MOST if generates else None)))
    if not asked:
        raise UsageError(f"{source} holds no question", option="questions")
    questions = _questions(asked, max_new_tokens)
    warn_of_shortened(
        sum(one.was_shortened for one in asked),
        questions,
        loaded.max_context,
        f"with room for answers, the {asked[0].protocol.truncation}",
    )
    return QuestionSet(
        name=chosen.name,
        questions=questions,
        plan=Plan(
            identity={
                "benchmark": chosen.name,
                "protocol": _protocols(asked, writer, max_new_tokens),
                "chat_template": describe_options(prompt, loaded.tokenizer)["chat_template"],
                **origin,
            },
            labels={
                "questions": None if source is None else str(source),
                "limit": spec.limit,
                "schemas": sorted({one.row.schema for one in asked}),
            },
        ),
    )


def _protocols(
    asked: Sequence[_Asked], writer: RowWriter, max_new_tokens: int | None
) -> list[dict[str, Any]]:
    """Describe the protocols in use, with the most tokens of an answer that their rows bring.

    Where ``max_new_tokens`` takes the place of both, the protocol keeps its own.
    """
    protocols = {one.protocol.name: one.protocol for one in asked}
    described = []
    for name in sorted(protocols):
        protocol = protocols[name]
        told = {**protocol.to_json(), "style": writer.style_of(protocol)}
        tokens = sorted(
            {protocol.answer_tokens(one.row) for one in asked if one.protocol is protocol}
        )
        if max_new_tokens is None:
            told["max_new_tokens"] = tokens if len(tokens) > 1 else tokens[0]
        described.append(told)
    return described


def _style(prompt: PromptOptions) -> Style | None:
    """Return the style that the user asks for; ``None`` for the protocol's."""
    if prompt.style == "shots":
        message = "a benchmark's protocol has its own examples: expected raw, chat or prefix"
        raise UsageError(message, option="prompt", value="shots")
    return None if prompt.style == "auto" else prompt.style


def _refuse(spec: CaseSpec, prompt: PromptOptions) -> None:
    """Refuse options that a protocol leaves no room for."""
    of_needles = {name: getattr(spec, name) for name in ("depths", "needles", "haystack")}
    for option, value in {**of_needles, "answer_prefix": prompt.answer_prefix}.items():
        if value is not None:
            message = "a benchmark brings its own prompts: leave it out"
            raise UsageError(message, option=option, value=value)


def _read(
    loaded: LoadedModel,
    chosen: Chosen,
    source: str | Path,
    spec: CaseSpec,
    writer: RowWriter,
    max_new_tokens: int | None,
) -> tuple[Iterator[_Asked], dict[str, Any]]:
    """Read rows as they are; too long a prompt is cut as the protocol says."""
    if spec.lengths is not None:
        message = "rows have their own lengths: leave it out, `max_context` bounds prompts"
        raise UsageError(message, option="lengths")

    def rows() -> Iterator[_Asked]:
        for place, row in read_rows(source, benchmark=chosen.benchmark.name):
            try:
                protocol = chosen.protocol_of(row)
                whole = writer.write(row, protocol)
                steps = max_new_tokens or protocol.answer_tokens(row)
                longest = longest_prompt(loaded.max_context, answer_reserve=steps)
                prompt = shorten(whole, longest, protocol.truncation)
            except ValueError as error:
                path = None if is_of_hub(source) else Path(source)
                raise UsageError(f"{source}, {place}: {error}", path=path) from error
            cut = len(prompt[0]) < len(whole[0])
            yield _Asked(row=row, prompt=prompt, protocol=protocol, was_shortened=cut)

    return rows(), {"questions_digest": source_digest(source)}


def _made(
    loaded: LoadedModel,
    chosen: Chosen,
    source: str | Path | None,
    spec: CaseSpec,
    writer: RowWriter,
    max_new_tokens: int | None,
) -> tuple[Iterator[_Asked], dict[str, Any]]:
    """Make rows of every task and length in turn, so that a limit leaves about as many of each."""
    if chosen.set_name is None:
        tasks: Sequence[str] = [*chosen.benchmark.generated]
    else:
        tasks = [chosen.set_name]
    missing = [task for task in tasks if task not in chosen.benchmark.generated]
    if source is None and (missing or not tasks):
        message = "its rows are read, not made: give `questions` a file or hf:<data set>"
        raise UsageError(message, option="benchmark", value=chosen.name)
    lengths = choose_lengths(
        spec.lengths or (min(SHORTEST, loaded.max_context or SHORTEST),), longest=loaded.max_context
    )
    corpus = None if source is None else read_corpus(source)
    seed = spec.seed or 0

    def made(task: str, length: int) -> Iterator[_Asked]:
        protocol = chosen.benchmark.protocols[task]
        tokens = max_new_tokens or protocol.max_new_tokens
        fits = partial(_fits, writer, protocol, length - tokens)
        for sample in generate(task, length=length, seed=seed, fits=fits, corpus=corpus):
            row = _row(sample, task)
            yield _Asked(row=row, prompt=writer.write(row, protocol), protocol=protocol)

    rows = [made(task, length) for length in lengths for task in tasks]
    origin: dict[str, Any] = {"lengths": lengths, "seed": seed}
    if source is not None:
        origin["questions_digest"] = source_digest(source)
    return chain.from_iterable(zip(*rows, strict=False)), origin


def _fits(writer: RowWriter, protocol: Protocol, longest: int, sample: Sample) -> bool:
    return sum(map(len, writer.write(_row(sample, ""), protocol))) <= longest


def _row(sample: Sample, task: str) -> Row:
    return Row(
        context=sample.context,
        question=sample.question,
        answers=sample.answers,
        schema="ruler",
        task=task,
        answer_prefix=sample.answer_prefix,
    )


def _is_corpus(source: str | Path) -> bool:
    """Tell whether a source holds questions over paragraphs, rather than prompts of RULER."""
    _, row = next(read_rows(source), ("", None))
    return row is None or row.schema in ("squad", "hotpotqa")


def _questions(asked: Sequence[_Asked], max_new_tokens: int | None) -> list[Question]:
    """Make questions that are graded by their set's metrics, or by one name if sets differ.

    Questions about one context are of one group.
    """
    alike = len({one.protocol.metrics for one in asked}) == 1
    questions = []
    groups: dict[str, int] = {}
    for number, one in enumerate(asked):
        protocol, row = one.protocol, one.row
        graded = {name: partial(protocol.grade, name, row) for name in protocol.metrics}
        metrics = graded if alike else {SCORE: graded[protocol.metrics[0]]}
        questions.append(
            Question(
                question_id=number,
                group=groups.setdefault(row.context, len(groups)),
                context_ids=one.prompt[0],
                question_ids=one.prompt[1],
                answers=row.answers,
                max_new_tokens=max_new_tokens or protocol.answer_tokens(row),
                stops=protocol.stops,
                metrics=metrics,
                row=row,
            )
        )
    return questions
