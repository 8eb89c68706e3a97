"""Read haystacks, the prose to hide needles in, a sentence at a time."""

from __future__ import annotations

import itertools
import os
import random
import re
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from headprobe.errors import HeadprobeWarning, UsageError
from headprobe.prompts.data_sets import HUB, hub_rows
from headprobe.prompts.texts import PROSE, SUFFIXES, HoldsNeedles, read_texts, texts_of

NOISE = "noise"
# The most files that a folder is read through for, and the most that are named.
_MOST_FILES, _NAMED = 100_000, 3
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


def check_source(source: str, *, option: str) -> None:
    """Refuse a source, given by ``option``, that is neither a path, a data set nor noise.

    Raises:
        UsageError: nothing lies there, or what lies there is neither a file nor a folder.
    """
    if source == NOISE or source.startswith(HUB):
        return
    path, _ = _parted(source, option)
    if not (path.is_dir() or path.is_file()):
        raise UsageError(
            f"{'no regular file' if path.exists() else 'not there'}; expected a file "
            f"({', '.join(SUFFIXES)}) or a folder, with :<column> after it for a column of a "
            f"table, {HUB}<dataset>[:column] or {NOISE}",
            option=option,
            value=path,
            path=path,
        )


def sentences(source: str, *, seed: int, option: str = "haystack") -> Iterator[str]:
    """Yield a haystack's sentences endlessly; a finite text starts over when it ends.

    Args:
        source: a file or a folder, whose texts are read through in the order of their paths; or
            ``hf:<dataset>``, ``hf:<dataset>@<configuration>`` (its training split if it has one);
            or ``noise``: seeded prose of the bundled language. ``:<column>`` after any but the
            last names the column of tables that is read, else it is the one with the longest texts.
        seed: draws the prose of ``noise``.
        option: the parameter that the source is given by, for errors.

    Raises:
        UsageError: ``source`` does not exist, cannot be read or holds no sentence.
        HeadprobeError: the data set cannot be loaded.
    """
    if source == NOISE:
        return _noise(seed)
    check_source(source, option=option)
    if source.startswith(HUB):
        texts = _from_hub(source, option)
    else:
        path, column = _parted(source, option)
        texts = _from_folder(path, column) if path.is_dir() else read_texts(path, column)
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


def _parted(source: str, option: str) -> tuple[Path, str | None]:
    """Part a path from the column named after it; a path that is there is all path."""
    name, colon, column = source.rpartition(":")
    try:
        if not source or (colon and not column):
            raise OSError(0, "expected a path, and a name after a colon")
        is_whole = Path(source).exists() or not name or not Path(name).exists()
    except OSError as error:
        message = f"no haystack can be there: {error.strerror}"
        raise UsageError(message, option=option, value=source) from error
    return (Path(source), None) if is_whole else (Path(name), column)


def _from_folder(folder: Path, column: str | None) -> Iterator[str]:
    """Yield the texts of a folder's files, and say which files are left out."""
    files, left_out = _walk(folder)
    if left_out:
        _say_left_out(folder, left_out)
    if not files:
        raise UsageError(
            f"the haystack folder {folder} holds no {', '.join(SUFFIXES)} file", path=folder
        )
    for path in files:
        try:
            yield from read_texts(path, None if path.suffix.lower() in PROSE else column)
        except HoldsNeedles:
            _say_left_out(folder, [f"{path.relative_to(folder)} (needles)"])


def _walk(folder: Path) -> tuple[list[Path], list[str]]:
    """List the files of a folder and its sub-folders that can be read, and what is left out."""
    files: list[Path] = []
    left_out: list[str] = []
    unread: list[OSError] = []
    for root, folders, names in os.walk(folder, onerror=unread.append):
        here = Path(root)
        hidden = [name for name in (*folders, *names) if name.startswith(".")]
        folders[:] = sorted(set(folders) - set(hidden))
        for path in (here / name for name in sorted(set(names) - set(hidden))):
            fit = path.suffix.lower() in SUFFIXES and path.is_file()
            files.append(path) if fit else left_out.append(str(path.relative_to(folder)))
        left_out += [str((here / name).relative_to(folder)) for name in sorted(hidden)]
        if len(files) + len(left_out) > _MOST_FILES:
            message = f"more than {_MOST_FILES:,} files: name a smaller folder"
            raise UsageError(message, option="haystack", value=folder, path=folder)
    return sorted(files), left_out + [f"{error.filename} ({error.strerror})" for error in unread]


def _say_left_out(folder: Path, names: Sequence[str]) -> None:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    warnings.warn(
        f"of the haystack folder {folder} is left out: {', '.join(names[:_NAMED])}{more}",
        HeadprobeWarning,
        stacklevel=2,
    )


def _from_hub(source: str, option: str) -> Iterator[str]:
    data_set, _, column = source.partition(":")[2].partition(":")
    rows = hub_rows(HUB + data_set, option=option, split="train", typed=source)
    yield from texts_of(rows, HUB + data_set, column or None)
