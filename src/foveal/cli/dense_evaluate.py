"""`foveal eval --task detection|segmentation`: a network's figures on annotated images."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from foveal.cli.arguments import UsageError, model_options
from foveal.cli.console import note, show_table, write_json
from foveal.cli.model_choice import add_option_argument
from foveal.cli.progress import progress_bar
from foveal.data.coco import read_coco, require_objects
from foveal.data.loader import eval_loader
from foveal.data.mask_folder import SPLITS, LabelledScenes, read_mask_folder
from foveal.errors import FovealError
from foveal.files import require_writable
from foveal.tasks.detection.average_precision import AveragePrecision
from foveal.tasks.detection.records import ImageRecord
from foveal.tasks.detection.result import DetectionResult
from foveal.tasks.detection.results_file import write_detections
from foveal.tasks.segmentation.result import SegmentationResult
from foveal.tools.dense import DenseCard, load_detector, load_segmenter
from foveal.tools.judge_objects import judge_objects
from foveal.tools.report.detection import DetectionReport, write_detection_report
from foveal.tools.report.scenes import write_scene_report
from foveal.tools.scene_modes import MODES, ModeRow, judge_modes, require_modes
from foveal.tools.scenes import SceneEvaluation, SceneSettings, judge_scenes
from foveal.tools.segment import SegmentInference
from foveal.tools.trained import available_device


class DetectionEvaluate:
    """The command for detectors."""

    SUMMARY = "judge a detector by annotated images"

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The command's flags."""
        add_common_arguments(parser, "COCO file of what is in the images")
        add = parser.add_argument
        add("--images", required=True, metavar="DIR", help="that its file names are relative to")
        add("--batch-size", type=int, default=4, help="images at a time (default: 4)")
        add("--detections", metavar="DIR", help="write what was found as COCO's result files")

    def run(self, options: Namespace) -> None:
        """Judge, show and write."""
        _require_targets(options.report, options.json)
        if options.detections is not None:
            require_writable(Path(options.detections) / "detections.json")
        if options.batch_size < 1:
            raise UsageError(f"--batch-size is 1 or more, got {options.batch_size}.")
        trained = load_detector(options.checkpoint, options=model_options(options.option))
        for change in trained.changes:
            note(change)
        trained.model.to(available_device(options.device))
        images = read_coco(
            options.data, options.images, masks=trained.model.has_masks, strict=options.strict
        )
        require_objects(images, options.data, trained.model.has_masks)
        if images.problems:
            note(str(images.problems))
        with progress_bar("images") as advance:
            evaluation = judge_objects(
                trained, images, batch_size=options.batch_size, on_done=advance
            )
        result = evaluation.result
        if options.json != "-":
            _show_objects(result)
        if options.json is not None:
            write_json(options.json, result.to_dict())
        if options.detections is not None:
            folder = Path(options.detections)
            write_detections(evaluation.records, evaluation.category_ids, folder)
        if options.report is not None:
            by_id = {image.image_id: image for image in images.images}

            def picture_of(record: ImageRecord) -> Any:
                return by_id[record.image_id].read()

            subject = f"{trained.card.head} on {trained.card.model}, judged by {options.data}"
            write_detection_report(
                DetectionReport("Detection", result, evaluation.records, picture_of, subject),
                Path(options.report),
            )


_COLUMNS = ("mAP", "mAP 50", "mAP 75", "small", "medium", "large")


def _average_precisions(name: str, figures: AveragePrecision) -> list[str]:
    values = (
        figures.map,
        figures.map_50,
        figures.map_75,
        figures.map_small,
        figures.map_medium,
        figures.map_large,
    )
    return [name, *map(_share, values)]


def _show_objects(result: DetectionResult) -> None:
    rows = [_average_precisions("boxes", result.boxes)]
    if result.masks is not None:
        rows.append(_average_precisions("masks", result.masks))
    show_table(("", *_COLUMNS), rows)
    show_table(
        ("class", "objects", "mAP", "mAP 50"),
        [(c.name, f"{c.num_objects:,}", _share(c.map), _share(c.map_50)) for c in result.per_class],
    )


def _show_scenes(result: SegmentationResult) -> None:
    show_table(
        ("", "mIoU", "mAcc", "aAcc"),
        [("all", f"{result.miou:.2f}", f"{result.macc:.2f}", f"{result.aacc:.2f}")],
    )
    show_table(
        ("class", "IoU", "accuracy"),
        [(c.name, _percent(c.iou), _percent(c.accuracy)) for c in result.per_class()],
    )


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


class SegmentationEvaluate:
    """The command for segmenters."""

    SUMMARY = "judge a segmenter by labelled scenes"

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The command's flags."""
        add_common_arguments(parser, "mask folder")
        add = parser.add_argument
        add("--split", choices=list(SPLITS), default="val", help="of it (default: val)")
        add_look_arguments(parser)
        add(
            "--modes",
            action="store_true",
            help="TransNeXt's position bias extrapolated and interpolated, side by side",
        )

    def run(self, options: Namespace) -> None:
        """Judge, show and write."""
        _require_targets(options.report, options.json)
        inference = chosen_look(options)
        chosen = model_options(options.option)
        if options.modes:
            _require_modes_alone(options, chosen)
        trained = load_segmenter(options.checkpoint, options=chosen)
        for change in trained.changes:
            note(change)
        if options.modes:
            require_modes(trained)
        trained.model.to(available_device(options.device))
        scenes = _scenes_for(trained.card, options)
        loader = eval_loader(scenes.dataset(trained.card.transform()), batch_size=1, workers=2)
        total = len(scenes) * (len(MODES) if options.modes else 1)
        with progress_bar("scenes") as advance:
            settings = SceneSettings(
                mean=trained.card.mean,
                std=trained.card.std,
                inference=inference,
                on_image=lambda done: advance(done, total),
            )
            outcome = (
                judge_modes(trained, loader, settings)
                if options.modes
                else judge_scenes(
                    trained.model,
                    loader,
                    trained.card.classes,
                    settings,
                    ignore_index=trained.card.ignore_index,
                )
            )
        if isinstance(outcome, SceneEvaluation):
            _show_evaluation(outcome, trained.card, options)
        else:
            _show_modes(outcome, trained.card, options)


def _require_modes_alone(options: Namespace, chosen: dict[str, Any]) -> None:
    if options.report is not None:
        raise UsageError(
            "--modes gives a table and no page; leave out --report, or --modes, and choose a mode "
            "with --option position_bias=interpolate."
        )
    if "position_bias" in chosen:
        raise UsageError("--modes sets position_bias itself; leave out one of the two.")


def _scenes_for(card: DenseCard, options: Namespace) -> LabelledScenes:
    """The scenes of the asked split, whose classes must be the segmenter's."""
    folder = read_mask_folder(options.data, splits=(options.split,), strict=options.strict)
    if (folder.classes, folder.ignore_index) != (card.classes, card.ignore_index):
        raise FovealError(
            f"The segmenter knows the classes {', '.join(card.classes)}, ignoring "
            f"{card.ignore_index}, and {options.data} has {', '.join(folder.classes)}, "
            f"ignoring {folder.ignore_index}; judge it by labels of the same classes."
        )
    scenes = folder.split(options.split)
    if scenes.problems:
        note(str(scenes.problems))
    return scenes


def _show_modes(rows: Sequence[ModeRow], card: DenseCard, options: Namespace) -> None:
    if options.json != "-":
        note(f"{rows[0].num_images} scenes; {card.head} on {card.model}, the same weights.")
        show_table(
            ("mode", "mIoU", "mAcc", "aAcc"),
            [(r.mode, *(f"{value:.2f}" for value in (r.miou, r.macc, r.aacc))) for r in rows],
        )
    if options.json is not None:
        write_json(options.json, {"modes": [asdict(row) for row in rows]})


def _show_evaluation(evaluation: SceneEvaluation, card: DenseCard, options: Namespace) -> None:
    result = evaluation.result
    if options.json != "-":
        _show_scenes(result)
    if options.json is not None:
        write_json(
            options.json,
            {
                "miou": result.miou,
                "macc": result.macc,
                "aacc": result.aacc,
                "per_class": [
                    {"name": c.name, "iou": c.iou, "accuracy": c.accuracy}
                    for c in result.per_class()
                ],
                "images": dict(evaluation.ious),
            },
        )
    if options.report is not None:
        subject = f"{card.head} on {card.model}"
        write_scene_report(evaluation, Path(options.report), subject=subject)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def add_common_arguments(parser: ArgumentParser, data: str) -> None:
    """The flags of both tasks."""
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="DIR_OR_FILE", help="of foveal train --task")
    add("--data", required=True, metavar="PATH", help=data)
    add("--strict", action="store_true", help="refuse annotations with faults")
    add_option_argument(parser)
    add("--device", metavar="NAME", help="cpu, cuda, …; the fastest by default")
    add("--report", metavar="FILE.html", help="write a page with pictures, curves and confusions")
    add("--json", metavar="FILE", help="write the figures to FILE, or - for standard output")


def add_look_arguments(parser: ArgumentParser) -> None:
    """The flags that say how a segmenter looks at an image."""
    add = parser.add_argument
    add("--window", type=int, metavar="PIXELS", help="look at windows of this side, one by one")
    add("--stride", type=int, metavar="PIXELS", help="from window to window; two thirds of it")
    add("--scales", metavar="A,B,…", help="average over these scales, such as 0.75,1,1.25")
    add("--flip", action="store_true", help="average with the mirror image")


def chosen_look(options: Namespace) -> SegmentInference:
    """How a segmenter is to look at an image.

    Raises:
        UsageError: the scales are no numbers.
    """
    try:
        scales = tuple(map(float, (options.scales or "1").split(",")))
    except ValueError:
        raise UsageError(
            f"--scales takes numbers separated by commas, such as 0.75,1,1.25, got "
            f"{options.scales!r}."
        ) from None
    return SegmentInference(
        window=options.window, stride=options.stride, scales=scales, flip=options.flip
    )


def _require_targets(*targets: str | None) -> None:
    for target in targets:
        if target not in (None, "-"):
            require_writable(target)


EVALUATE: dict[str, Any] = {
    "detection": DetectionEvaluate(),
    "segmentation": SegmentationEvaluate(),
}
