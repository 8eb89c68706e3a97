"""What an evaluation's picture shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from headprobe.evaluation.baselines import BASELINES
from headprobe.evaluation.results import FULL, MethodResult
from headprobe.evaluation.settings import SETTINGS
from headprobe.plots import draw_evaluation, save
from headprobe.plots.evaluations import evaluation_column
from headprobe.stats.bootstrap import Estimate

SHARES = (0.015, 0.06, 0.25)
STRATEGIES = ("headkv", *BASELINES)


def result(setting: str, strategy: str, fraction: float, value: float) -> MethodResult:
    return MethodResult(
        metric="f1",
        setting=setting,
        strategy=strategy,
        selection=None if strategy == FULL else "attention",
        budget=f"{100 * fraction}%",
        is_baseline=strategy not in (FULL, "headkv", "tuned"),
        fraction=fraction,
        grades={"f1": Estimate(value=value, ci_low=value - 4, ci_high=value + 3)},
        of_full=None,
        best_baseline=None,
        gain=None,
    )


def results(strategies: tuple[str, ...] = STRATEGIES) -> list[MethodResult]:
    """In an order other than that of the shares."""
    found = []
    for setting in SETTINGS:
        found.append(result(setting, FULL, 1.0, 95.0))
        for fraction in reversed(SHARES):
            found += [
                result(setting, name, fraction, 10 + 200 * fraction + number)
                for number, name in enumerate(strategies)
            ]
    return found


def panels(found: list[MethodResult]) -> list[Axes]:
    drawn = []
    for draw_panel in filter(None, evaluation_column(found, metric="f1", subject="nano").panels):
        drawn.append(Figure().subplots())
        draw_panel(drawn[-1])
    return drawn


def lines(axes: Axes) -> dict[str, ErrorbarContainer]:
    return {
        str(container.get_label()): container
        for container in axes.containers
        if isinstance(container, ErrorbarContainer)
    }


def test_a_panel_a_setting_and_a_line_a_strategy() -> None:
    drawn = panels(results())
    assert [axes.get_title().lower() for axes in drawn] == [
        one.lower() for one in SETTINGS.values()
    ]
    for axes in drawn:
        assert tuple(lines(axes)) == STRATEGIES
        for number, container in enumerate(lines(axes).values()):
            x, y = np.array(container.lines[0].get_data(), dtype=float)
            np.testing.assert_allclose(x, 100 * np.array(SHARES))
            np.testing.assert_allclose(y, 10 + 200 * np.array(SHARES) + number)
            (bars,) = container.lines[2]
            ends = np.array([segment[:, 1] for segment in bars.get_segments()], dtype=float)
            np.testing.assert_allclose(ends, np.stack([y - 4, y + 3], axis=1))


def test_the_full_cache_is_a_level() -> None:
    for axes in panels(results()):
        (level,) = (line for line in axes.lines if line.get_label() == FULL)
        assert set(level.get_ydata()) == {95.0}


def test_lines_differ_in_colour_and_marker_and_are_alike_in_both_panels() -> None:
    looks = []
    for axes in panels(results(("headkv", "tuned", *STRATEGIES[1:]))):
        drawn = {name: container.lines[0] for name, container in lines(axes).items()}
        looks.append({n: (li.get_color(), li.get_marker()) for n, li in drawn.items()})
        for kind in zip(*looks[-1].values(), strict=True):
            assert len(set(kind)) == len(drawn) == 10
        dashed = {name for name, line in drawn.items() if line.get_linestyle() == "--"}
        assert dashed == set(STRATEGIES[1:])
    assert looks[0] == looks[1]


def test_small_shares_are_told_apart() -> None:
    assert panels(results())[0].get_xscale() == "log"
    close = [result("query_aware", FULL, 1.0, 90.0), result("query_aware", "headkv", 0.1, 50.0)]
    (axes,) = panels(close)
    assert axes.get_xscale() == "linear"
    left, right = axes.get_xlim()
    assert left < 10 < right
    (alone,) = panels(close[:1])
    assert not lines(alone)


@pytest.mark.parametrize("suffix", ["png", "svg"])
@pytest.mark.slow
def test_the_picture_is_saved(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"accuracy.{suffix}"
    save(draw_evaluation(results(), metric="f1", subject="nano, r2"), path)
    assert path.stat().st_size > 1000
