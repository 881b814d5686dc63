"""Four photographs that come with scikit-image, for a look at a classifier without a download."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from PIL import Image

from foveal.errors import MissingExtraError

# By scikit-image's name: what is to be seen, and the classes of ImageNet that would be right.
_SHOWN: Mapping[str, tuple[str, frozenset[str]]] = {
    "astronaut": ("an astronaut", frozenset()),
    "chelsea": ("a cat", frozenset({"Egyptian cat", "tabby", "tabby, tabby cat", "tiger cat"})),
    "coffee": ("a cup of coffee", frozenset({"coffee mug", "cup", "espresso"})),
    "rocket": ("a rocket", frozenset({"missile", "projectile, missile"})),
}


@dataclass(frozen=True)
class Photograph:
    """A picture, its name, what it shows, and the classes that would be right."""

    name: str
    shows: str
    classes: frozenset[str]
    image: Image.Image = field(repr=False)


def load_photographs() -> list[Photograph]:
    """An astronaut, a cat, a cup of coffee and a rocket, in colour.

    Raises:
        MissingExtraError: scikit-image is not installed.
    """
    try:
        from skimage import data
    except ImportError as error:
        raise MissingExtraError("scikit-image", "dev") from error
    return [
        Photograph(name, shows, classes, Image.fromarray(getattr(data, name)()))
        for name, (shows, classes) in _SHOWN.items()
    ]
