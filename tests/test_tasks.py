import pytest

from headprobe.errors import UsageError
from headprobe.measures import MEASURES, get_measure
from headprobe.tasks import TASKS, get_task


@pytest.mark.parametrize("name", TASKS)
def test_a_task_takes_measures_that_there_are(name: str) -> None:
    assert set(get_task(name).measures) <= set(MEASURES)


@pytest.mark.parametrize("name", TASKS)
def test_a_probe_either_hides_needles_or_draws_its_cases(name: str) -> None:
    probe = get_task(name).probe
    assert bool(probe.needles) == (probe.draw is None)


def test_an_unknown_task_is_a_usage_error_that_lists_the_choices() -> None:
    with pytest.raises(
        UsageError, match="no task 'r3'; there are r2, retrieval, razor, alibi"
    ) as error:
        get_task("r3")
    assert error.value.exit_code == 2


def test_an_unknown_measure_is_a_usage_error_that_lists_the_choices() -> None:
    with pytest.raises(UsageError, match="no measure 'r3'; there are retrieval, r2"):
        get_measure("r3")
