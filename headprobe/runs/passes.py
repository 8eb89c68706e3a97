"""Run tokens of several branches on one KV cache, in as few forward passes as the model allows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from headprobe.attention.branches import Branches
from headprobe.attention.observe import forward, observe
from headprobe.attention.prefix_cache import PrefixCache
from headprobe.runs.reading_setup import ReadingSetup
from headprobe.runs.score_accumulator import RowSummaries, View

if TYPE_CHECKING:
    pass

# The most queries whose rows are held at a time, so that their memory grows only with the keys.
_MOST_ROWS = 128
# A mask of so many queries costs more than a forward pass of their own without one.
_WORTH_A_PASS = 512


@dataclass(eq=False, kw_only=True)
class Piece:
    """Successive tokens of a branch, the first of them at position ``start`` of the branch's text.

    The attention of the last ``view.rows`` tokens is observed. If the piece ``chooses``, running it
    fills ``chosen`` with the tokens that the model chooses after each of these: none that ends the
    response unless it ``may_end``.
    """

    tokens: Sequence[int]
    branch: int
    start: int
    view: View | None = None
    chooses: bool = False
    may_end: bool = True
    chosen: list[int] = field(default_factory=list)

    @property
    def end(self) -> int:
        """The position after the last token."""
        return self.start + len(self.tokens)

    @property
    def watched(self) -> range:
        """The places of the watched tokens among the piece's tokens."""
        count = len(self.tokens)
        return range(count - (self.view.rows if self.view else 0), count)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Token:
    """A token to run, number ``number`` of the vocabulary, and its place in its branch's text."""

    number: int
    piece: Piece
    position: int
    is_last: bool
    is_watched: bool
    chooses: bool


class Passes:
    """Runs pieces on the KV cache of one path.

    Args:
        setup: the model and how it reads.
        cache: a KV cache that holds the path; extended in place.
        branches: the layout of the cache; ``None`` for a model that takes one text at a time. Then
            the pieces must be of one prompt, in an order in which each follows the last or needs a
            shorter prefix of the text before it.
    """

    def __init__(self, setup: ReadingSetup, cache: PrefixCache, branches: Branches | None) -> None:
        self._setup = setup
        self._cache = cache
        self._branches = branches

    def run(self, pieces: Sequence[Piece]) -> None:
        """Run pieces, and fill their views and their chosen tokens."""
        views = [piece.view for piece in pieces if piece.view]
        summaries = RowSummaries(self._setup.measures, views, self._branches)
        for tokens in self._chunks(pieces):
            choices = self._pass(tokens, summaries).tolist()
            choosing = [token.piece for token in tokens if token.chooses]
            for piece, choice in zip(choosing, choices, strict=True):
                piece.chosen.append(choice)

    def _chunks(self, pieces: Sequence[Piece]) -> Iterator[list[_Token]]:
        """Split the pieces' tokens into forward passes."""
        setup = self._setup
        for run in [pieces] if self._branches else self._single_texts(pieces):
            tokens = [token for piece in run for token in _tokens(piece)]
            size = len(tokens) if setup.reads_whole else setup.chunk_sizes.prefill_chunk
            end = self._plain_end(run)
            for part in (tokens[:end], tokens[end:]):
                for start in range(0, len(part), max(1, size)):
                    yield part[start : start + size]

    def _plain_end(self, pieces: Sequence[Piece]) -> int:
        """Return the number of first tokens to run before the others, since they need no mask."""
        if self._branches is None or not self._branches.is_plain:
            return 0
        end, count = pieces[0].start, 0
        for piece in pieces:
            if piece.start != end:
                break
            end, count = piece.end, count + len(piece.tokens)
        return count if count >= _WORTH_A_PASS else 0

    def _single_texts(self, pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
        """Yield pieces that follow one another, after cropping the cache to where they start."""
        starts = [piece.start for piece in pieces]
        run: list[Piece] = []
        for piece, after in itertools.zip_longest(pieces, pieces[1:]):
            run.append(piece)
            forks = starts.count(piece.end) > 1
            if after is None or forks or after.start != piece.end:
                self._cache.crop(run[0].start)
                yield run
                run = []
                if forks:
                    self._cache.snapshot()

    def _pass(self, tokens: Sequence[_Token], summaries: RowSummaries) -> Int[Tensor, " choice"]:
        """Run one forward pass; return what the model chooses after the tokens that choose."""
        model, device = self._setup.loaded.model, self._setup.loaded.device
        inputs: dict[str, Any] = {"past_key_values": self._cache, "use_cache": True}
        if self._branches:
            self._branches.place([t.piece.branch for t in tokens], [t.position for t in tokens])
            if not self._branches.is_plain:
                inputs["layout"] = self._branches.layout(len(tokens))
        # Logits are computed where a token is chosen; the others are a check that they are finite.
        needed = [n for n, token in enumerate(tokens) if token.chooses]
        ends = needed or [n for n, token in enumerate(tokens) if token.is_last] or [-1]
        inputs["logits_to_keep"] = torch.tensor(ends, device=device)
        numbers = torch.tensor([[token.number for token in tokens]], device=device)
        watch = [n for n, token in enumerate(tokens) if token.is_watched]
        if watch and self._setup.task.measures:
            output = observe(
                model,
                numbers,
                on_rows=summaries.see,
                watch=watch,
                chunk_bytes=self._row_bytes(self._cache.get_seq_length() + len(tokens)),
                **inputs,
            )
        else:
            output = forward(model, numbers, **inputs)
        first = [row for row, n in enumerate(needed) if not tokens[n].piece.may_end]
        return self._setup.rules.choose(output.logits[0], first=first)[: len(needed)]

    def _row_bytes(self, keys: int) -> int:
        most = _MOST_ROWS * 4 * self._setup.loaded.layout.num_heads * keys
        return min(most, self._setup.chunk_sizes.row_bytes)


def _tokens(piece: Piece) -> Iterator[_Token]:
    for at, number in enumerate(piece.tokens):
        is_watched = at in piece.watched
        yield _Token(
            number=number,
            piece=piece,
            position=piece.start + at,
            is_last=at == len(piece.tokens) - 1,
            is_watched=is_watched,
            chooses=is_watched and piece.chooses,
        )
