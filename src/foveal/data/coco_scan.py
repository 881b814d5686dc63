"""A COCO annotation file, read entry by entry: the good ones, and the faults of the others."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, TypeGuard

from PIL import Image

from foveal.data.box_checks import PARTLY_OUTSIDE, Box, check_box, is_number, numbers
from foveal.data.coco_masks import MaskFault, encode_segmentation, has_mask, mask_areas
from foveal.data.images import is_on_its_side, verify_image
from foveal.data.problems import AnnotationProblems, ProblemLog
from foveal.errors import FovealError


@dataclass(frozen=True)
class ImageEntry:
    """A good image: its number, file, height and width, and whether to turn it upright."""

    image_id: int
    path: Path
    size: tuple[int, int]
    upright: bool


@dataclass(frozen=True)
class ObjectEntry:
    """A good annotation: box (x1, y1, x2, y2), label, crowd or not, area, mask if asked for."""

    box: Box
    label: int
    crowd: bool
    area: float
    mask: bytes | None


@dataclass(frozen=True)
class CocoScan:
    """What can be used of a COCO file.

    Attributes:
        categories: name by number, the numbers ascending.
        images: in the order of the file.
        objects: of each image, by its number.
        problems: of everything else.
        with_masks: whether every object has a mask.
    """

    categories: dict[int, str]
    images: tuple[ImageEntry, ...]
    objects: dict[int, list[ObjectEntry]]
    problems: AnnotationProblems
    with_masks: bool


def scan_coco(path: Path, folder: Path, *, masks: bool | None = False) -> CocoScan:
    """Read a COCO file and look at every image it lists.

    Args:
        path: the JSON file.
        folder: the file names in it are relative to.
        masks: whether objects need one; otherwise masks are not looked at. None to need them if
            any object has one.

    Raises:
        FovealError: it is no COCO file, or no image of it can be used.
    """
    content = _load(path)
    if masks is None:
        masks = any(isinstance(one, dict) and has_mask(one) for one in content["annotations"])
    log = ProblemLog(str(path))
    categories = _categories(content["categories"], path)
    images, given = _images(content["images"], folder, log)
    if not images:
        told = f" ({log.report()})" if log.report() else ""
        raise FovealError(
            f"{path} has no image that can be used{told}; the files it names are looked for in "
            f"{folder}."
        )
    reader = _Annotations(categories, images, given, log, masks)
    for place, entry in enumerate(content["annotations"]):
        reader.add(place, entry)
    problems = log.report(
        (len(content["images"]), len(images)), (len(content["annotations"]), reader.num_used)
    )
    return CocoScan(categories, tuple(images.values()), reader.objects, problems, masks)


def _load(path: Path) -> dict[str, list[Any]]:
    """The file's three lists."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        reason = error.strerror or error
        raise FovealError(f"Cannot read {path}: {reason}; give a COCO JSON file.") from error
    except json.JSONDecodeError as error:
        raise FovealError(
            f"{path} is not whole JSON: {error.msg} in line {error.lineno}, column {error.colno}; "
            "write or download it again."
        ) from error
    except (ValueError, RecursionError) as error:
        raise FovealError(f"{path} is not a JSON file; give a COCO JSON file.") from error
    names = ("images", "annotations", "categories")
    wrong = [
        name
        for name in names
        if not (isinstance(content, dict) and isinstance(content.get(name), list))
    ]
    if wrong:
        raise FovealError(
            f"{path} has no list of {' and '.join(wrong)}; a COCO file is an object with the lists "
            "images, annotations and categories."
        )
    return {name: content[name] for name in names}


def _categories(entries: list[Any], path: Path) -> dict[int, str]:
    """Names by number. A fault among them leaves no way to tell what annotations mean."""
    names: dict[int, str] = {}
    for place, entry in enumerate(entries):
        number = entry.get("id") if isinstance(entry, dict) else None
        name = entry.get("name") if isinstance(entry, dict) else None
        if not _is_id(number) or not isinstance(name, str) or not name:
            raise FovealError(
                f"{path}: category {place} of the list has no whole number as its id or no text as "
                "its name; correct it."
            )
        if number in names:
            raise FovealError(
                f"{path}: the categories {names[number]!r} and {name!r} have the same id {number}; "
                "give each its own."
            )
        names[number] = name
    if not names:
        raise FovealError(f"{path} lists no categories; add one for each kind of object.")
    return dict(sorted(names.items()))


def _images(
    entries: list[Any], folder: Path, log: ProblemLog
) -> tuple[dict[int, ImageEntry], set[int]]:
    """The images that can be used, by number, and every number that was given to some."""
    listed: dict[int, tuple[str, tuple[int, int]]] = {}
    several: set[int] = set()
    for place, entry in enumerate(entries):
        told = _image_entry(entry)
        if told is None:
            log.add("malformed image entry", f"image {place} of the list")
            continue
        number, name, size = told
        if number not in listed:
            listed[number] = (name, size)
            continue
        log.add("duplicate image id", f"{number} of {name} and {listed[number][0]}")
        if listed[number] != (name, size):
            # Whose annotations are whose cannot be told.
            several.add(number)
    given = set(listed)
    chosen = [
        (number, folder / name, size)
        for number, (name, size) in listed.items()
        if number not in several
    ]
    good: dict[int, ImageEntry] = {}
    with ThreadPoolExecutor(4) as pool:
        verdicts = pool.map(lambda one: _inspect(one[1], one[2]), chosen)
        for (number, path, size), verdict in zip(chosen, verdicts, strict=True):
            if isinstance(verdict, bool):
                good[number] = ImageEntry(number, path, size, verdict)
            else:
                log.add(verdict[0], f"{path.relative_to(folder)}{verdict[1]}")
    return good, given


def _image_entry(entry: Any) -> tuple[int, str, tuple[int, int]] | None:
    """Number, file name, height and width; None for what is no entry of an image."""
    if not isinstance(entry, dict):
        return None
    number, name = entry.get("id"), entry.get("file_name")
    height, width = entry.get("height"), entry.get("width")
    if not (_is_id(number) and _is_length(height) and _is_length(width)):
        return None
    if not isinstance(name, str) or not name or "\0" in name:
        return None
    path = PurePath(name)
    # The folder of images is the only one that is read from.
    return None if path.is_absolute() or ".." in path.parts else (number, name, (height, width))


def _inspect(path: Path, size: tuple[int, int]) -> bool | tuple[str, str]:
    """Whether to turn the image upright, or the kind of its fault and more words about it."""
    if not path.is_file():
        return "missing image file", ""
    bad = verify_image(path)
    if bad is not None:
        return "unreadable image", f" ({bad.reason})"
    with Image.open(path) as image:
        stored = (image.height, image.width)
        if stored == size:
            return False
        if stored[::-1] == size and is_on_its_side(image):
            # Whoever annotated it saw it upright.
            return True
    return (
        "image of another size",
        f" ({stored[1]} × {stored[0]} pixels, {size[1]} × {size[0]} expected)",
    )


class _Annotations:
    """Sorts annotations by image; faulty ones go to the log."""

    def __init__(
        self,
        categories: dict[int, str],
        images: dict[int, ImageEntry],
        given: set[int],
        log: ProblemLog,
        masks: bool,
    ):
        self.labels = {number: label for label, number in enumerate(categories)}
        self.images = images
        self.given = given
        self.log = log
        self.masks = masks
        self.objects: dict[int, list[ObjectEntry]] = {number: [] for number in images}
        self.num_used = 0
        self._seen: set[int] = set()

    def add(self, place: int, entry: Any) -> None:
        """Take one annotation in, or log its first fault."""
        if not isinstance(entry, dict) or not all(
            _is_id(entry.get(key)) for key in ("id", "image_id", "category_id")
        ):
            self.log.add("malformed annotation", f"annotation {place} of the list")
            return
        number = entry["id"]
        if number in self._seen:
            self.log.add("duplicate annotation id", f"{number}")
            return
        self._seen.add(number)
        image_id, category = entry["image_id"], entry["category_id"]
        if image_id not in self.given:
            self.log.add("unknown image id", f"{image_id} of annotation {number}")
            return
        image = self.images.get(image_id)
        if image is None:
            # Its image was left out and is named already.
            return
        where = f"annotation {number} in {image.path.name}"
        if category not in self.labels:
            self.log.add("unknown category id", f"{category} of {where}")
            return
        found = self._object(entry, image, where)
        if found is not None:
            self.objects[image_id].append(found)
            self.num_used += 1

    def _object(self, entry: dict[str, Any], image: ImageEntry, where: str) -> ObjectEntry | None:
        xywh = numbers(entry.get("bbox"), 4)
        crowd = entry.get("iscrowd", 0)
        if xywh is None or crowd not in (0, 1):
            self.log.add("malformed annotation", where)
            return None
        fault, box = check_box(xywh, image.size)
        if fault is not None and fault != PARTLY_OUTSIDE:
            self.log.add(fault, f"{where}: {_shown(xywh)}")
            return None
        mask = None
        if self.masks:
            mask = self._mask(entry, image, where)
            if mask is None:
                return None
        if fault is not None:
            self.log.add(fault, f"{where}: {_shown(xywh)}", "clipped")
        area = _area(entry.get("area"), box, mask, image.size)
        return ObjectEntry(box, self.labels[entry["category_id"]], bool(crowd), area, mask)

    def _mask(self, entry: dict[str, Any], image: ImageEntry, where: str) -> bytes | None:
        if not has_mask(entry):
            self.log.add("missing mask", where)
            return None
        try:
            return encode_segmentation(entry["segmentation"], image.size)
        except MaskFault as fault:
            self.log.add(str(fault), where)
            return None


def _area(given: Any, box: Box, mask: bytes | None, size: tuple[int, int]) -> float:
    """Pixels of an object: as the file says, otherwise of its mask, otherwise of its box."""
    if is_number(given) and 0 < given < size[0] * size[1] + 1:
        return float(given)
    if mask is not None:
        return float(mask_areas([mask], size)[0])
    return (box[2] - box[0]) * (box[3] - box[1])


def _shown(xywh: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:g}" for value in xywh) + "]"


def _is_id(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_length(value: Any) -> TypeGuard[int]:
    return _is_id(value) and value > 0
