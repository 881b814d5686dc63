"""Labels as files have them, numbers or names, turned into class indices."""

from collections.abc import Sequence

from foveal.errors import FovealError

RawLabel = int | str | None


def encode_labels(
    raw: Sequence[RawLabel], names: Sequence[str] | None, where: str
) -> tuple[tuple[str, ...], list[int]]:
    """The classes, and the class index of every label.

    Args:
        raw: numbers or names, one a sample.
        names: of the classes where the files tell them; numbers are then places in it. None to
            take the labels that occur, sorted.
        where: the data in words, for errors.

    Raises:
        FovealError: a label is missing, is no class, or numbers and names are mixed.
    """
    present: set[int | str] = set()
    for place, label in enumerate(raw):
        if isinstance(label, bool) or not isinstance(label, int | str) or label == "":
            raise FovealError(
                f"{where}: sample {place} has the label {label!r}; every label is a whole number "
                "or a class name."
            )
        present.add(label)
    if names is not None:
        return tuple(names), _look_up(raw, names, where)
    if len({isinstance(label, str) for label in present}) > 1:
        raise FovealError(f"{where}: some labels are numbers and some are names; use one kind.")
    ordered = sorted(present, key=lambda label: str(label) if isinstance(label, str) else label)
    index: dict[RawLabel, int] = {label: place for place, label in enumerate(ordered)}
    return tuple(str(label) for label in ordered), [index[label] for label in raw]


def require_trained(train: Sequence[int], val: Sequence[int], classes: Sequence[str]) -> None:
    """Raise if a class is among the samples to judge by and not among those to train on."""
    strangers = sorted(set(val) - set(train))
    if strangers:
        raise FovealError(
            f"The class {classes[strangers[0]]!r} has images in val and none in train; add some "
            "to train or remove the class."
        )


def _look_up(raw: Sequence[RawLabel], names: Sequence[str], where: str) -> list[int]:
    index: dict[RawLabel, int] = {name: place for place, name in enumerate(names)}
    index |= {place: place for place in range(len(names))}
    for place, label in enumerate(raw):
        if label not in index:
            raise FovealError(
                f"{where}: sample {place} has the label {label!r}, and there are {len(names)} "
                f"classes, {names[0]!r} to {names[-1]!r}; correct the label or the class names."
            )
    return [index[label] for label in raw]
