"""Sum each measure's scores of every head over the steps of a case."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headprobe.attention.logit_attribution import LogitAttribution
from headprobe.attention.observe import AttentionRows
from headprobe.measures import Watched, get_measure
from headprobe.prompts.case import Case
from headprobe.tasks import Task

if TYPE_CHECKING:
    from headprobe.models.loading import LoadedModel


class ScoreAccumulator:
    """Sums each measure's scores of every head over the steps of one case."""

    def __init__(
        self, loaded: LoadedModel, case: Case, task: Task, attribution: LogitAttribution | None
    ) -> None:
        shape = (loaded.layout.layers, loaded.layout.num_heads)
        self._case = case
        self._attribution = attribution
        self._measures = {name: get_measure(name) for name in task.measures}
        # The steps of an answer that count are known only at its end.
        self._counts_all_steps = task.probe.counts_all_steps
        self._waits = task.probe.max_new_tokens(case) > 0
        self._watched: Watched = "answer"
        self._summaries: dict[tuple[str, int], list[Tensor]] = {}
        self._fractions: dict[tuple[str, int], list[Tensor]] = {}
        self._totals = {
            name: torch.zeros(shape, dtype=torch.float64, device=loaded.device)
            for name in task.measures
        }

    def begin(self, watched: Watched) -> None:
        """Drop earlier rows; the steps that follow belong to ``watched``, question or answer."""
        self._watched = watched
        self._summaries.clear()

    def see(self, rows: AttentionRows) -> None:
        """Keep each measure's summary of a layer's attention rows."""
        for name, measure in self._measures.items():
            if measure.watches == self._watched:
                summary = measure.summarise(rows, self._case)
                self._summaries.setdefault((name, rows.layer), []).append(summary)

    def choose(self, tokens: Int[Tensor, " step"], *, weight: float = 1.0) -> None:
        """Score the newest steps, now that the tokens that they chose are known.

        There may be fewer tokens than steps: the steps after them are dropped.

        Args:
            tokens: the token that each step chose, or read where nothing is answered.
            weight: a factor on the scores.
        """
        for (name, layer), summaries in self._summaries.items():
            measure = self._measures[name]
            summary = torch.cat(summaries, dim=1)[:, : len(tokens)]
            if measure.attributes_logits and self._attribution:
                summary = self._attribution.logits(layer, summary, tokens)
            fractions = measure.score(summary, self._case, tokens.to(summary.device))
            if self._waits and self._watched == "answer":
                self._fractions.setdefault((name, layer), []).append(fractions)
            else:
                self._add(name, layer, fractions, weight)

    def totals(self, steps: slice) -> dict[str, Float[Tensor, "layer query_head"]]:
        """Sum each measure over the steps that it counts: all of them, or only ``steps``."""
        for (name, layer), fractions in self._fractions.items():
            all_steps = self._counts_all_steps or self._measures[name].counts_all_steps
            counted = slice(None) if all_steps else steps
            self._add(name, layer, torch.cat(fractions, dim=1)[:, counted], 1.0)
        self._fractions.clear()
        return self._totals

    def _add(
        self, name: str, layer: int, fractions: Float[Tensor, "query_head step"], weight: float
    ) -> None:
        total = self._totals[name]
        total[layer] += weight * fractions.sum(dim=1, dtype=total.dtype).to(total.device)
