"""The search for the fewest layers in float."""

import pytest

from foveal.tools.quantize.search import fewest_floats


@pytest.mark.parametrize("most", [1, 2, 7, 63])
def test_it_finds_the_least_number_that_is_enough(most: int) -> None:
    for needed in range(1, most + 1):
        tried: list[int] = []

        def drop(count: int, needed: int = needed, tried: list[int] = tried) -> float:
            tried.append(count)
            return 0.5 if count >= needed else 1.5

        assert fewest_floats(drop, most, 1.0) == needed
        assert len(tried) == len(set(tried)) <= 2 * most.bit_length()


def test_all_of_them_where_nothing_helps() -> None:
    assert fewest_floats(lambda count: 2.0, 9, 1.0) == 9
