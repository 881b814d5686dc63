"""Small COCO files with pictures, for tests."""

import json
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from tests.pictures import picture

WIDTH, HEIGHT = 40, 30
CATEGORIES = [{"id": 3, "name": "cell"}, {"id": 7, "name": "plate"}]
POLYGON = [[5.0, 5.0, 20.5, 5.0, 20.5, 18.0, 5.0, 18.0]]


def annotation(number: int, image: int = 1, **changes: Any) -> dict[str, Any]:
    """A good annotation, with some values changed; those that are None are taken out."""
    given = {
        "id": number,
        "image_id": image,
        "category_id": 7,
        "bbox": [5, 5, 15.5, 13],
        "area": 200.0,
        "iscrowd": 0,
        **changes,
    }
    return {key: value for key, value in given.items() if value is not None}


def content(count: int = 3) -> dict[str, Any]:
    """Images 1 to `count`, the last of them empty, and one annotation in each other."""
    images = [
        {"id": n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT}
        for n in range(1, count + 1)
    ]
    annotations = [annotation(n, n) for n in range(1, count)]
    return {"images": images, "annotations": annotations, "categories": list(CATEGORIES)}


def write(root: Path, given: Any, name: str = "data.json") -> tuple[Path, Path]:
    """The JSON file and the folder of its images, which are drawn."""
    folder = root / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for entry in given["images"]:
        file = entry.get("file_name") if isinstance(entry, dict) else None
        if isinstance(file, str) and ".." not in file and not (folder / file).exists():
            picture("red", entry["id"]).resize((WIDTH, HEIGHT)).save(folder / file)
    path = root / name
    path.write_text(json.dumps(given))
    return path, folder


def stand_in(image: Image.Image, target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """A joint transform that changes nothing."""
    return F.to_dtype(F.pil_to_tensor(image), scale=True), target  # type: ignore[return-value]
