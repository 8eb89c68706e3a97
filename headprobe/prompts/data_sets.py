"""Stream the rows of a file, or of a data set of the hub: ``hf:<dataset>[@<configuration>]``."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from headprobe.errors import UsageError
from headprobe.files import file_digest
from headprobe.inputs.files import json_rows
from headprobe.models.reading import reading

HUB = "hf:"


def name_and_configuration(source: str) -> tuple[str, str]:
    """Return the name and the configuration, "" if none, of ``hf:<dataset>[@<configuration>]``."""
    name, _, configuration = source.removeprefix(HUB).partition("@")
    return name, configuration


def hub_rows(
    source: str, *, option: str, split: str, typed: str | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a data set, each with its place, as in "row 3".

    Args:
        source: ``hf:<dataset>``, or ``hf:<dataset>@<configuration>`` where it has several.
        option: the parameter that named the source, for errors.
        split: the split to read; where there is none of that name, the first.
        typed: what was typed, for errors, where that is more than the source.

    Raises:
        UsageError: the source names no data set, or ``datasets`` is not installed.
        HeadprobeError: the data set cannot be loaded.
    """
    name, configuration = name_and_configuration(source)
    if not name.strip():
        message = f"names no data set; expected {HUB}<dataset>[@configuration]"
        raise UsageError(message, option=option, value=typed or source)
    if find_spec("datasets") is None:
        raise UsageError(
            "needs datasets: pip install datasets", option=option, value=typed or source
        )
    import datasets

    advice = (
        f"check its name and the network, name one of several configurations as "
        f"{HUB}{name}@<configuration>, or give a local file"
    )
    with reading(f"the data set {name}", advice):
        splits = datasets.load_dataset(name, configuration or None, streaming=True)
        rows = splits.get(split, next(iter(splits.values())))
        for number, row in enumerate(rows, start=1):
            yield f"row {number}", row


def is_of_hub(source: str | Path) -> bool:
    """Tell whether rows come from the Hugging Face hub, rather than from a file."""
    return str(source).startswith(HUB)


def question_rows(source: str | Path) -> Iterator[tuple[str, Any]]:
    """Yield the rows of a file of questions, or of a data set's test split, each with its place.

    Raises:
        UsageError: the source cannot be read.
        HeadprobeError: the data set cannot be loaded.
    """
    if is_of_hub(source):
        return hub_rows(str(source), option="questions", split="test")
    return json_rows(Path(source), kind="question")


def source_digest(source: str | Path) -> str:
    """Return what tells questions apart: a file's digest, or the name of a data set of the hub."""
    return str(source) if is_of_hub(source) else file_digest(Path(source))
