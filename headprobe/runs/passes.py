"""Run tokens of several branches on one KV cache, in as few forward passes as the model allows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from headprobe.attention.branches import Branches, Layout
from headprobe.attention.observe import forward, observe
from headprobe.attention.prefix_cache import PrefixCache
from headprobe.runs.reading_setup import ReadingSetup
from headprobe.runs.score_accumulator import RowSummaries, View

# The most queries whose rows are held at a time, so that their memory grows only with the keys.
_MOST_ROWS = 128
# A mask of so many queries costs more than a forward pass of their own without one.
_WORTH_A_PASS = 512


@dataclass(eq=False, kw_only=True)
class Piece:
    """Successive tokens of a branch, the first of them at position ``start`` of the branch's text.

    The branch is one of the sequence ``sequence`` of the batch.
    The attention of the last ``view.rows`` tokens is observed. If the piece ``chooses``, running it
    fills ``chosen`` with the tokens that the model chooses after each of these: none that ends the
    response unless it ``may_end``.
    """

    tokens: Sequence[int]
    branch: int
    start: int
    sequence: int = 0
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
    is_watched: bool
    chooses: bool


class Passes:
    """Runs pieces on the KV cache of one path.

    Args:
        setup: the model and how it reads.
        cache: a KV cache that holds the path; extended in place.
        branches: the layout of each sequence of the cache; ``None`` where all sequences hold one
            text. Then the pieces must be of that text, in an order in which each follows the last
            or needs a shorter prefix of the text before it.
    """

    def __init__(
        self, setup: ReadingSetup, cache: PrefixCache, branches: Sequence[Branches] | None
    ) -> None:
        self._setup = setup
        self._cache = cache
        self._branches = branches

    def run(self, pieces: Sequence[Piece]) -> None:
        """Run pieces, and fill their views and their chosen tokens."""
        measures = self._setup.measures
        views = [piece.view for piece in pieces if piece.view and measures]
        branches = self._branches[0] if self._branches else None
        most_bytes = self._row_bytes(
            self._cache.get_seq_length() + sum(len(p.tokens) for p in pieces)
        )
        summaries = RowSummaries(measures, views, branches, most_bytes=most_bytes)
        for batch in self._chunks(pieces):
            choices = self._pass(batch, summaries).tolist()
            choosing = [token.piece for tokens in batch for token in tokens if token.chooses]
            for piece, choice in zip(choosing, choices, strict=True):
                piece.chosen.append(choice)

    def _chunks(self, pieces: Sequence[Piece]) -> Iterator[list[list[_Token]]]:
        """Split the pieces' tokens into forward passes, each with the tokens of every sequence."""
        if self._branches is None:
            for run in self._single_texts(pieces):
                yield from self._equal_parts([_tokens(run)])
            return
        runs = [[p for p in pieces if p.sequence == n] for n in range(len(self._branches))]
        end = min(map(self._plain_end, runs, self._branches))
        tokens = [_tokens(run) for run in runs]
        yield from self._equal_parts([part[:end] for part in tokens])
        yield from self._equal_parts([part[end:] for part in tokens])

    def _equal_parts(self, batch: list[list[_Token]]) -> Iterator[list[list[_Token]]]:
        """Split the tokens of every sequence into parts that fit into one forward pass."""
        if self._setup.reads_whole:
            yield batch
            return
        most_tokens, most_logits = (
            max(1, most // self._setup.sequences)
            for most in (self._setup.chunk_sizes.prefill_chunk, self._setup.chunk_sizes.most_logits)
        )
        chooses = [any(t and t.chooses for t in column) for column in itertools.zip_longest(*batch)]
        start = 0
        while start < len(chooses):
            logits = itertools.accumulate(chooses[start : start + most_tokens])
            stop = start + sum(count <= most_logits for count in logits)
            yield [tokens[start:stop] for tokens in batch]
            start = stop

    def _plain_end(self, pieces: Sequence[Piece], branches: Branches) -> int:
        """Return the number of first tokens to run before the others, since they need no mask."""
        if not (branches.is_plain and pieces):
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

    def _pass(
        self, batch: Sequence[Sequence[_Token]], summaries: RowSummaries
    ) -> Int[Tensor, " choice"]:
        """Run one forward pass; return what the model chooses after the tokens that choose."""
        model, device = self._setup.loaded.model, self._setup.loaded.device
        inputs: dict[str, Any] = {"past_key_values": self._cache, "use_cache": True}
        count = max(map(len, batch))
        if self._branches:
            inputs |= self._place(batch, count)
        # Logits are computed where a token is chosen; the others are a check that they are finite.
        needed = [(n, at) for n, row in enumerate(batch) for at, t in enumerate(row) if t.chooses]
        ends = sorted({at for _, at in needed}) or [count - 1]
        inputs["logits_to_keep"] = torch.tensor(ends, device=device)
        numbers = [[*(token.number for token in row), *[0] * (count - len(row))] for row in batch]
        ids = torch.tensor(numbers, device=device).expand(self._setup.sequences, -1)
        watch = [at for at, token in enumerate(batch[0]) if token.is_watched]
        if watch and self._setup.measures:
            output = observe(
                model,
                ids,
                on_rows=summaries.see,
                watch=watch,
                chunk_bytes=self._row_bytes(self._cache.get_seq_length() + count),
                **inputs,
            )
            summaries.finish()
        else:
            output = forward(model, ids, **inputs)
        first = [row for row, (n, at) in enumerate(needed) if not batch[n][at].piece.may_end]
        logits = output.logits.flatten(0, 1)
        if len(needed) not in (0, len(logits)):
            logits = logits[[n * len(ends) + ends.index(at) for n, at in needed]]
        return self._setup.rules.choose(logits, first=first)[: len(needed)]

    def _place(self, batch: Sequence[Sequence[_Token]], count: int) -> dict[str, Layout]:
        """Place ``count`` tokens of every sequence, padding included; return their layout."""
        branches = self._branches or ()
        for of, tokens in zip(branches, batch, strict=True):
            of.place([t.piece.branch for t in tokens], [t.position for t in tokens])
            of.pad(count - len(tokens))
        if all(of.is_plain for of in branches):
            return {}
        return {"layout": Layout.batch([of.layout(count) for of in branches])}

    def _row_bytes(self, keys: int) -> int:
        most = _MOST_ROWS * 4 * self._setup.loaded.layout.num_heads * keys
        return min(most, self._setup.chunk_sizes.row_bytes)


def _tokens(pieces: Sequence[Piece]) -> list[_Token]:
    return [
        _Token(
            number=number,
            piece=piece,
            position=piece.start + at,
            is_watched=at in piece.watched,
            chooses=piece.chooses and at in piece.watched,
        )
        for piece in pieces
        for at, number in enumerate(piece.tokens)
    ]
