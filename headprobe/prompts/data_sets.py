"""Stream the rows of a data set of the Hugging Face hub: ``hf:<dataset>[@<configuration>]``."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from headprobe.errors import UsageError
from headprobe.models.reading import reading

HUB = "hf:"


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
    name, _, configuration = source.removeprefix(HUB).partition("@")
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
