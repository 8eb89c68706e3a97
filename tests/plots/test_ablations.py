"""What an ablation's picture shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from headprobe.ablation.curves import Ablation
from headprobe.ablation.rankings import plan_trials
from headprobe.models.layout import HeadLayout
from headprobe.plots import draw_ablation, save
from headprobe.plots.ablations import CURVES_SHOWN, ablation_column
from headprobe.scores.titles import title

MEASURES = ("r2", "retrieval", "locos", "mass", "qr", "echo", "induction", "semantic")


def ablation(count: int) -> Ablation:
    generator = np.random.default_rng(0)
    rankings = {name: generator.random((5, 4), dtype=np.float32) for name in MEASURES[:count]}
    trials = plan_trials(rankings, layers=range(5), top_k=[1, 3, 8], random_draws=3, seed=0)
    return Ablation(
        layout=HeadLayout(
            id="tiny", architecture="Llama", layers=5, num_heads=4, num_kv_heads=2, head_dim=8
        ),
        task="r2",
        metric="passed",
        needles=tuple(case // 2 for case in range(12)),
        full=np.full(12, 100.0),
        trials=trials,
        grades=100.0 * (generator.random((len(trials), 12)) < 0.5),
        plan={"ablation": "mean"},
        seed=0,
    )


def panels(done: Ablation) -> list[Axes]:
    drawn = []
    for draw_panel in filter(None, ablation_column(done).panels):
        drawn.append(Figure().subplots())
        draw_panel(drawn[-1])
    return drawn


def heights(axes: Axes) -> dict[str, list[float]]:
    return {str(line.get_label()): np.asarray(line.get_ydata()).tolist() for line in axes.lines}


def test_a_measure_is_drawn_from_no_heads_to_the_most() -> None:
    done = ablation(1)
    (curve,) = done.curves()
    single, areas = panels(done)
    lines = heights(single)
    for name, points in (
        ("top by HeadKV-R2", curve.top),
        ("bottom by HeadKV-R2", curve.bottom),
        ("random others", curve.random),
    ):
        assert lines[name] == [100.0, *(point.value for point in points)]
    assert all(np.asarray(line.get_xdata()).tolist() == [0, 1, 3, 8] for line in single.lines)
    assert [tick.get_text() for tick in single.get_xticklabels()] == ["0", "1", "3", "8"]
    assert f"{curve.area.value:.2f}" in single.get_title()
    assert [tick.get_text() for tick in areas.get_yticklabels()] == ["HeadKV-R2"]


def test_heads_stand_where_the_area_counts_them() -> None:
    single = panels(ablation(1))[0]
    places = single.transData.transform([(k, 50) for k in (0, 1, 3, 7)])[:, 0]
    np.testing.assert_allclose(np.diff(places), np.diff(places)[0])


def test_the_band_of_random_heads_is_their_interval() -> None:
    done = ablation(1)
    (curve,) = done.curves()
    band = max(panels(done)[0].collections, key=lambda found: len(found.get_paths()[0].vertices))
    corners = {tuple(map(float, corner)) for corner in band.get_paths()[0].vertices}
    for k, point in zip(curve.top_k, curve.random, strict=True):
        assert {(k, point.ci_low), (k, point.ci_high)} <= corners


def test_several_measures_are_drawn_together_the_best_first() -> None:
    done = ablation(3)
    together, areas, *singles = panels(done)
    curves = done.curves()
    names = [title(curve.measure) for curve in curves]
    assert list(heights(together)) == names
    assert len({(line.get_color(), line.get_marker()) for line in together.lines}) == 3
    assert [t.get_text() for t in areas.get_yticklabels()] == names
    assert [axes.get_title().split(":")[0] for axes in singles] == names


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8])
@pytest.mark.slow
def test_any_number_of_measures_fits_the_page(count: int, tmp_path: Path) -> None:
    done = ablation(count)
    figure = draw_ablation(done)
    together = count > 1
    assert len(figure.axes) == 1 + together + 1 + min(count, CURVES_SHOWN)
    if count == 8:
        save(figure, tmp_path / "ablation.svg")
        assert b"<svg" in (tmp_path / "ablation.svg").read_bytes()


def test_the_heading_says_what_was_done() -> None:
    column = ablation_column(ablation(2))
    assert column.title == "tiny, HeadKV-R2: heads ablated"
    facts = [fact for line in column.details for fact in line]
    assert {"12 cases", "20 heads", "by mean", "3 draws of random heads"} <= set(facts)
    assert "accuracy with none ablated 100.0 %" in facts
