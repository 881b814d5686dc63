"""How few layers have to stay in float."""

from collections.abc import Callable


def fewest_floats(drop_with: Callable[[int], float], most: int, max_drop: float) -> int:
    """The least number of layers to keep in float, the most harmful first, by doubling and halving.

    Accuracy is taken to rise with the number of layers in float. That it falls too far with none
    of them is known.

    Args:
        drop_with: how far accuracy falls with this many layers in float.
        most: layers there are.
        max_drop: how far it may fall.

    Returns:
        a number for which `drop_with` was within `max_drop`; `most` if there is none.
    """
    too_few, enough = 0, 1
    while enough < most and drop_with(enough) > max_drop:
        too_few, enough = enough, enough * 2
    enough = min(enough, most)
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if drop_with(middle) > max_drop:
            too_few = middle
        else:
            enough = middle
    return enough
