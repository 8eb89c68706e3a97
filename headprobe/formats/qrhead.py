"""Heads of QRRetriever (QRHead, Zhang et al., arXiv 2506.09944): ``attn_head_set`` in YAML.

``attn_head_set: "13-18,14-22"`` names layers and query heads; some configurations write ``13_18``.
``model_name_or_path`` names the model.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from headprobe.formats._files import Table, read_text, table_size
from headprobe.formats._format import Format
from headprobe.inputs.printable import brief
from headprobe.models.aliases import find_alias, sizes_of
from headprobe.models.reading import first_line

_SET, _MODEL = "attn_head_set", "model_name_or_path"
_HEAD = re.compile(r"(\d{1,6})[-_](\d{1,6})", re.ASCII)
_MOST_BYTES, _MOST_MARKS = 20_000, 100


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """A loader of plain types that refuses a key given twice, and references to other places."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("it has references, which the program never writes")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        fields = super().construct_mapping(node, deep=True)
        if len(fields) < len(node.value):
            raise ValueError("a key is given twice")
        return fields


def read(path: Path, *, layers: int | None, heads: int | None) -> Table:
    """Read the set as scores: 1 for a head that is named, 0 for any other.

    Raises:
        UsageError: there is no such file.
        ValueError: the file is of another kind, or names all heads or none.
    """
    config = _load(path)
    named = _heads(config.get(_SET))
    name = config.get(_MODEL)
    alias = find_alias(name) if isinstance(name, str) else None
    model = sizes_of(alias) if alias else {}
    guessed = not ((layers and heads) or model)
    size = table_size(
        named, layers=layers or model.get("layers"), heads=heads or model.get("heads")
    )
    scores = np.zeros((1, *size))
    for layer, head in named:
        scores[0, layer, head] = 1.0
    note = (
        f"the file lists heads only: took {size[0]} layers of {size[1]} query heads, the highest "
        "named; give `layers` and `heads` if the model has more"
    )
    return Table(per_case={"qrhead": scores}, model=model, notes=(note,) if guessed else ())


def _load(path: Path) -> dict[Any, Any]:
    text = read_text(path, most_bytes=_MOST_BYTES)
    # The parser takes a time that grows with the square of the depth.
    if sum(map(text.count, "[{?-")) > _MOST_MARKS + 2 * text.count(","):
        raise ValueError("it is nested too deeply")
    try:
        config = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, TypeError, RecursionError) as error:
        raise ValueError(f"it is no YAML that can be read ({first_line(error)})") from None
    if not isinstance(config, dict) or _SET not in config:
        raise ValueError(f"expected {_SET} in it, got {brief(config)}")
    return config


def _heads(named: Any) -> list[tuple[int, int]]:
    parts = named.split(",") if isinstance(named, str) else named
    if not isinstance(parts, list) or not parts:
        raise ValueError(f"{_SET}: expected layer-head, as in 13-18,14-22, got {brief(named)}")
    found = []
    for part in parts:
        match = _HEAD.fullmatch(part.strip()) if isinstance(part, str) else None
        if not match:
            raise ValueError(f"{_SET}: expected layer-head, as in 13-18, got {brief(part)}")
        found.append((int(match[1]), int(match[2])))
    if len(set(found)) < len(found):
        raise ValueError("a head is named twice")
    return found


FORMAT = Format(
    summary="a set of query heads",
    file=".yaml",
    programs="QRRetriever (QRHead)",
    granularity="query",
    read=read,
)
