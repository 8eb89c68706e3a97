"""Turn options as they are typed into values, checked before torch or a model is loaded."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from headprobe.errors import UsageError
from headprobe.files import refuse_file
from headprobe.inputs.printable import printable
from headprobe.models.options import ModelOptions
from headprobe.prompts.grid import parse_depths, parse_lengths
from headprobe.prompts.spec import CORPORA, CaseSpec
from headprobe.prompts.style import PromptOptions, read_chat_template
from headprobe.runs.memory import MemoryOptions, parse_bytes

LONGEST_ARGUMENT = 4096
"""The most characters of a path, and of any other argument."""


def check_arguments(typed: Sequence[str]) -> None:
    """Refuse arguments that typer would repeat in full: very long ones, options that hide signs.

    Raises:
        UsageError: there is such an argument.
    """
    for argument in typed:
        if len(argument) > LONGEST_ARGUMENT:
            raise UsageError(
                f"{argument[:40]!r}...: expected at most {LONGEST_ARGUMENT:,} characters, got "
                f"{len(argument):,}"
            )
        name = argument.partition("=")[0]
        if name.startswith("-") and printable(name) != name:
            raise UsageError(f"no option is called {printable(name)}")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The model that a command runs, the cases, the form of questions, and the memory to take."""

    model: ModelOptions
    cases: CaseSpec
    prompt: PromptOptions
    memory: MemoryOptions


def run_options(given: Mapping[str, Any]) -> RunOptions:
    """Read the options that the commands which run a model have in common.

    Args:
        given: the command's parameters by name, as they are typed.

    Raises:
        UsageError: a value cannot be read, or lies out of range.
    """
    of_model = {field.name for field in fields(ModelOptions)} - {"name"}
    from headprobe.prompts.haystacks import check_source

    lengths, depths = given["lengths"], given["depths"]
    for option in ("haystack", "text"):
        if (source := given.get(option)) is not None:
            check_source(source, option=option)
    if given["out"] is not None:
        refuse_file(given["out"])
    return RunOptions(
        model=ModelOptions(name=given["model"], **{name: given[name] for name in of_model}),
        cases=CaseSpec(
            lengths=None if lengths is None else parse_lengths(lengths),
            depths=None if depths is None else parse_depths(depths),
            needles=given["needles"],
            haystack=given["haystack"],
            text=given.get("text"),
            questions=given.get("questions"),
            # A limit of 0 wants all.
            limit=given["limit"] or None,
            seed=given["seed"],
        ),
        prompt=PromptOptions(
            style=given["prompt"],
            answer_prefix=given["answer_prefix"],
            chat_template=read_chat_template(given["chat_template"]),
        ),
        memory=MemoryOptions(
            prefill_chunk=given.get("prefill_chunk"),
            activation_memory=parse_bytes(given.get("activation_memory", "1GiB")),
        ),
    )


def needle_file(path: Path | None) -> None:
    """Refuse a path that is neither a file of needles nor a name of bundled ones.

    Raises:
        UsageError: there is no such file.
    """
    if path is not None and str(path) not in CORPORA and not path.exists():
        raise UsageError(
            f"no needle file {path}; bundled needles are named {', '.join(CORPORA)}",
            option="needles",
            path=path,
        )


def budget_files(typed: Sequence[str]) -> None:
    """Refuse the path of a budget file where there is none.

    Raises:
        UsageError: there is no such file.
    """
    for text in typed:
        parts = [text] if Path(text).exists() else text.split(",")
        for path in (Path(part.strip()) for part in parts):
            if path.suffix.lower() == ".json" and not path.exists():
                raise UsageError(
                    f"no budget file at {path}; make one with `headprobe allocate`", path=path
                )


def existing(path: Path | None, *, kind: str) -> None:
    """Refuse a path where there is nothing.

    Raises:
        UsageError: there is no such ``kind`` of file, as in "needle".
    """
    if path is not None and not path.exists():
        raise UsageError(f"no {kind} file {path}", path=path)


def fraction(option: str, text: str | None) -> float | None:
    """Read a fraction such as ``97%`` or ``0.97``; 0 to 1.

    Raises:
        UsageError: the text is no fraction above 0 and up to 1.
    """
    if text is None:
        return None
    number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        value = float(number) / (100 if percent else 1)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise UsageError("expected a fraction such as 97% or 0.97", option=option, value=text)
    return value


def question_source(source: str | None) -> None:
    """Refuse questions that are neither a file nor a data set of the hub.

    Raises:
        UsageError: there is no such file.
    """
    if source is not None and not source.startswith("hf:"):
        existing(Path(source), kind="question")


def free_output(out: Path | None, sources: Iterable[Path] = ()) -> None:
    """Refuse an output that would replace a file of a run, or one of its own sources.

    Raises:
        UsageError: ``out`` is such a file.
    """
    from headprobe.runs.directory import refuse_run_files

    if out is not None:
        refuse_run_files(out, sources)


def with_declared(given: Mapping[str, Any], declared: Mapping[str, Any]) -> dict[str, Any]:
    """Join options that have a flag of their own with those given by ``--option``.

    Raises:
        UsageError: an option is given both ways.
    """
    for name, value in declared.items():
        if given.get(name) is not None:
            raise UsageError(f"`{name}` is given too", option="option", value=f"{name}={value}")
    return {**given, **declared}


def comma_list(text: str | None) -> tuple[str, ...] | None:
    """Split ``a, b`` at its commas; None stays None."""
    return None if text is None else tuple(part.strip() for part in text.split(","))


def names(option: str, typed: Iterable[str], known: Collection[str]) -> tuple[str, ...]:
    """Read names with commas between them, each of which is known.

    Raises:
        UsageError: a name is not known.
    """
    read = tuple(name.strip() for text in typed for name in text.split(","))
    for name in read:
        one_of(option, name, known)
    return read


def one_of(option: str, value: str, choices: Collection[str]) -> None:
    """Refuse a value that is none of the choices.

    Raises:
        UsageError: the value is none of the choices.
    """
    if value not in choices:
        *others, last = choices
        raise UsageError(f"expected {', '.join(others)} or {last}", option=option, value=value)


def reliability(value: float | None) -> None:
    """Refuse a reliability to stop at that is never reached or always is.

    Raises:
        UsageError: the reliability does not lie between 0 and 1.
    """
    if value is not None and not 0 < value < 1:
        message = "expected a number between 0 and 1"
        raise UsageError(message, option="until_stable", value=value)
