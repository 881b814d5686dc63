"""Pascal VOC's XML files, one an image, as the lists of a COCO file.

Boxes alone are converted; which objects are occluded or truncated is not.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, Literal
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from PIL import Image, UnidentifiedImageError

from foveal.data.box_checks import PARTLY_OUTSIDE, check_box
from foveal.data.images import EXTENSIONS
from foveal.data.problems import AnnotationProblems, ProblemLog
from foveal.data.screening import enumerate_some
from foveal.errors import FovealError, closest

Difficult = Literal["crowd", "keep", "drop"]

_BROKEN = "unreadable annotation file"
_MALFORMED = "malformed annotation"


@dataclass(frozen=True)
class VocConversion:
    """What came of the XML files.

    Attributes:
        content: the lists images, annotations and categories, for `write_coco`.
        problems: what was left out or clipped, and why.
    """

    content: dict[str, Any]
    problems: AnnotationProblems

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the categories, whose ids count from 1."""
        return tuple(category["name"] for category in self.content["categories"])


@dataclass(frozen=True)
class _Rules:
    """How objects are converted."""

    categories: dict[str, int]
    difficult: Difficult
    first_pixel: int


def convert_voc(
    source: str | Path,
    *,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    difficult: Difficult = "crowd",
    first_pixel: Literal[0, 1] = 1,
) -> VocConversion:
    """Read VOC's layout: `Annotations/*.xml`, `JPEGImages/` and `ImageSets/Main/SPLIT.txt`.

    Args:
        source: the folder with these, or one of XML files beside their images.
        split: which list to take; None for all XML files.
        classes: their names in the order wanted; None for those of all XML files, also of other
            splits, sorted.
        difficult: what becomes of difficult objects: a "crowd", which judging passes over as VOC's
            does, an object as any other ("keep"), or nothing ("drop").
        first_pixel: number of the first pixel, 1 in VOC itself, whose boxes hold their last
            pixel; 0 in files of tools whose boxes end before it.

    Raises:
        FovealError: there are no XML files, no such split or no classes.
    """
    root = Path(source)
    annotations = root / "Annotations" if (root / "Annotations").is_dir() else root
    pictures = root / "JPEGImages" if (root / "JPEGImages").is_dir() else root
    files = {path.stem: path for path in sorted(annotations.glob("*.xml"))}
    if not files:
        raise FovealError(
            f"{annotations} holds no XML files; give a folder with Annotations/*.xml or *.xml."
        )
    chosen = list(files) if split is None else _listed(root, split)
    log = ProblemLog(str(root))
    wanted = list(files) if classes is None else chosen
    documents = {stem: _parse(files[stem]) for stem in wanted if stem in files}
    names = _class_names(documents.values()) if classes is None else list(classes)
    if not names or len(set(names)) < len(names):
        raise FovealError(
            f"The classes of {root} are {', '.join(names) or 'none'}; give names, each once."
        )
    rules = _Rules({name: place for place, name in enumerate(names, 1)}, difficult, first_pixel)
    writer = _Writer(rules, pictures, log)
    for stem in chosen:
        writer.add(stem, documents.get(stem, "there is no such file"))
    categories = [{"id": number, "name": name} for name, number in rules.categories.items()]
    content = {
        "images": writer.images,
        "annotations": writer.annotations,
        "categories": categories,
    }
    used = (len(writer.images), len(writer.annotations))
    return VocConversion(content, log.report((len(chosen), used[0]), (writer.num_objects, used[1])))


def parse_xml(data: bytes) -> Element:
    """The root of a document without a document type, in which entities could be defined.

    Raises:
        ValueError: it is no XML, or has a document type.
    """
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise ValueError(f"no XML: {error}") from error
    return builder.close()


class _Writer:
    """Collects COCO's images and annotations from documents."""

    def __init__(self, rules: _Rules, pictures: Path, log: ProblemLog):
        self.rules = rules
        self.pictures = pictures
        self.log = log
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.num_objects = 0

    def add(self, stem: str, document: Element | str) -> None:
        """Take an image in, or log why its document cannot be used."""
        if isinstance(document, str):
            self.log.add(_BROKEN, f"{stem}.xml ({document})")
            return
        name = _picture_name(stem, document, self.pictures)
        size = _size(document) or _picture_size(self.pictures / name)
        if size is None:
            self.log.add("image of unknown size", f"{stem}.xml")
            return
        number = len(self.images) + 1
        height, width = size
        self.images.append({"id": number, "file_name": name, "width": width, "height": height})
        for place, element in enumerate(document.findall("object"), 1):
            if self.rules.difficult == "drop" and _is_difficult(element):
                continue
            self.num_objects += 1
            found = self._object(element, size, f"object {place} of {stem}.xml")
            if found is not None:
                number_of_it = len(self.annotations) + 1
                self.annotations.append({"id": number_of_it, "image_id": number, **found})

    def _object(self, element: Element, size: tuple[int, int], where: str) -> dict[str, Any] | None:
        name, corners = _text(element, "name"), _corners(element)
        if not name or corners is None:
            self.log.add(_MALFORMED, where)
            return None
        if name not in self.rules.categories:
            self.log.add("class that is not listed", f"{name!r}, {where}")
            return None
        left, top, right, bottom = corners
        # What is counted from 1 names the last pixel, which is inside.
        first = self.rules.first_pixel
        xywh = (left - first, top - first, right - left + first, bottom - top + first)
        fault, box = check_box(xywh, size)
        if fault is not None:
            shown = ", ".join(f"{value:g}" for value in corners)
            clipped = fault == PARTLY_OUTSIDE
            outcome = "clipped" if clipped else "left out"
            self.log.add(fault, f"{where}: {shown}", outcome)
            if not clipped:
                return None
        width, height = box[2] - box[0], box[3] - box[1]
        return {
            "category_id": self.rules.categories[name],
            "bbox": [_short(value) for value in (box[0], box[1], width, height)],
            "area": _short(width * height),
            "iscrowd": int(self.rules.difficult == "crowd" and _is_difficult(element)),
        }


def _listed(root: Path, split: str) -> list[str]:
    """Names in a list of VOC's; one of a class has -1, 0 or 1 behind each name."""
    path = root / "ImageSets" / "Main" / f"{split}.txt"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        there = sorted(file.stem for file in path.parent.glob("*.txt"))
        raise FovealError(
            f"{path} cannot be read.{closest(split, there)} "
            f"{f'There are {enumerate_some(there, 8)}' if there else 'There is no list'}; "
            "leave --split out to take all XML files."
        ) from error
    names = (re.sub(r"\s+(-1|0|1)$", "", line.strip()) for line in lines)
    return list(dict.fromkeys(name for name in names if name))


def _parse(path: Path) -> Element | str:
    """The document, or why it cannot be used."""
    try:
        return parse_xml(path.read_bytes())
    except OSError as error:
        return error.strerror or str(error)
    except ValueError as error:
        return str(error)


def _refuse_doctype(*_: Any) -> None:
    raise ValueError("it has a document type, which is refused: entities can hide in it")


def _class_names(documents: Any) -> list[str]:
    found = {
        _text(element, "name")
        for document in documents
        if not isinstance(document, str)
        for element in document.findall("object")
    }
    return sorted(found - {""})


def _picture_name(stem: str, document: Element, folder: Path) -> str:
    """The file named as the XML file is, or as it says, in that order, if it is there."""
    # Some tools write a path of the machine the file was made on.
    said = PureWindowsPath(_text(document, "filename")).name
    ending = Path(said).suffix.lower()
    endings = [ending] if ending in EXTENSIONS else []
    candidates = [stem + end for end in (*endings, *(end.upper() for end in endings))]
    candidates += [said] if said else []
    candidates += [stem + end for end in sorted(EXTENSIONS)]
    there = (name for name in candidates if (folder / name).is_file())
    return next(there, said or f"{stem}.jpg")


def _size(document: Element) -> tuple[int, int] | None:
    """Height and width as the document says; some tools write 0."""
    size = document.find("size")
    texts = [] if size is None else [_text(size, "height"), _text(size, "width")]
    if len(texts) == 2 and all(text.isdecimal() and len(text) < 7 for text in texts):
        height, width = int(texts[0]), int(texts[1])
        return (height, width) if height and width else None
    return None


def _picture_size(path: Path) -> tuple[int, int] | None:
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError):
        return None


def _corners(element: Element) -> tuple[float, float, float, float] | None:
    box = element.find("bndbox")
    if box is None:
        return None
    try:
        left, top, right, bottom = (
            float(_text(box, side)) for side in ("xmin", "ymin", "xmax", "ymax")
        )
    except ValueError:
        return None
    return left, top, right, bottom


def _is_difficult(element: Element) -> bool:
    return _text(element, "difficult") == "1"


def _text(element: Element, name: str) -> str:
    return (element.findtext(name) or "").strip()


def _short(value: float) -> int | float:
    return int(value) if value.is_integer() else value
