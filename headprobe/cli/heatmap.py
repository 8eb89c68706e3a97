"""Draw the score of every head in the terminal: layers from top to bottom, heads across."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import zip_longest
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float
    from rich.text import Text

_LABEL = 4
_SHADES = " ░▒▓█"
# Viridis, and for scores with signs blue over grey to red, as anchors of equal distance.
_RISING = ("440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725")
_SIGNED = ("3b4cc0", "7b9ff9", "c0d4f5", "dddddd", "f2cbb7", "ee8468", "b40426")


def show_heatmap(title: str, scores: Float[np.ndarray, "layer query_head"], *, group: int) -> None:
    """Draw scores on a terminal that is wide enough; elsewhere nothing is drawn.

    Args:
        title: what the scores are.
        scores: a number for every head.
        group: the query heads of a KV head, which borders set apart.
    """
    from rich.console import Console
    from rich.text import Text

    from headprobe.inputs.printable import printable

    console = Console(highlight=False)
    if not sys.stdout.isatty() or console.options.ascii_only:
        return
    coloured = console.color_system is not None and not console.no_color
    lines = heatmap(scores, group=group, width=console.width, coloured=coloured)
    if lines:
        console.print(Text(printable(title), style="italic"))
        console.print(*lines, sep="\n", soft_wrap=True)


def heatmap(
    scores: Float[np.ndarray, "layer query_head"], *, group: int, width: int, coloured: bool
) -> list[Text]:
    """Return the lines of a heatmap with its scale; none where the ``width`` is too small.

    With colours a line shows two layers, as the halves of a block; without, one layer in shades.
    """
    layers, heads = scores.shape
    borders = heads // group - 1 if group > 1 else 0
    cell = next((cell for cell in (2, 1) if _LABEL + cell * heads + borders <= width), None)
    if cell is None:
        return []
    low, high = float(scores.min()), float(scores.max())
    if low < 0 < high:
        low, high = -max(-low, high), max(-low, high)
    levels = ((scores - low) / ((high - low) or 1.0)).tolist()
    anchors = _SIGNED if low < 0 < high else _RISING
    draw = _blocks(levels, anchors) if coloured else _shades(levels)
    starts = range(0, layers, 2 if coloured else 1)
    lines = [_head_numbers(heads, group, cell)]
    lines += [
        _line(f"{start:>{_LABEL - 1}} ", cells, group, cell)
        for start, cells in zip(starts, draw, strict=True)
    ]
    return [*lines, _scale(low, high, anchors, coloured)]


def _blocks(levels: list[list[float]], anchors: tuple[str, ...]) -> Iterator[list[tuple[str, str]]]:
    """Yield for each two layers the character and the style of every head."""
    for start in range(0, len(levels), 2):
        fronts = [_colour(level, anchors) for level in levels[start]]
        lower = levels[start + 1] if start + 1 < len(levels) else []
        grounds = [f" on {_colour(level, anchors)}" for level in lower]
        yield [
            ("▀", front + ground) for front, ground in zip_longest(fronts, grounds, fillvalue="")
        ]


def _shades(levels: list[list[float]]) -> Iterator[list[tuple[str, str]]]:
    """Yield for each layer the shade of every head, without a style."""
    for layer in levels:
        yield [(_SHADES[round(level * (len(_SHADES) - 1))], "") for level in layer]


def _line(label: str, cells: list[tuple[str, str]], group: int, width: int) -> Text:
    from rich.text import Text

    line = Text().append(label, style="dim")
    for head, (character, style) in enumerate(cells):
        if group > 1 and head and head % group == 0:
            line.append("│", style="dim")
        line.append(character * width, style=style)
    return line


def _head_numbers(heads: int, group: int, cell: int) -> Text:
    """Return the line with the number of each KV head's first query head, where it has room."""
    from rich.text import Text

    line = " " * _LABEL
    for head in range(0, heads, max(group, 1)):
        at = _LABEL + cell * head + (head // group if group > 1 else 0)
        if not head or at > len(line):
            line = line.ljust(at) + str(head)
    return Text(line, style="dim")


def _scale(low: float, high: float, anchors: tuple[str, ...], coloured: bool) -> Text:
    """Return the line that says which numbers the ends of the scale are."""
    from rich.text import Text

    line = Text(" " * _LABEL + f"{low:.3g} ")
    if coloured:
        for level in range(16):
            line.append("█", style=_colour(level / 15, anchors))
    else:
        line.append(_SHADES)
    return line.append(f" {high:.3g}")


def _colour(level: float, anchors: tuple[str, ...]) -> str:
    """Return the colour of a level from 0 to 1, between the two anchors next to it."""
    place = level * (len(anchors) - 1)
    first = min(int(place), len(anchors) - 2)
    one, other = (bytes.fromhex(anchors[at]) for at in (first, first + 1))
    mixed = (round(a + (b - a) * (place - first)) for a, b in zip(one, other, strict=True))
    return "#" + bytes(mixed).hex()
