import pytest

from headprobe.errors import UsageError
from headprobe.measures import MEASURES, get_measure
from headprobe.tasks import TASKS, get_task


@pytest.mark.parametrize("name", TASKS)
def test_a_task_takes_measures_that_there_are_its_own_first(name: str) -> None:
    task = get_task(name)
    assert set(task.measures) <= set(MEASURES)
    assert task.measures[0] == name


def test_an_unknown_task_is_a_usage_error_that_lists_the_choices() -> None:
    with pytest.raises(UsageError, match="no task 'r3'; there are r2, retrieval, alibi") as error:
        get_task("r3")
    assert error.value.exit_code == 2


def test_an_unknown_measure_is_a_usage_error_that_lists_the_choices() -> None:
    with pytest.raises(UsageError, match="no measure 'r3'; there are retrieval, r2"):
        get_measure("r3")
