"""The report on uneven classes."""

import math

import pytest

from foveal.data.balance import class_balance


def test_even_classes_count_in_full_and_give_no_warning():
    balance = class_balance([0, 1, 2] * 5, ("a", "b", "c"))
    assert balance.counts == {"a": 5, "b": 5, "c": 5}
    assert balance.ratio == 1
    assert balance.effective_classes == pytest.approx(3)
    assert balance.warning is None


def test_uneven_classes_are_named():
    balance = class_balance([0] * 1100 + [1] * 50, ("cat", "dog"))
    assert balance.ratio == 22
    share = 1100 / 1150
    entropy = -(share * math.log(share) + (1 - share) * math.log(1 - share))
    assert balance.effective_classes == pytest.approx(math.exp(entropy))
    assert balance.warning is not None
    assert (
        "1,100 training images are of the class 'cat', 22 times the 50 of 'dog'" in balance.warning
    )
    assert "2 classes as varied as 1.2" in balance.warning


def test_the_limit_is_ten():
    assert class_balance([0] * 10 + [1], ("a", "b")).warning is None
    assert class_balance([0] * 11 + [1], ("a", "b")).warning is not None


def test_a_class_without_images():
    balance = class_balance([0, 0], ("a", "b"))
    assert balance.ratio == math.inf
    assert "none are of 'b'" in str(balance.warning)
