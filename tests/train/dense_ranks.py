"""What each of two processes does: train a small head, and write down what it came to.

    torchrun --nproc-per-node 2 -m tests.train.dense_ranks HEAD FOLDER

In the first step only the first process has objects, in the second both do, in the third neither.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from foveal.tasks.detection.heads import HEADS, create_detector
from foveal.tasks.detection.task import Detection
from foveal.tasks.segmentation.heads import create_segmenter
from foveal.tasks.segmentation.task import Segmentation
from foveal.train.config import TrainConfig
from foveal.train.loop import Trainer
from foveal.train.processes import process_index_and_count
from foveal.train.run_folder import RunFolder
from tests.models.families import SHALLOW
from tests.tasks.detection.small_detectors import RCNN, SMALL, objects

DETR: dict[str, Any] = {"num_queries": 20, "encoder_layers": 2, "decoder_layers": 2, "d_model": 32}
OPTIONS: dict[str, dict[str, Any]] = {
    "faster_rcnn": RCNN,
    "mask_rcnn": RCNN,
    "cascade_rcnn": RCNN,
    "cascade_mask_rcnn": RCNN,
    **SMALL,
    "deformable_detr": DETR,
    "rtdetr_v2": DETR,
    "d_fine": DETR,
    "upernet": {"channels": 16, "auxiliary_channels": 8},
    "semantic_fpn": {"channels": 32, "pyramid_channels": 16},
    "mask2former": {**DETR, "num_points": 256},
    "maskformer": {key: value for key, value in DETR.items() if key != "encoder_layers"},
}
BACKBONE = "focalnet_tiny_srf"
SIDE = 64


def scenes(rank: int) -> list[dict[str, Any]]:
    """Batches of two images with objects or without; pixels that count or that do not."""
    generator = torch.Generator().manual_seed(rank)
    batches = []
    for step, full in enumerate((rank == 0, True, False)):
        ids = [100 * rank + 2 * step + number for number in range(2)]
        target = objects(SIDE, SIDE, 2 if full else 0)
        bands = torch.arange(SIDE).expand(2, SIDE, SIDE) * 3 // SIDE
        batches.append(
            {
                "image": torch.randn(2, 3, SIDE, SIDE, generator=generator),
                "target": [target, target],
                "label": bands if full else torch.full_like(bands, 255),
                "image_id": ids,
                "size": [(SIDE, SIDE)] * 2,
                "name": list(map(str, ids)),
            }
        )
    return batches


def main(head: str, folder: Path) -> None:
    """Train and judge; one file a process."""
    rank, _ = process_index_and_count()
    torch.manual_seed(0)
    detects = head in HEADS
    create = create_detector if detects else create_segmenter
    model = create(head, BACKBONE, 3, backbone_options=SHALLOW[BACKBONE], **OPTIONS[head])
    task: Any = Detection(3) if detects else Segmentation(3)
    losses: list[float] = []

    plain = task.loss

    def kept(*given: Any) -> torch.Tensor:
        loss = plain(*given)
        losses.append(loss.item())
        return loss

    task.loss = kept
    run = RunFolder(folder / "run")
    (folder / "run").mkdir(exist_ok=True)
    batches = scenes(rank)
    config = TrainConfig(epochs=2, batch_size=2, lr=1e-3, workers=0)
    trainer = Trainer(model, task, (batches, batches), config, run, show_progress=False)
    result = trainer.fit()
    weights = trainer.accelerator.unwrap_model(trainer.model).state_dict()
    sums = {name: value.double().sum().item() for name, value in weights.items()}
    written = {"losses": losses, "scores": dict(result.scores), "sums": sums}
    (folder / f"{rank}.json").write_text(json.dumps(written))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
