"""The task as the loop knows it: losses, what is judged, and two processes that agree."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from foveal.tasks.classification import ClassificationMeter
from foveal.tasks.detection.task import Detection
from foveal.tasks.detection.truths import truths_of
from foveal.train.config import TrainConfig
from foveal.train.loop import Trainer
from foveal.train.run_folder import RunFolder
from foveal.train.task import GatheredMeter
from tests.tasks.detection.toys import CLASSES, ToldDetector, answers_to, batches_of, scene

SEED = 1
CONFIG = TrainConfig(epochs=1, batch_size=2, lr=1e-3, warmup_epochs=0, workers=0)


def trainer_of(root: Path, rank: int = 0, world: int = 1) -> tuple[Trainer, ToldDetector]:
    """Trains on all batches and judges its rank's share, as `eval_loader` deals it."""
    content = scene(SEED)
    model = ToldDetector(answers_to(content, SEED))
    task = Detection(len(CLASSES), truths=truths_of(content))
    folder = RunFolder(root)
    folder.require_usable(resume=True)
    images = batches_of(content, size=1)
    loaders = batches_of(content, size=2), images[rank::world]
    return Trainer(model, task, loaders, CONFIG, folder, show_progress=False), model


def test_the_loss_is_the_sum_of_the_detectors_and_crowds_are_left_out() -> None:
    content = scene(SEED)
    batch = batches_of(content, size=12)[0]
    model, task = ToldDetector({}), Detection(len(CLASSES))
    loss = task.loss(model, batch)
    single = sum(not annotation["iscrowd"] for annotation in content["annotations"])
    assert 0 < single < len(content["annotations"])
    assert loss.item() == pytest.approx(single + 0.5) and loss.dtype == torch.float32
    loss.backward()
    assert model.weight.grad is not None and model.weight.grad.item() == loss.item()
    for target in model.seen:
        kept = len(target["labels"])
        assert len(target["boxes"]) == len(target["masks"]) == kept  # pyright: ignore
    # The batch keeps its crowds: they are judged by.
    assert sum(len(t["labels"]) for t in batch["target"]) == len(content["annotations"])


def test_the_task_counts_and_names_images() -> None:
    task, batch = Detection(3), batches_of(scene(0))[0]
    assert task.count(batch) == 4
    assert task.names(batch) == ["1.png", "2.png", "3.png", "4.png"]


def test_what_is_gathered_and_what_is_summed() -> None:
    """The loop tells meters apart by what they can do."""
    assert isinstance(Detection(3).meter(), GatheredMeter)
    assert not isinstance(ClassificationMeter(3), GatheredMeter)


def test_the_loop_trains_and_judges_a_detector(tmp_path: Path) -> None:
    trainer, model = trainer_of(tmp_path / "run")
    result = trainer.fit()
    assert result.finished and result.best_score == result.scores["map"] > 0.1
    assert "mask_map_50" in result.scores and model.weight.item() < 1
    line = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert line["map"] == result.scores["map"]


JUDGE = """
import json, sys
from pathlib import Path
from foveal.train.processes import process_index_and_count
from tests.tasks.detection.test_detection_task import trainer_of

rank, world = process_index_and_count()
trainer, _ = trainer_of(Path(sys.argv[1]) / "run", rank, world)
scores = trainer.evaluate()
(Path(sys.argv[1]) / f"scores_{rank}.json").write_text(json.dumps(scores))
"""


def test_the_loop_gathers_what_the_other_processes_saw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a second process had judged the other half."""
    (first, _), (second, _) = (trainer_of(tmp_path / str(r), r, 2) for r in range(2))
    other = second.task.meter()
    for batch in second.eval_batches.epoch(0):
        other.update(second.task.predict(second.model, batch))
    assert isinstance(other, GatheredMeter)
    told = other.state()
    half = first.evaluate()
    monkeypatch.setattr(type(first.accelerator), "num_processes", property(lambda _: 2))
    monkeypatch.setattr("accelerate.utils.gather_object", lambda states: [*states, told])
    whole = first.evaluate()
    monkeypatch.undo()
    assert whole == trainer_of(tmp_path / "alone")[0].evaluate() != half


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_judge_as_one(tmp_path: Path) -> None:
    """Each sees half of the images, and both end with the figures of all, to the last bit."""
    script = tmp_path / "judge.py"
    script.write_text(JUDGE)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    root = Path(__file__).parents[3]
    environment["PYTHONPATH"] = os.pathsep.join([*map(str, (root / "src", root)), *sys.path])
    argv = [sys.executable, *torchrun, str(script), str(tmp_path)]
    subprocess.run(argv, check=True, timeout=200, env=environment)
    each: list[Any] = [json.loads((tmp_path / f"scores_{r}.json").read_text()) for r in range(2)]
    trainer, _ = trainer_of(tmp_path / "alone")
    assert each[0] == each[1] == trainer.evaluate()
    assert 0.1 < each[0]["map"] < 0.9
