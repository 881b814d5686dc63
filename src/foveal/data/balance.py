"""How evenly the images are spread over the classes."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

# From here on a network that never names the smallest class hardly loses by it.
_WARN_RATIO = 10.0


@dataclass(frozen=True)
class ClassBalance:
    """How many images each class has.

    Attributes:
        counts: images of each class, in the order of the classes.
        ratio: largest count over smallest; infinite where a class has none.
        effective_classes: exp(entropy of the shares): as many classes of equal size would be as
            varied. From 1 to the number of classes.
    """

    counts: Mapping[str, int]
    ratio: float
    effective_classes: float

    @property
    def warning(self) -> str | None:
        """A sentence where the classes are uneven enough to matter, ratio above 10."""
        if self.ratio <= _WARN_RATIO:
            return None
        largest = max(self.counts, key=lambda name: self.counts[name])
        smallest = min(self.counts, key=lambda name: self.counts[name])
        size, least = self.counts[largest], self.counts[smallest]
        times = f"{self.ratio:.0f} times the {least:,} of" if least else "and none are of"
        return (
            f"{size:,} training images are of the class {largest!r}, {times} {smallest!r}: "
            f"{len(self.counts)} classes as varied as {self.effective_classes:.1f} of equal size. "
            "Judge by the recall of each class, and add images of the small ones if you can."
        )


def class_balance(labels: Iterable[int], classes: Sequence[str]) -> ClassBalance:
    """Count the images of every class.

    Args:
        labels: class index of each image.
        classes: names, by class index.
    """
    found = Counter(labels)
    counts = [found[index] for index in range(len(classes))]
    total = sum(counts)
    shares = [count / total for count in counts if count]
    ratio = max(counts) / min(counts) if counts and min(counts) else math.inf
    entropy = -sum(share * math.log(share) for share in shares)
    return ClassBalance(dict(zip(classes, counts, strict=True)), ratio, math.exp(entropy))
