from importlib.metadata import EntryPoint, EntryPoints

import pytest

from headprobe import measures
from headprobe.errors import UsageError
from headprobe.measures import MEASURES, TEXT_MEASURES, get_measure, measure_names
from headprobe.tasks import MEASURE_GROUP, TASKS, find_task, get_task
from tests._support.refusals import refused

OF_CASES = [name for name, task in TASKS.items() if task.needs_cases]


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_listed_under_its_name(name: str) -> None:
    assert get_task(name).name == name
    assert find_task(name) is get_task(name)
    assert find_task("headkv") is None


def test_tasks_say_what_they_are() -> None:
    assert [name for name, task in TASKS.items() if task.asks] == ["r2", "retrieval", "evidence"]
    of_text = ["reconstruct", "onthefly", "reach", "stability"]
    assert [name for name, task in TASKS.items() if task.reads_text] == of_text
    assert ["r2", "retrieval", "evidence", "razor", *of_text] == OF_CASES


@pytest.mark.parametrize("name", OF_CASES)
def test_a_task_takes_measures_that_there_are_its_own_first(name: str) -> None:
    task = get_task(name)
    assert set(task.offered) <= set(TEXT_MEASURES if task.reads_text else MEASURES)
    assert task.measures[0] == task.offered[0]


@pytest.mark.parametrize("name", OF_CASES)
def test_a_probe_either_hides_needles_or_draws_its_cases(name: str) -> None:
    probe = get_task(name).probe
    assert bool(probe.needles) == (probe.draw is None)


@pytest.mark.parametrize(
    ("names", "measures"),
    [
        (None, ("r2",)),
        (["all"], ("r2", "retrieval", "semantic", "mass", "contrast", "locos", "qr")),
        (["qr", "mass", "r2", "mass"], ("r2", "mass", "qr")),
        (["locos"], ("locos",)),
        (["locos", "all"], ("r2", "retrieval", "semantic", "mass", "contrast", "locos", "qr")),
    ],
)
def test_measures_are_chosen_in_the_tasks_order(
    names: list[str] | None, measures: tuple[str, ...]
) -> None:
    assert get_task("r2").measuring(names).measures == measures


@pytest.mark.parametrize("names", [["echo"], [""], ["r2", ""], ["ALL"]])
def test_a_measure_that_a_task_does_not_take_is_a_usage_error(names: list[str]) -> None:
    with refused("r2, retrieval", option="measures", value=names[-1]):
        get_task("r2").measuring(names)


def test_an_unknown_task_is_a_usage_error_that_lists_the_choices() -> None:
    with refused("r2, retrieval, evidence, razor, alibi", option="task", value="r3"):
        get_task("r3")


def test_an_unknown_measure_is_a_usage_error_that_lists_the_choices() -> None:
    with pytest.raises(UsageError, match="no measure 'r3'; choose from retrieval, r2, semantic"):
        get_measure("r3")


def test_tasks_that_ask_offer_the_measures_of_installed_packages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measures, "NEW", MEASURES["mass"], raising=False)
    theirs = "headprobe.measures:NEW"
    installed = EntryPoints([EntryPoint(name, theirs, MEASURE_GROUP) for name in ("new", "r2")])
    monkeypatch.setattr("headprobe.registry.entry_points", installed.select)
    assert measure_names() == [*MEASURES, "new"]
    assert get_measure("new") is MEASURES["mass"]
    assert get_measure("r2") is MEASURES["r2"]
    for name in OF_CASES:
        assert ("new" in get_task(name).offered) == get_task(name).asks
    assert get_task("r2").measuring(["new", "r2"]).measures == ("r2", "new")
    assert get_task("r2").measures == ("r2",)
