from __future__ import annotations

import pytest

from headprobe.prompts.limits import limited


class Endless:
    def __del__(self) -> None:
        spin()


def spin() -> None:
    while True:
        pass


@limited(seconds=0.05, more_bytes=2**30)
def lose_the_limit() -> None:
    Endless()
    spin()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_limit_that_is_lost_in_a_destructor_comes_again() -> None:
    with pytest.raises(TimeoutError, match="it takes more than"):
        lose_the_limit()
