"""What a comparison's picture shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from headprobe.models.layout import HeadLayout
from headprobe.plots import draw_comparison
from headprobe.plots.comparisons import comparison_column
from headprobe.plots.ranking import LEVEL, LINE
from headprobe.scores import HeadScores
from headprobe.scores.comparison import Comparison, compare_needles, compare_runs
from headprobe.stats.ranks import average_ranks, rank_correlation, top_overlap


def run(seed: int, *, layers: int = 5, heads: int = 8, needles: int = 6) -> HeadScores:
    """Some heads at zero, the others far apart."""
    generator = np.random.default_rng(seed)
    high = np.random.default_rng(99).lognormal(0, 2, (layers, heads))
    high[0] = 0
    return HeadScores(
        layout=HeadLayout(
            id="tiny",
            architecture="Llama",
            layers=layers,
            num_heads=heads,
            num_kv_heads=4,
            head_dim=8,
        ),
        task="r2",
        per_case={"r2": (high * generator.lognormal(0, 2, (12, layers, heads))).astype(np.float32)},
        needles=tuple(case % needles for case in range(12)),
        cases=12,
    )


def compared(count: int) -> Comparison:
    return compare_runs([(f"run-{seed}", run(seed)) for seed in range(count)])


def panels(comparison: Comparison) -> list[Axes]:
    drawn = []
    for draw_panel in filter(None, comparison_column(comparison).panels):
        drawn.append(Figure().subplots())
        draw_panel(drawn[-1])
    return drawn


def dots(axes: Axes) -> list[np.ndarray]:
    return [np.asarray(collection.get_offsets()) for collection in axes.collections]


def rows(comparison: Comparison) -> Sequence[np.ndarray]:
    return [ranking.scores.reshape(1, -1) for ranking in comparison.rankings]


@pytest.mark.parametrize(("count", "scatters"), [(2, 1), (3, 3), (4, 6)])
def test_few_rankings_are_drawn_pair_by_pair(count: int, scatters: int) -> None:
    comparison = compared(count)
    *pairs, curves = panels(comparison)
    assert len(pairs) == scatters
    for axes, agreement in zip(pairs, comparison.agreements, strict=True):
        assert axes.get_xlabel() == f"mean score, {agreement.one}"
        assert axes.get_ylabel() == f"mean score, {agreement.other}"
        assert axes.get_title() == (
            f"Rank correlation {agreement.rank_correlation:.2f}, "
            f"top 5 overlap by {agreement.overlap:.2f}"
        )
        assert sum(map(len, dots(axes))) == 40
    # A line a pair, chance, and the mark of the usual top.
    assert len(curves.lines) == scatters + 2
    figure = draw_comparison(comparison)
    assert len(figure.axes) == 1 + scatters + 1


def test_the_colours_tell_the_tops() -> None:
    comparison = compared(2)
    one, other = rows(comparison)
    tops = [{int(i) for i in np.argsort(-side[0])[:5]} for side in (one, other)]
    assert len(tops[0] & tops[1]) in range(1, 5)
    groups = {
        tuple(collection.get_facecolor()[0][:3]): {tuple(at) for at in collection.get_offsets()}
        for collection in panels(comparison)[0].collections
        if len(collection.get_offsets())
    }
    for colour, heads in ((LINE, tops[0] & tops[1]), (LEVEL, tops[0] ^ tops[1])):
        assert groups[to_rgba(colour)[:3]] == {(one[0, i], other[0, i]) for i in heads}


def test_wide_scores_get_a_scale_with_a_place_for_zeros() -> None:
    axes = panels(compared(2))[0]
    assert axes.get_xscale() == axes.get_yscale() == "symlog"
    for low, high in (axes.get_xlim(), axes.get_ylim()):
        assert low < 0 < high
    assert axes.get_xticklabels()[0].get_text() == "0"
    x, y = (np.concatenate(dots(axes))[:, side] for side in (0, 1))
    assert axes.get_xlim()[1] > x.max()
    assert axes.get_ylim()[1] > y.max()


def test_the_highest_heads_are_named_and_names_keep_apart() -> None:
    axes = panels(compared(2))[0]
    one = compared(2).rankings[0].scores
    layer, head = np.unravel_index(int(one.argmax()), one.shape)
    named = [text.get_text() for text in axes.texts]
    assert f"{layer}-{head}" in named
    assert 2 <= len(set(named)) == len(named) <= 12


def test_the_overlap_is_drawn_for_tops_of_all_sizes() -> None:
    comparison = compared(2)
    one, other = rows(comparison)
    line, chance, mark = panels(comparison)[-1].lines
    sizes = np.asarray(line.get_xdata())
    assert (sizes[0], sizes[-1]) == (1, 40)
    for size, shared in zip(sizes, np.asarray(line.get_ydata()), strict=True):
        assert shared == pytest.approx(top_overlap(one, other, int(size))[0])
    np.testing.assert_allclose(chance.get_ydata(), sizes / 40)
    assert list(mark.get_xdata()) == [5, 5]


def test_many_rankings_are_drawn_as_grids_without_themselves() -> None:
    comparison = compared(6)
    correlation, overlap, _, curves = panels(comparison)
    for axes, number in (
        (correlation, rank_correlation),
        (overlap, lambda a, b: top_overlap(a, b, 5)),
    ):
        (image,) = axes.images
        cells = np.ma.filled(image.get_array(), np.nan)
        assert np.isnan(np.diag(cells)).all()
        for i, one in enumerate(rows(comparison)):
            for j, other in enumerate(rows(comparison)):
                if i != j:
                    assert cells[i, j] == pytest.approx(number(one, other)[0])
        assert [label.get_text() for label in axes.get_xticklabels()] == [*"123456"]
        assert axes.get_xlabel() == "ranking"
    assert len(curves.lines) == 1 + 2
    details = [fact for line in comparison_column(comparison).details for fact in line]
    start = details.index("6 rankings")
    assert details[start : start + 4] == ["6 rankings", "40 heads", "top 5", "1: run-0"]
    assert len(draw_comparison(comparison).axes) == 1 + 4


def test_the_top_heads_are_those_of_the_lowest_median_rank() -> None:
    comparison = compared(5)
    axes = panels(comparison)[2]
    places = np.stack([average_ranks(-row)[0] for row in rows(comparison)])
    middle = np.median(places, axis=0)
    best = np.argsort(middle, kind="stable")[:12]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [f"{head // 8}-{head % 8}" for head in best]
    *each, bars = dots(axes)
    np.testing.assert_allclose(bars[:, 0], middle[best])
    np.testing.assert_allclose([dot[:, 0] for dot in each], places[:, best])


def test_needles_are_told_by_their_own_numbers() -> None:
    comparison = compare_needles(run(0), measure=None)
    grid = panels(comparison)[0]
    assert [label.get_text() for label in grid.get_yticklabels()] == [*"012345"]
    assert grid.get_ylabel() == "needle"
    cases, told = comparison_column(comparison).details
    assert cases[0].endswith("cases passed")
    assert told == ("6 needles", "40 heads", "top 5")
    few = compare_needles(run(0, needles=3), measure=None)
    legend = panels(few)[-1].get_legend()
    assert legend
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown == ["0 and 1", "0 and 2", "1 and 2", "by chance"]


@pytest.mark.parametrize("scale", [0.0, 1.0, -1.0])
@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (2, 4)])
@pytest.mark.parametrize("count", [2, 5])
def test_any_scores_can_be_drawn(scale: float, layers: int, heads: int, count: int) -> None:
    layout = HeadLayout(
        id="tiny", architecture="Llama", layers=layers, num_heads=heads, num_kv_heads=1, head_dim=8
    )
    generator = np.random.default_rng(0)
    runs = [
        HeadScores(
            layout=layout,
            task="r2",
            per_case={"r2": (scale * generator.random((3, layers, heads))).astype(np.float32)},
            needles=(0, 1, 2),
            cases=3,
        )
        for _ in range(count)
    ]
    draw_comparison(compare_runs([(f"run-{i}", each) for i, each in enumerate(runs)]))
