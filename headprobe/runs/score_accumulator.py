"""Turn the attention rows of packed forward passes into scores, case by case.

A row's token is known only after its pass. So a pass keeps each measure's summary of the rows
(``RowSummaries``), and a case's ``ScoreAccumulator`` scores its summaries once its tokens are
known. Summaries of several cases' rows are computed in one call where the cases watch one span.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headprobe.attention.branches import Branches
from headprobe.attention.logit_attribution import LogitAttribution
from headprobe.attention.rows import AttentionRows
from headprobe.measures import Measure, Watched
from headprobe.prompts.case import Case
from headprobe.runs.reading_setup import ReadingSetup
from headprobe.runs.utility import CaseUtility, mean_gains


@dataclass(eq=False, kw_only=True)
class View:
    """A case's view of some successive watched rows: of its ``branch``'s part of the KV cache.

    ``summaries`` are filled while the model runs: by measure and layer, of each chunk of rows. So
    are ``gains``, by layer, of an answer's rows where ``utility`` is gathered; ``position`` is that
    of the first row in the case's text.
    """

    case: Case
    watched: Watched
    branch: int
    rows: int
    summaries: dict[str, dict[int, list[Tensor]]] = field(default_factory=dict)
    utility: CaseUtility | None = None
    position: int = 0
    gains: dict[int, list[Tensor]] = field(default_factory=dict)

    def summary(self, name: str) -> dict[int, Tensor]:
        """Return a measure's summary of all the rows, by layer."""
        return {
            layer: parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
            for layer, parts in self.summaries.get(name, {}).items()
        }


class RowSummaries:
    """Gets the rows of forward passes, and adds each measure's summaries to the views of them.

    The rows of several layers wait until they are ``most_bytes`` and are summarised in one call, by
    the measures that take them so: a pass of few rows costs what starting its operations costs.

    Args:
        measures: the measures by name.
        views: the views of the watched rows, in the order of the rows.
        branches: the layout of the KV cache, ``None`` where it holds a single text.
        most_bytes: the most bytes of rows that wait.
    """

    def __init__(
        self,
        measures: Mapping[str, Measure],
        views: Sequence[View],
        branches: Branches | None,
        *,
        most_bytes: int,
    ) -> None:
        self._by_layer = {n: one for n, one in measures.items() if not one.joins_layers}
        self._joined = {n: one for n, one in measures.items() if one.joins_layers}
        self._branches = branches
        self._most_bytes = most_bytes
        self._seen: dict[int, int] = {}
        self._waiting: list[tuple[int, AttentionRows]] = []
        self._spans: list[tuple[int, list[View]]] = []
        start = 0
        for view in views:
            if self._spans and self._alike(self._spans[-1][1][-1], view):
                self._spans[-1][1].append(view)
            else:
                self._spans.append((start, [view]))
            start += view.rows

    def see(self, rows: AttentionRows) -> None:
        """Take the next rows of a layer."""
        first = self._seen.get(rows.layer, 0)
        self._seen[rows.layer] = first + len(rows.queries)
        for part, views, skipped in self._split(rows, first):
            self._weigh(part, views, skipped)
            self._summarise(self._by_layer, [rows.layer], part, views, skipped)
        if self._joined:
            if not self._fits(first, rows):
                self.finish()
            self._waiting.append((first, rows))

    def finish(self) -> None:
        """Summarise the rows that wait. To be called after a forward pass."""
        if not self._waiting:
            return
        (first, rows), *_ = self._waiting
        layers = [waiting.layer for _, waiting in self._waiting]
        if len(layers) > 1:
            weights = torch.cat([waiting.weights for _, waiting in self._waiting])
            rows = replace(
                rows, weights=weights, values=rows.values[..., :0], outputs=weights[..., :0]
            )
        for part, views, skipped in self._split(rows, first):
            self._summarise(self._joined, layers, part, views, skipped)
        self._waiting.clear()

    def _fits(self, first: int, rows: AttentionRows) -> bool:
        """Tell whether rows can be summarised together with those that wait."""
        if not self._waiting:
            return True
        start, before = self._waiting[-1]
        alike = before.weights.shape == rows.weights.shape and first == start
        size = (len(self._waiting) + 1) * rows.weights.nbytes
        return alike and before.weights.device == rows.weights.device and size <= self._most_bytes

    def _split(
        self, rows: AttentionRows, first: int
    ) -> Iterator[tuple[AttentionRows, list[View], int]]:
        """Yield rows by the views that divide them, of whose rows some number came before."""
        last = first + len(rows.queries)
        for start, views in self._spans:
            stop = start + sum(view.rows for view in views)
            if start < last and first < stop:
                at = max(first, start)
                yield _part(rows, at - first, min(last, stop) - first), views, at - start

    def _weigh(self, rows: AttentionRows, views: Sequence[View], skipped: int) -> None:
        """Gather the utility of the entries that rows attend to, view by view."""
        start = -skipped
        for view in views:
            first, stop = max(0, start), max(0, start + view.rows)
            position = view.position + first - start
            start += view.rows
            weights = rows.weights[:, first:stop]
            if view.utility is None or not weights.shape[1]:
                continue
            keys = self._keys(view)
            if keys is not None:
                weights = weights[..., keys.to(weights.device)]
            view.utility.watch(rows.layer, weights, position)
            if view.watched == "answer":
                gains = view.utility.gains(rows.layer, weights)
                view.gains.setdefault(rows.layer, []).append(gains)

    def _summarise(
        self,
        measures: Mapping[str, Measure],
        layers: Sequence[int],
        rows: AttentionRows,
        views: Sequence[View],
        skipped: int,
    ) -> None:
        """Summarise rows of some layers, heads after heads, that some views divide among them."""
        watching = {n: one for n, one in measures.items() if one.watches == views[0].watched}
        keys = self._keys(views[0]) if watching and not self._on_path(views[0]) else None
        if keys is not None:
            rows = _on_keys(rows, keys)
        for name, measure in watching.items():
            summary = measure.summarise(rows, views[0].case)
            start = -skipped
            for view in views:
                part = summary[:, max(0, start) : max(0, start + view.rows)]
                start += view.rows
                if part.shape[1]:
                    by_layer = view.summaries.setdefault(name, {})
                    for layer, heads in zip(layers, part.chunk(len(layers)), strict=True):
                        by_layer.setdefault(layer, []).append(heads)

    def _alike(self, one: View, other: View) -> bool:
        """Tell whether two views have one summary: the same span on the path, or the same text."""
        if one.watched != other.watched or one.case.span != other.case.span:
            return False
        return one.branch == other.branch or (self._on_path(one) and self._on_path(other))

    def _on_path(self, view: View) -> bool:
        """Tell whether a view's keys need no sorting: those of its span are on the path."""
        branches = self._branches
        return branches is None or view.case.span_end <= branches.path_limit(view.branch)

    def _keys(self, view: View) -> Int[Tensor, " key"] | None:
        branches = self._branches
        return None if branches is None or branches.is_plain else branches.keys(view.branch)


class ScoreAccumulator:
    """Sums each measure's scores of every head over the steps of one case."""

    def __init__(
        self, setup: ReadingSetup, case: Case, attribution: LogitAttribution | None
    ) -> None:
        loaded, task = setup.loaded, setup.task
        shape = (loaded.layout.layers, loaded.layout.num_heads)
        self._case = case
        self._attribution = attribution
        self._measures = setup.measures
        # The steps of an answer that count are known only at its end.
        self._counts_all_steps = task.probe.counts_all_steps
        self._waits = task.probe.max_new_tokens(case) > 0
        self._steps: dict[str, list[tuple[list[int], Tensor]]] = {}
        self._layers = loaded.layout.layers
        self._gains: list[dict[int, Tensor]] = []
        self._totals = {
            name: torch.zeros(shape, dtype=torch.float64, device=loaded.device)
            for name in task.measures
        }

    def add(self, view: View, tokens: Int[Tensor, " step"], *, weight: float = 1.0) -> None:
        """Score a view's first steps, now that the tokens that they chose are known.

        Args:
            view: the rows of some steps; rows beyond the tokens are dropped.
            tokens: the token that each step chose, or read where nothing is answered.
            weight: a factor on the scores.
        """
        if view.gains:
            found = {layer: torch.cat(parts, dim=2) for layer, parts in view.gains.items()}
            self._gains.append({layer: own[:, :, : len(tokens)] for layer, own in found.items()})
        for name, measure in self._measures.items():
            by_layer = view.summary(name)
            if measure.watches != view.watched or not by_layer:
                continue
            fractions = self._score(name, by_layer, tokens)
            if self._waits and view.watched == "answer":
                self._steps.setdefault(name, []).append(([*by_layer], fractions))
            else:
                self._add(name, [*by_layer], weight * fractions)

    def totals(self, steps: slice) -> dict[str, Float[Tensor, "layer query_head"]]:
        """Sum each measure over the steps that it counts: all of them, or only ``steps``."""
        for name, parts in self._steps.items():
            all_steps = self._counts_all_steps or self._measures[name].counts_all_steps
            fractions = torch.cat([part for _, part in parts], dim=-1)
            self._add(name, parts[0][0], fractions[..., slice(None) if all_steps else steps])
        self._steps.clear()
        return self._totals

    def gains(self, steps: slice) -> Float[np.ndarray, "cut layer kv_head fraction"] | None:
        """Average over ``steps`` what the answer gains by each fraction of the entries."""
        return mean_gains(self._layers, self._gains, steps) if self._gains else None

    def _score(
        self, name: str, by_layer: dict[int, Tensor], tokens: Int[Tensor, " step"]
    ) -> Float[Tensor, "layer query_head step"]:
        """Score some steps of all layers at once."""
        measure = self._measures[name]
        taken = {layer: summary[:, : len(tokens)] for layer, summary in by_layer.items()}
        if measure.attributes_logits and self._attribution:
            taken = {
                layer: self._attribution.logits(layer, summary, tokens)
                for layer, summary in taken.items()
            }
        summaries = torch.stack([summary.to(tokens.device) for summary in taken.values()])
        heads = summaries.flatten(0, 1)
        scores = measure.score(heads, self._case, tokens)
        return scores.view(*summaries.shape[:2], len(tokens))

    def _add(
        self, name: str, layers: list[int], fractions: Float[Tensor, "layer query_head step"]
    ) -> None:
        total = self._totals[name]
        total[layers] += fractions.sum(dim=-1, dtype=total.dtype).to(total.device)


def _part(rows: AttentionRows, start: int, stop: int) -> AttentionRows:
    """Return some of the rows."""
    if (start, stop) == (0, len(rows.queries)):
        return rows
    return replace(
        rows,
        queries=rows.queries[start:stop],
        weights=rows.weights[:, start:stop],
        outputs=rows.outputs[:, start:stop],
    )


def _on_keys(rows: AttentionRows, keys: Int[Tensor, " key"]) -> AttentionRows:
    """Return the rows over some of the KV cache's entries only."""
    keys = keys.to(rows.weights.device)
    return replace(rows, weights=rows.weights[..., keys], values=rows.values[:, keys])
