"""What is wrong with a collection's annotations, counted and named before anything is trained."""

from collections import Counter
from dataclasses import dataclass

from foveal.errors import FovealError

_EXAMPLES = 3


@dataclass(frozen=True)
class Problem:
    """One kind of fault.

    Attributes:
        kind: in a few words, such as "negative box".
        outcome: what became of the things with it: "left out" or "clipped".
        count: how many have it.
        examples: the first few, by name.
    """

    kind: str
    outcome: str
    count: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        more = ", …" if self.count > len(self.examples) else ""
        return f"{self.count} × {self.kind} ({'; '.join(self.examples)}{more})"


@dataclass(frozen=True)
class AnnotationProblems:
    """The faults of one file or folder of annotations; true if there are any.

    Attributes:
        where: the file or folder.
        found: one a kind, in the order in which they were looked for.
        images: how many images it has, and how many of them are used.
        annotations: how many annotations it has, and how many of them are used.
    """

    where: str
    found: tuple[Problem, ...] = ()
    images: tuple[int, int] = (0, 0)
    annotations: tuple[int, int] = (0, 0)

    def __bool__(self) -> bool:
        return bool(self.found)

    @property
    def total(self) -> int:
        """Number of faults of all kinds."""
        return sum(problem.count for problem in self.found)

    def count(self, kind: str) -> int:
        """Number of faults of one kind."""
        return sum(problem.count for problem in self.found if problem.kind == kind)

    def __str__(self) -> str:
        """All kinds, as the middle of a sentence."""
        if not self.found:
            return f"{self.where} has no problems"
        faults = "problem" if self.total == 1 else "problems"
        return f"{self.where} has {self.total} {faults}: {', '.join(map(str, self.found))}"


class ProblemLog:
    """Collects faults while a collection is read.

    Args:
        where: the file or folder.
    """

    def __init__(self, where: str):
        self.where = where
        self._counts: Counter[tuple[str, str]] = Counter()
        self._examples: dict[tuple[str, str], list[str]] = {}

    def add(self, kind: str, example: str, outcome: str = "left out") -> None:
        """Count one, and keep its name if it is among the first."""
        self._counts[kind, outcome] += 1
        examples = self._examples.setdefault((kind, outcome), [])
        if len(examples) < _EXAMPLES:
            examples.append(example)

    def report(
        self, images: tuple[int, int] = (0, 0), annotations: tuple[int, int] = (0, 0)
    ) -> AnnotationProblems:
        """All that was counted.

        Args:
            images: how many there are, and how many are used.
            annotations: as for the images.
        """
        found = (
            Problem(kind, outcome, count, tuple(self._examples[kind, outcome]))
            for (kind, outcome), count in self._counts.items()
        )
        return AnnotationProblems(self.where, tuple(found), images, annotations)


def require_no_problems(*reports: AnnotationProblems) -> None:
    """What `--strict` asks for.

    Raises:
        FovealError: there are some; the sentence names them.
    """
    faulty = [str(report) for report in reports if report]
    if faulty:
        raise FovealError(
            f"{'; '.join(faulty)}; correct them, or leave them out by going on without --strict."
        )
