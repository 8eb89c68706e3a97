from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from headprobe.budgets import HeadBudgets
from headprobe.errors import HeadprobeError, UsageError
from headprobe.models.layout import HeadLayout
from headprobe.plots import RunPicture, draw, save
from headprobe.plots.budgets import budget_column
from headprobe.plots.column import Column
from headprobe.plots.runs import run_column
from headprobe.plots.scales import evenly, is_wide, log_ticks, plain
from headprobe.scores import HeadScores


def layout(layers: int, heads: int, kv_heads: int) -> HeadLayout:
    return HeadLayout(
        id="lab/model",
        architecture="LlamaForCausalLM",
        layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=8,
    )


def scores(
    layers: int = 5,
    heads: int = 8,
    kv_heads: int = 4,
    *,
    passed: int = 61,
    cases: int = 100,
    measure: str = "r2",
) -> HeadScores:
    """Most heads at zero, a few high."""
    generator = np.random.default_rng(0)
    high = (generator.random((layers, heads)) < 0.2) * generator.random((layers, heads))
    noise = generator.lognormal(0, 0.3, (passed, layers, heads))
    return HeadScores(
        layout=layout(layers, heads, kv_heads),
        task="r2",
        per_case={measure: (high * noise).astype(np.float32)},
        needles=tuple(case % 7 for case in range(passed)),
        cases=cases,
    )


def case_table(passed: int = 61, cases: int = 100) -> pd.DataFrame:
    """Lengths and depths over the corners of a grid, two of its cells left without a case."""
    generator = np.random.default_rng(1)
    cells = [(256, 0.0), (256, 50.0), (256, 100.0), (1024, 0.0), (512, 50.0), (512, 0.0)]
    table = pd.DataFrame(
        [cells[case % len(cells)] for case in range(cases)], columns=["length", "depth"]
    )
    table["accepted"] = generator.permutation(cases) < passed
    return table


def run_picture(run: HeadScores | None = None, cases: pd.DataFrame | None = None) -> RunPicture:
    run = run or scores()
    return RunPicture(scores=run, measure=run.measures[0], cases=cases)


def budgets(shape: tuple[int, int] = (5, 4), **changes: Any) -> HeadBudgets:
    layers, kv_heads = shape
    fields: dict[str, Any] = {
        "layout": layout(layers, 2 * kv_heads, kv_heads),
        "strategy": {"name": "headkv", "budget": 128, "beta": 1.2, "context_length": None},
        "granularity": "kv",
        "window": 8,
        "sinks": 4,
        "compensation": False,
        "selection": np.full(shape, "attention"),
        "tokens": 8 + 3 * np.arange(layers * kv_heads).reshape(shape),
        "ratio": np.zeros(shape),
    }
    return HeadBudgets(**(fields | changes))


def column(item: RunPicture | HeadBudgets) -> Column:
    return run_column(item) if isinstance(item, RunPicture) else budget_column(item)


def panel(item: RunPicture | HeadBudgets, title: str) -> Axes:
    """The one panel with such a title, without the page around it."""
    drawn = []
    for draw_panel in filter(None, column(item).panels):
        drawn.append(Figure().subplots())
        draw_panel(drawn[-1])
    found = [axes for axes in drawn if title in axes.get_title()]
    assert len(found) == 1, [axes.get_title() for axes in drawn]
    return found[0]


def test_a_picture_says_how_questions_were_put() -> None:
    tried = {"passed": {"chat": 0.25, "shots": 0.75}, "prompts": 8}
    plan = {"prompt": "auto", "prompt_style": "shots", "prompt_tried": tried}
    shown = heading(run_picture(replace(scores(), plan=plan)))
    assert "prompt shots (of 8 short prompts passed: chat 25 %, shots 75 %)" in shown
    assert not [line for line in heading(run_picture()) if "prompt" in line]


def heading(item: RunPicture | HeadBudgets) -> list[str]:
    shown = column(item)
    return [shown.title, *filter(None, [shown.warning]), *map(" · ".join, shown.details)]


def texts(figure: Figure) -> list[str]:
    written = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    return [text.get_text().replace("\N{NO-BREAK SPACE}", " ") for text in written]


def numbers(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def tick_labels(axes: Axes) -> tuple[list[str], list[str]]:
    return (
        [label.get_text() for label in axes.get_xticklabels()],
        [label.get_text() for label in axes.get_yticklabels()],
    )


def heat(axes: Axes) -> np.ndarray:
    (image,) = axes.images
    return np.ma.filled(image.get_array(), np.nan)


def test_a_run_with_cases_has_four_panels_below_its_heading() -> None:
    figure = draw([run_picture(cases=case_table())])
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "",
        "Score of every head",
        "3 of 40 heads hold half of all score, 32 (80 %) at zero",
        "Top 12 heads, 95 % bootstrap intervals",
        "61 of 100 cases passed (61 %)",
    ]
    written = texts(figure)
    for line in heading(run_picture()):
        assert line in written


def test_an_imported_run_has_no_pass_grid() -> None:
    figure = draw([run_picture()])
    assert len(figure.axes) == 1 + 3
    assert not any("cases passed (%)" in text for text in texts(figure))


def test_a_task_that_asks_nothing_has_no_pass_grid() -> None:
    figure = draw([run_picture(replace(scores(), task="razor"), case_table())])
    assert len(figure.axes) == 1 + 3


def test_the_heatmap_shows_the_mean_scores_layer_0_at_the_top() -> None:
    run = scores()
    axes = panel(run_picture(run), "Score of every head")
    np.testing.assert_array_equal(heat(axes), run.mean("r2"))
    assert tick_labels(axes) == ([*"01234567"], [*"01234"])
    bottom, top = axes.get_ylim()
    assert top < 0 < bottom
    assert axes.get_xlabel() == "query head (lines part the 4 KV heads)"
    assert axes.get_ylabel() == "layer (0 is next to the input)"
    separators = [line.get_xdata()[0] for line in axes.lines]
    assert separators == [1.5, 3.5, 5.5]


def test_cells_carry_numbers_only_where_there_are_few() -> None:
    run = scores()
    small = panel(run_picture(run), "Score of every head")
    assert numbers(small) == [evenly(run.mean("r2"))(float(s)) for s in run.mean("r2").ravel()]
    assert numbers(panel(run_picture(scores(32, 32, 8)), "Score of every head")) == []
    # 64 cells, but each too narrow for a number
    assert numbers(panel(run_picture(scores(1, 64, 8)), "Score of every head")) == []


@pytest.mark.parametrize(
    ("layers", "heads", "rows", "columns"),
    [(4, 8, 4, 8), (32, 32, 16, 16), (80, 64, 10, 16), (1, 1, 1, 1)],
)
def test_ticks_are_whole_numbers_and_at_most_sixteen(
    layers: int, heads: int, rows: int, columns: int
) -> None:
    run = scores(layers, heads, 1, passed=3, cases=3)
    axes = panel(run_picture(run), "Score of every head")
    across, down = tick_labels(axes)
    assert (len(down), len(across)) == (rows, columns)
    assert across == [str(i) for i in range(0, heads, max(1, heads // columns))]
    assert down == [str(i) for i in range(0, layers, max(1, layers // rows))]


def test_the_distribution_counts_retrieval_heads_as_the_paper_does() -> None:
    run = scores(measure="retrieval")
    mean = run.mean("retrieval")
    axes = panel(run_picture(run), "Of 40 heads")
    above, zero = int((mean > 0.1).sum()), int((mean == 0).sum())
    assert 0 < above < 40 - zero
    assert axes.get_title() == (
        f"Of 40 heads, {above} ({plain(100 * above / 40)} %) above 0.1, "
        f"{zero} ({plain(100 * zero / 40)} %) at zero"
    )
    curve, threshold = axes.lines
    assert threshold.get_ydata() == [0.1, 0.1]
    np.testing.assert_array_equal(curve.get_ydata(), np.sort(mean, axis=None)[::-1])


def test_the_distribution_of_another_measure_counts_the_heads_that_hold_half() -> None:
    run = scores()
    held = np.sort(run.mean("r2").astype(np.float64), axis=None)[::-1].cumsum()
    half = 1 + int((held < held[-1] / 2).sum())
    panel(run_picture(run), f"{half} of 40 heads hold half of all score")


def test_the_top_heads_carry_their_bootstrap_intervals() -> None:
    run = scores()
    found = run.statistics("r2", seed=0)
    axes = panel(run_picture(run), "Top 12 heads")
    order = np.argsort(-found.mean, axis=None, kind="stable")[:12]
    assert tick_labels(axes)[1] == [f"{head // 8}-{head % 8}" for head in order]
    errors, bars = axes.containers
    np.testing.assert_allclose([bar.get_width() for bar in bars], found.mean.ravel()[order])
    (segments,) = (lines.get_segments() for lines in errors.lines[2])
    low, high = found.ci_low.ravel()[order], found.ci_high.ravel()[order]
    assert (low < high).any()
    np.testing.assert_allclose([[s[0, 0], s[1, 0]] for s in segments], np.stack([low, high], 1))


def test_intervals_use_the_seed_of_the_run() -> None:
    run = scores()
    axes = panel(run_picture(replace(run, plan={"seed": 5})), "Top 12 heads")
    (segments,) = (lines.get_segments() for lines in axes.containers[0].lines[2])
    best = int(np.argmax(run.mean("r2")))
    assert segments[0][0, 0] == pytest.approx(run.statistics("r2", seed=5).ci_low.ravel()[best])
    assert segments[0][0, 0] != pytest.approx(run.statistics("r2", seed=0).ci_low.ravel()[best])


def test_the_pass_grid_holds_the_fraction_of_passed_cases_and_nan_where_none_ran() -> None:
    cases = case_table()
    axes = panel(run_picture(cases=cases), "61 of 100 cases passed (61 %)")
    expected = np.full((3, 3), np.nan)
    for row, depth in enumerate((0, 50, 100)):
        for column, length in enumerate((256, 512, 1024)):
            here = cases[(cases["length"] == length) & (cases["depth"] == depth)]
            if len(here):
                expected[row, column] = 100 * here["accepted"].mean()
    assert np.isnan(expected).sum() == 3
    np.testing.assert_allclose(heat(axes), expected)
    assert tick_labels(axes) == (["256", "512", "1,024"], ["0", "50", "100"])
    assert numbers(axes) == [
        f"{fraction:.0f}" for fraction in expected.ravel() if np.isfinite(fraction)
    ]
    assert matplotlib.colors.to_hex(axes.get_facecolor()) == "#d9d9d9"


def test_a_large_pass_grid_has_fewer_labels_and_no_numbers() -> None:
    cells = [(1000 * length, depth) for length in range(1, 41) for depth in np.linspace(0, 100, 21)]
    cases = pd.DataFrame(cells, columns=["length", "depth"]).assign(accepted=True)
    run = scores(passed=len(cases), cases=len(cases))
    axes = panel(run_picture(run, cases), "840 of 840 cases passed")
    across, down = tick_labels(axes)
    assert across[:3] == ["1,000", "6,000", "11,000"]
    assert down == [str(depth) for depth in range(0, 101, 10)]
    assert numbers(axes) == []


def test_depths_stand_in_rows_to_the_nearest_ten() -> None:
    cases = pd.DataFrame(
        {"length": 8, "depth": [46.0, 54.0, 91.0], "accepted": [True, False, True]}
    )
    axes = panel(run_picture(scores(passed=2, cases=3), cases), "2 of 3 cases")
    assert tick_labels(axes)[1] == ["50", "90"]
    assert numbers(axes) == ["50", "100"]


def test_depths_stand_in_the_rows_of_the_depths_that_were_planned() -> None:
    planned = np.linspace(0, 100, 10).tolist()
    got = [depth + away for depth in planned for away in (-4.0, 3.0)]
    cases = pd.DataFrame({"length": [8, 9] * 10, "depth": got, "accepted": True})
    run = replace(scores(passed=20, cases=20), plan={"depths": planned})
    axes = panel(run_picture(run, cases), "20 of 20 cases")
    assert tick_labels(axes)[1] == ["0", "11", "22", "33", "44", "56", "67", "78", "89", "100"]
    assert numbers(axes) == ["100"] * 20


def test_the_heading_names_model_task_measure_and_acceptance() -> None:
    written = heading(run_picture())
    assert "lab/model" in written
    assert "task HeadKV-R2 · measure HeadKV-R2 · 61 of 100 cases passed" in written
    assert "5 layers of 8 query heads on 4 KV heads" in written
    assert not any("Warning" in text for text in written)


def test_under_half_passed_there_is_a_warning() -> None:
    written = heading(run_picture(scores(passed=49)))
    assert "Warning: only 49 of 100 cases passed" in written
    assert not any("Warning" in t for t in heading(run_picture(scores(passed=50))))


def test_a_long_name_is_wrapped_and_dollars_are_no_mathematics() -> None:
    run = scores(2, 2, 1)
    name = "$models$-" + "very-long-" * 20
    long = run_picture(replace(run, layout=replace(run.layout, id=f"/data/{name}")))
    lines = [text for text in texts(draw([long, long])) if "very-" in text or "$" in text]
    assert max(map(len, lines)) < 60
    assert "".join(lines[: len(lines) // 2]) == name


def test_a_budget_shows_its_entries_and_totals() -> None:
    drawn = budgets()
    axes = panel(drawn, "Budget of every head")
    np.testing.assert_array_equal(heat(axes), drawn.tokens)
    assert numbers(axes) == [str(entries) for entries in drawn.tokens.ravel()]
    assert axes.get_xlabel() == "KV head"
    assert heading(drawn) == [
        "lab/model",
        "strategy headkv · budget 128 · beta 1.2",
        "mean 36.5 entries a KV head (8 to 65) · 730 in all",
        "5 layers of 4 KV heads for 8 query heads · window 8 · sinks 4",
    ]
    assert panel(drawn, "10 of 20 heads above the mean of 36").get_yscale() == "linear"
    bars = panel(drawn, "Mean budget of every layer").containers[0]
    assert [bar.get_height() for bar in bars] == drawn.tokens.mean(axis=1).tolist()


def test_a_wide_range_gets_a_logarithmic_colour_scale_with_round_ticks() -> None:
    tokens = np.full((5, 4), 20)
    tokens[2, 1], tokens[0, 0] = 1001, 0
    drawn = budgets(tokens=tokens)
    axes = panel(drawn, "Budget of every head")
    (image,) = axes.images
    assert isinstance(image.norm, matplotlib.colors.LogNorm)
    assert (image.norm.vmin, image.norm.vmax) == (20, 1001)
    np.testing.assert_array_equal(image.get_array(), tokens)
    (bar,) = axes.child_axes
    assert tick_labels(bar)[1] == ["20", "50", "100", "200", "500", "1,000"]
    assert axes.get_facecolor() == image.get_cmap()(0.0)
    assert panel(drawn, "above the mean").get_yscale() == "log"


def test_a_budget_of_shares_is_drawn_in_per_cent() -> None:
    ratio = np.full((5, 4), 0.015)
    ratio[0, 0] = 0.315
    drawn = budgets(ratio=ratio, tokens=np.full((5, 4), 8))
    np.testing.assert_allclose(heat(panel(drawn, "Budget of every head")), 100 * ratio)
    fraction = "mean 3 % of the context a KV head (1.5 to 32) · at least 8 entries"
    assert fraction in heading(drawn)


def test_streaming_heads_and_full_ones_are_told_in_the_heading() -> None:
    ratio = np.where(np.arange(20).reshape(5, 4) % 2, 1.0, 0.0)
    drawn = budgets(
        strategy={"name": "duo"},
        ratio=ratio,
        tokens=np.where(ratio == 1, 0, 384),
        selection=np.where(ratio == 1, "attention", "streaming"),
        compensation=True,
    )
    written = heading(drawn)
    assert "mean 50 % of the context a KV head (0 to 100) · at least 384 entries" in written
    rules = "window 8 · sinks 4 · compensation · 10 of 20 streaming"
    assert any(text.endswith(rules) for text in written)


def test_the_cache_that_is_kept_shrinks_with_the_context() -> None:
    drawn = budgets(tokens=np.full((5, 4), 512))
    axes = panel(drawn, "Cache kept by context length")
    curve = axes.lines[0]
    contexts = np.asarray(curve.get_xdata())
    assert (contexts[0], contexts[-1]) == (128, 131_072)
    np.testing.assert_allclose(curve.get_ydata(), 100 * np.minimum(1, 512 / contexts))
    # Of the contexts that the table has, 4,096, 32,768 and 131,072 tokens.
    assert numbers(axes) == ["12 %", "1.6 %", "0.39 %"]


def test_a_budget_of_query_heads_parts_them_by_kv_head() -> None:
    tokens = np.full((5, 8), 64)
    drawn = budgets(
        granularity="query",
        tokens=tokens,
        ratio=np.zeros((5, 8)),
        selection=np.full((5, 8), "attention"),
    )
    axes = panel(drawn, "Budget of every head")
    assert axes.get_xlabel() == "query head (lines part the 4 KV heads)"
    assert len(axes.lines) == 3


@pytest.mark.slow
def test_files_stand_side_by_side_with_their_rows_aligned() -> None:
    items = [run_picture(cases=case_table()), budgets(), run_picture(scores(32, 32, 8))]
    figure = draw(items)
    assert len(figure.axes) == 3 + 4 + 4 + 3
    corners = {}
    for axes in figure.axes:
        place = axes.get_subplotspec()
        assert place is not None
        corners[place.rowspan.start, place.colspan.start] = axes.get_position()
    assert sorted({(row, side) for row in range(5) for side in range(3)} - corners.keys()) == [
        (4, 2)
    ]
    for row in range(1, 5):
        tops = [corners[row, side].y1 for side in range(3) if (row, side) in corners]
        assert tops == pytest.approx([tops[0]] * len(tops))


def test_rows_that_no_file_fills_are_left_out() -> None:
    figure = draw([run_picture(), run_picture(scores(4, 8, 8))])
    assert len(figure.axes) == 2 * (1 + 3)
    assert {axes.get_gridspec().nrows for axes in figure.axes} == {1 + 3}


@pytest.mark.parametrize("count", [0, 13])
def test_a_page_takes_one_to_twelve_files(count: int) -> None:
    with pytest.raises(UsageError, match=f"1 to 12 files, got {count}"):
        draw([budgets()] * count)


@pytest.mark.parametrize(("layers", "heads"), [(4, 8), (32, 32), (80, 64)])
@pytest.mark.slow
def test_models_of_any_size_are_drawn(layers: int, heads: int) -> None:
    run = scores(layers, heads, 2, passed=3, cases=9)
    draw([run_picture(run), budgets((layers, heads // 2))])


@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (4, 8)])
def test_scores_that_are_all_zero_are_drawn(layers: int, heads: int) -> None:
    run = scores(layers, heads, heads)
    silent = run_picture(replace(run, per_case={"r2": 0 * run.per_case["r2"]}))
    assert not heat(panel(silent, "Score of every head")).any()
    panel(silent, f"above zero, {layers * heads:,} (100 %) at zero")
    draw([silent])


def test_negative_scores_are_drawn() -> None:
    run = scores()
    negative = run_picture(replace(run, per_case={"contrast": run.per_case["r2"] - 5}))
    (image,) = panel(negative, "Score of every head").images
    assert image.norm.vmin == pytest.approx(-5)
    assert panel(negative, "Top 12 heads").get_xlim()[0] < -1
    panel(negative, "None of 40 heads above zero, 0 (0 %) at zero")
    draw([negative])


def test_a_budget_that_keeps_nothing_or_everything_is_drawn() -> None:
    nothing = np.zeros((5, 4), dtype=np.int64)
    draw([budgets(tokens=nothing), budgets(tokens=nothing, ratio=np.ones((5, 4)))])


def test_a_picture_names_a_measure_of_its_run() -> None:
    with pytest.raises(ValueError, match="expected one of"):
        RunPicture(scores=scores(), measure="echo")


def test_a_picture_refuses_the_cases_of_another_run() -> None:
    with pytest.raises(ValueError, match="100 cases with 61 passed, got 90 with 61"):
        run_picture(cases=case_table(cases=90))


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
@pytest.mark.slow
def test_the_same_picture_is_the_same_file(tmp_path: Path, suffix: str) -> None:
    first, second = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    for path in (first, second):
        save(draw([run_picture(scores(2, 2, 1), case_table())]), path)
    assert first.read_bytes() == second.read_bytes()
    assert sorted(tmp_path.iterdir()) == [first, second]


@pytest.mark.slow
def test_a_picture_saved_again_is_the_same_file(tmp_path: Path) -> None:
    figure = draw([budgets()])
    for path in (tmp_path / "a.svg", tmp_path / "b.png", tmp_path / "c.svg"):
        save(figure, path)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "c.svg").read_bytes()
    assert ET.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")


@pytest.mark.slow
def test_one_file_or_two_make_a_picture_of_1600_pixels(tmp_path: Path) -> None:
    for items in ([budgets()], [budgets(), budgets()]):
        save(draw(items), tmp_path / "heads.PNG")
        width = int.from_bytes((tmp_path / "heads.PNG").read_bytes()[16:20], "big")
        assert width == 1600


@pytest.mark.parametrize("name", ["heads.jpg", "heads", "heads.png.gz"])
def test_another_suffix_is_refused_with_the_choices(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"\.png, \.svg or \.pdf"):
        save(Figure(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HeadprobeError, match="cannot write"):
        save(Figure(), tmp_path / "file" / "heads.png")


def test_the_settings_of_the_user_neither_matter_nor_change() -> None:
    with matplotlib.rc_context({"font.size": 30, "image.origin": "lower", "image.cmap": "jet"}):
        before = dict(matplotlib.rcParams)
        figure = draw([run_picture()])
        assert dict(matplotlib.rcParams) == before
    axes = figure.axes[1]
    assert axes.yaxis.label.get_fontsize() < 12
    bottom, top = axes.get_ylim()
    assert top < bottom


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1.0, "1"), (0.25, "0.25"), (9.96, "10"), (12.6, "13"), (3659.0, "3,659")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert plain(value) == text


def test_scores_have_the_decimals_that_the_largest_needs() -> None:
    write = evenly(np.array([[0.0437, 0.0004], [0.002, 0.0]]))
    assert [write(value) for value in (0.0437, 0.0004, 0.002, 0.0)] == [
        "0.044",
        "0.000",
        "0.002",
        "0",
    ]
    write = evenly(np.array([[1.0, 0.06, 0.14, 0.004]]))
    assert [write(value) for value in (1.0, 0.06, 0.14, 0.004)] == ["1.00", "0.06", "0.14", "0.00"]
    assert evenly(np.array([[123.4]]))(123.4) == "123"
    assert evenly(np.zeros((1, 1)))(0.0) == "0"


def test_logarithmic_ticks_are_round_and_few() -> None:
    assert log_ticks(1.0, 40.0) == [1, 2, 5, 10, 20]
    assert log_ticks(1.0, 5120.0) == [1, 3, 10, 30, 100, 300, 1000, 3000]
    assert log_ticks(1.0, 1.0) == [1]
    assert log_ticks(0.1, 3.0) == [0.1, 0.2, 0.5, 1, 2]


def test_a_range_is_wide_beyond_fifty_times_zeros_left_aside() -> None:
    assert not is_wide(np.array([[0.0, 2.0, 100.0]]))
    assert is_wide(np.array([[0.0, 2.0, 101.0]]))
    assert not is_wide(np.zeros((1, 2)))


NAMES = ["模型/检索头", "\U0001f600 model", "a\x00b\x1b[31mc\nd", "\ufffe", "$x$ & <y>", "a" * 5000]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_gives_a_picture_without_a_word_and_svg_that_is_xml(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    run = scores(2, 2, 1)
    named = replace(run, layout=replace(run.layout, id=name), task=name[:20])
    figure = draw([RunPicture(scores=named, measure="r2", cases=None)])
    for suffix in ("svg", "png"):
        save(figure, tmp_path / f"heads.{suffix}")
    ET.parse(tmp_path / "heads.svg")
    assert capfd.readouterr() == ("", "")
