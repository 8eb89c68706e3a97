"""Read haystacks, the prose to hide needles in, a sentence at a time."""

from __future__ import annotations

import itertools
import json
import random
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from headprobe.errors import HeadprobeError, UsageError

NOISE = "noise"
_HUB = "hf:"
_TEXT_COLUMNS = ("text", "content", "document", "context")
# The most characters of a sentence, for texts without full stops; sentences of prose have fewer.
_LONGEST = 400
# A sentence ends after a full stop (not of an abbreviation) and up to two closing marks, or at a
# blank line; ideographic full stops need no space after them.
_SENTENCE_END = re.compile(
    r"""(?<!\b[DMS][rst]\.) (?<!\bMrs\.) (?<!\b[ei]\.[ge]\.)
    (?: (?<=[.!?।؟۔]) | (?<=[.!?]["')\]”’]) | (?<=[.!?]["')\]”’]{2}) ) \s+
    | \n \s* \n
    | (?<=[。！？]) (?![”’」』）])
    | (?<=[。！？][”’」』）])""",  # noqa: RUF001
    re.VERBOSE,
)


def sentences(source: str, *, seed: int) -> Iterator[str]:
    """Yield a haystack's sentences endlessly; a finite text starts over when it ends.

    Args:
        source: a text file, a folder of text files, a JSONL file, ``hf:<dataset>[:column]`` or
            ``hf:<dataset>@<configuration>[:column]`` (its training split if it has one), or
            ``noise``: seeded prose of the bundled language. Of a row, the named column is read,
            else a column called ``text`` or the like, else the first that holds text.
        seed: draws the prose of ``noise``.

    Raises:
        UsageError: ``source`` does not exist, or holds no sentence.
        HeadprobeError: the data set cannot be loaded.
    """
    if source == NOISE:
        return _noise(seed)
    texts = _from_hub(source) if source.startswith(_HUB) else _from_path(Path(source))
    stream = split_sentences(texts)
    first = next(stream, None)
    if first is None:
        raise UsageError(f"the haystack {source} holds no sentence")
    return itertools.cycle(itertools.chain([first], stream))


def split_sentences(texts: Iterable[str]) -> Iterator[str]:
    """Split texts into sentences, with single spaces, and very long sentences into pieces."""
    for text in texts:
        for sentence in _SENTENCE_END.split(text):
            yield from textwrap.wrap(" ".join(sentence.split()), _LONGEST, break_on_hyphens=False)


def _noise(seed: int) -> Iterator[str]:
    from headprobe.prompts.noise import filler

    rng = random.Random(seed)
    while True:
        yield filler(rng)


def _from_path(path: Path) -> Iterator[str]:
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.suffix in {".txt", ".md", ".jsonl"})
        if not files:
            raise UsageError(f"the haystack folder {path} holds no .txt, .md or .jsonl file")
        return itertools.chain.from_iterable(_from_file(file) for file in files)
    if not path.is_file():
        raise UsageError(
            "not there; expected a text file, a folder, a .jsonl file, hf:<dataset>[:column] or "
            f"{NOISE}",
            option="haystack",
            value=path,
            path=path,
        )
    return _from_file(path)


def _from_file(path: Path) -> Iterator[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the haystack {path}: {error}") from error
    if path.suffix != ".jsonl":
        yield text
        return
    # Not splitlines(): JSON may hold U+2028 and its like, which are no line ends there.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _text_field(line, path, number)


def _text_field(line: str, path: Path, number: int) -> str:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}, line {number}: not JSON ({error})") from error
    found = _first_text(row) if isinstance(row, dict) else row
    if not isinstance(found, str):
        raise UsageError(f"{path}, line {number}: expected an object with a text field")
    return found


def _first_text(row: Mapping[str, Any]) -> str | None:
    texts = {name: value for name, value in row.items() if isinstance(value, str)}
    names = (*_TEXT_COLUMNS, *texts)
    return next((texts[name] for name in names if name in texts), None)


def _from_hub(source: str) -> Iterator[str]:
    if find_spec("datasets") is None:
        message = "needs datasets: pip install datasets"
        raise UsageError(message, option="haystack", value=source)
    import datasets

    dataset, _, column = source.removeprefix(_HUB).partition(":")
    name, _, configuration = dataset.partition("@")
    try:
        splits = datasets.load_dataset(name, configuration or None, streaming=True)
        for row in splits.get("train", next(iter(splits.values()))):
            found = row.get(column) if column else _first_text(row)
            if not isinstance(found, str):
                raise UsageError(
                    f"the data set {name} has no text in {column or 'any column'}; "
                    f"its columns are {', '.join(row)}, name one as {_HUB}{name}:<column>"
                )
            yield found
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        problem, *_ = str(error).split("\n")
        raise HeadprobeError(
            f"cannot load the data set {name}: {problem}; check its name and the network, name one "
            f"of several configurations as {_HUB}{name}@<configuration>, or give a local file"
        ) from error
