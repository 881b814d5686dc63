"""Unreadable images: refused by name, or left out and listed."""

from collections.abc import Sequence
from typing import Literal

from foveal.data.dataset import Samples
from foveal.data.images import BadImage, find_bad_images
from foveal.errors import FovealError

OnBadImage = Literal["refuse", "skip"]


def screen(samples: Samples, on_bad_image: OnBadImage) -> tuple[Samples, list[BadImage]]:
    """The samples that can be decoded, found by decoding each once, and what is left out.

    Args:
        samples: what to go through.
        on_bad_image: "refuse" to raise on unreadable images, "skip" to leave them out.

    Raises:
        FovealError: some cannot be read and are to be refused.
    """
    bad = find_bad_images(samples.sources)
    if not bad:
        return samples, []
    if on_bad_image == "refuse":
        raise FovealError(
            f"{len(bad)} of {len(samples)} images cannot be read: "
            f"{enumerate_some([str(b) for b in bad.values()])}; repair or remove them, "
            "or leave them out with --on-bad-image skip."
        )
    kept = [index for index in range(len(samples)) if index not in bad]
    return samples.take(kept), list(bad.values())


def require_every_class(
    samples: Samples, labels: Sequence[int], classes: Sequence[str], bad: Sequence[BadImage]
) -> None:
    """Raise if a class had images, by `labels`, and none of them could be read."""
    lost = sorted(set(labels) - set(samples.labels))
    if lost:
        raise FovealError(
            f"No image of the class {classes[lost[0]]!r} can be read (for one, {bad[0]}); "
            "add readable ones or remove the class."
        )


def enumerate_some(items: Sequence[str], limit: int = 4) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more
