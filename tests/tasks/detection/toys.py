"""A detector that is told what to find, and random scenes with annotations in COCO's form."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pycocotools import mask as yardstick_masks
from torch import Tensor, nn

from foveal.tasks.detection.contract import Detector, Found, Image, Target

SIZES = ((60, 90), (48, 48), (220, 260))
CATEGORY_IDS = (3, 7, 8)
CLASSES = ("ant", "bee", "cat")


class ToldDetector(Detector):
    """Finds in an image what it was told for the number in the image's first pixel."""

    def __init__(self, answers: Mapping[int, Found], num_classes: int = len(CLASSES)):
        super().__init__(num_classes)
        self.answers = dict(answers)
        self.weight = nn.Parameter(torch.ones(()))
        self.seen: list[Target] = []

    def no_weight_decay(self) -> set[str]:
        """There is no backbone to ask."""
        return set()

    def losses(self, images: Sequence[Image], targets: Sequence[Target]) -> dict[str, Tensor]:
        self.seen = list(targets)
        count = float(sum(len(target["labels"]) for target in targets))
        return {"classes": self.weight * count, "boxes": 0.5 * self.weight}

    def find(self, images: Sequence[Image]) -> list[Found]:
        return [self.answers[round(float(image[0, 0, 0]))] for image in images]


def blank(image_id: int, size: tuple[int, int]) -> Tensor:
    """An image that tells the detector which one it is."""
    image = torch.zeros(3, *size)
    image[0, 0, 0] = image_id
    return image


def ellipse(box: Sequence[float], size: tuple[int, int]) -> np.ndarray:
    """The mask of the ellipse in a box (x, y, w, h)."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    left, top, width, height = box
    around = ((x - left) / width - 0.5) ** 2 + ((y - top) / height - 0.5) ** 2
    return around <= 0.25


def scene(seed: int, num_images: int = 12) -> dict[str, Any]:
    """Random annotations: boxes and run lengths, small to large, crowds, images without any."""
    random = np.random.default_rng(seed)
    images, annotations = [], []
    for image_id in range(1, num_images + 1):
        height, width = SIZES[image_id % len(SIZES)]
        name = f"{image_id}.png"
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        for _ in range(0 if image_id % 5 == 0 else random.integers(1, 7)):
            box = random_box(random, (height, width))
            drawn = np.asfortranarray(ellipse(box, (height, width)).astype(np.uint8))
            rle: Any = yardstick_masks.encode(drawn)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(
                        random.choice(CATEGORY_IDS[:2] if seed % 2 else CATEGORY_IDS)
                    ),
                    "bbox": box,
                    "area": float(yardstick_masks.area(rle)),
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                    "iscrowd": int(random.random() < 0.15),
                }
            )
    categories = [{"id": id_, "name": n} for id_, n in zip(CATEGORY_IDS, CLASSES, strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}


def random_box(random: np.random.Generator, size: tuple[int, int]) -> list[float]:
    """x, y, w, h in hundredths of a pixel, in the image."""
    height, width = size
    w, h = random.uniform(6, 0.8 * width), random.uniform(6, 0.8 * height)
    x, y = random.uniform(0, width - w), random.uniform(0, height - h)
    return [round(float(value), 2) for value in (x, y, w, h)]


def answers_to(content: Mapping[str, Any], seed: int, *, masks: bool = True) -> dict[int, Found]:
    """What a middling detector finds: shifted boxes, some twice, some of another class, and, less
    surely, some of nothing; scores in steps, so that many are equal."""
    random = np.random.default_rng(1000 + seed)
    answers: dict[int, Found] = {}
    for image in content["images"]:
        size = image["height"], image["width"]
        boxes, labels, scores = [], [], []
        for annotation in content["annotations"]:
            if annotation["image_id"] != image["id"]:
                continue
            for _ in range(random.choice([0, 1, 1, 2])):
                x, y, w, h = annotation["bbox"]
                shift = random.normal(0, 0.06, 4) * (w, h, w, h)
                boxes.append(
                    [x + shift[0], y + shift[1], max(2, w + shift[2]), max(2, h + shift[3])]
                )
                label = CATEGORY_IDS.index(annotation["category_id"])
                labels.append(label if random.random() < 0.85 else int(random.integers(3)))
                scores.append(random.integers(5, 20) / 20)
        for _ in range(random.integers(0, 3)):
            boxes.append(random_box(random, size))
            labels.append(int(random.integers(3)))
            scores.append(random.integers(1, 10) / 20)
        drawn = [torch.from_numpy(ellipse(box, size)) for box in boxes]
        xywh = torch.tensor(boxes).reshape(-1, 4)
        sure = torch.tensor(scores)
        order = sure.argsort(descending=True, stable=True)
        corners = torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)
        found: Found = {
            "boxes": corners[order],
            "labels": torch.tensor(labels, dtype=torch.long)[order],
            "scores": sure[order],
        }
        if masks:
            every = torch.stack(drawn) if drawn else torch.zeros(0, *size, dtype=torch.bool)
            found["masks"] = every[order]
        answers[image["id"]] = found
    return answers


def batches_of(
    content: Mapping[str, Any], *, size: int = 4, enlarged: float = 1.0, masks: bool = True
) -> list[dict[str, Any]]:
    """What the loader of these annotations gives, at the pictures' size or enlarged."""
    items = [_item(content, image, enlarged, masks) for image in content["images"]]
    return [
        {key: [item[key] for item in items[start : start + size]] for key in items[0]}
        for start in range(0, len(items), size)
    ]


def _item(
    content: Mapping[str, Any], image: Mapping[str, Any], enlarged: float, masks: bool
) -> dict[str, Any]:
    size = image["height"], image["width"]
    own = [a for a in content["annotations"] if a["image_id"] == image["id"]]
    xywh = torch.tensor([a["bbox"] for a in own]).reshape(-1, 4) * enlarged
    target: Target = {
        "boxes": torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1),
        "labels": torch.tensor([CATEGORY_IDS.index(a["category_id"]) for a in own]).long(),
        "crowd": torch.tensor([bool(a["iscrowd"]) for a in own]).bool(),
    }
    if masks:
        drawn = [torch.from_numpy(ellipse(a["bbox"], size)) for a in own]
        target["masks"] = torch.stack(drawn) if drawn else torch.zeros(0, *size, dtype=torch.bool)
    seen = round(size[0] * enlarged), round(size[1] * enlarged)
    return {
        "image": blank(image["id"], seen),
        "target": target,
        "image_id": image["id"],
        "size": size,
        "name": image["file_name"],
    }
