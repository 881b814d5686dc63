"""`foveal predict --task detection|segmentation`: what is where in images."""

from argparse import Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from PIL import Image

from foveal.cli.arguments import UsageError
from foveal.cli.console import counted, note, write_json
from foveal.cli.dense_evaluate import add_look_arguments, chosen_look
from foveal.cli.progress import progress_bar
from foveal.data.images import read_image
from foveal.files import atomic_path, require_writable
from foveal.tools.dense import load_detector, load_segmenter
from foveal.tools.detect import detect_images
from foveal.tools.segment_files import SegmentedImage, segment_images
from foveal.tools.trained import available_device


class DetectionPredict:
    """The command for detectors."""

    SUMMARY = "find objects in images"

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The command's flags."""
        _add_common_arguments(parser, "folder for the pictures, objects drawn on them")
        add = parser.add_argument
        add("--threshold", type=float, default=0.5, help="least score, 0 to 1 (default: 0.5)")

    def run(self, options: Namespace) -> None:
        """Find, and show or write."""
        _require_arguments(options, (".jpg",))
        if not 0 <= options.threshold <= 1:
            raise UsageError(f"--threshold lies between 0 and 1, got {options.threshold}.")
        trained = load_detector(options.checkpoint)
        trained.model.to(available_device(options.device))
        with progress_bar("images") as advance:
            found = detect_images(
                trained.model,
                options.images,
                classes=trained.card.classes,
                transform=trained.card.transform(),
                score_threshold=options.threshold,
                # So that the bar moves; images rarely share a size anyway.
                batch_size=1,
                on_done=advance,
            )
        if options.json is not None:
            write_json(options.json, [one.to_dict() for one in found])
        if options.output is not None:
            _write_pictures(
                options.output, ((one.image, one.drawn(read_image(one.image))) for one in found)
            )
        if options.json == "-":
            return
        for one in found:
            print(one.image)
            for name, score, box in zip(one.names, one.scores, one.boxes, strict=True):
                corners = " ".join(f"{value:.0f}" for value in box)
                print(f"  {100 * score:5.1f} %  {name}  {corners}")


class SegmentationPredict:
    """The command for segmenters."""

    SUMMARY = "name what every pixel of images shows"

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The command's flags."""
        _add_common_arguments(parser, "folder for the classes as NAME.png, and drawn as NAME.jpg")
        add_look_arguments(parser)

    def run(self, options: Namespace) -> None:
        """Look, and show or write."""
        _require_arguments(options, (".png", ".jpg"))
        look = chosen_look(options)
        trained = load_segmenter(options.checkpoint)
        trained.model.to(available_device(options.device))
        shares: list[dict[str, Any]] = []
        with progress_bar("images") as advance:
            for one in segment_images(trained, options.images, look, advance):
                shares.append({"image": one.image, "shares": one.shares()})
                if options.output is not None:
                    _write_scene(options.output, one)
        if options.output is not None:
            note(f"{counted(len(shares), 'image')} in {options.output}.")
        if options.json is not None:
            write_json(options.json, shares)
        if options.json == "-":
            return
        for entry in shares:
            print(entry["image"])
            for name, share in entry["shares"].items():
                print(f"  {100 * share:5.1f} %  {name}")


def _add_common_arguments(parser: ArgumentParser, output: str) -> None:
    add = parser.add_argument
    add("images", nargs="*", metavar="IMAGE", help="image files")
    add("--checkpoint", required=True, metavar="DIR_OR_FILE", help="of foveal train --task")
    add("--output", metavar="DIR", help=output)
    add("--json", metavar="FILE", help="write to FILE, or - for standard output")
    add("--device", metavar="NAME", help="cpu, cuda, …; the fastest by default")


def _require_arguments(options: Namespace, suffixes: Sequence[str]) -> None:
    """Raise if anything is missing, or if a picture of --output could not be written or kept."""
    if not options.images:
        raise UsageError("foveal predict needs IMAGE; see foveal predict --help.")
    if options.json not in (None, "-"):
        require_writable(options.json)
    if options.output is not None:
        require_writable(Path(options.output) / "picture")
        stems = [Path(image).stem for image in options.images]
        twice = next((stem for stem in stems if stems.count(stem) > 1), None)
        if twice is not None:
            raise UsageError(
                f"Two images are called {twice!r}, and their pictures in --output would be one; "
                "give them in two calls."
            )
        _require_not_given(options.images, options.output, suffixes)


def _require_not_given(images: Sequence[str], folder: str, suffixes: Sequence[str]) -> None:
    """Raise if a picture that will be written would replace one that was given."""
    given = {Path(image).resolve() for image in images}
    for image in images:
        for suffix in suffixes:
            target = Path(folder) / f"{Path(image).stem}{suffix}"
            if target.resolve() in given:
                raise UsageError(
                    f"--output {folder} would replace {target}, which is one of the images; "
                    "choose another folder."
                )


def _write_pictures(folder: str, pictures: Iterable[tuple[str, Image.Image]]) -> None:
    count = 0
    for name, picture in pictures:
        with atomic_path(Path(folder) / f"{Path(name).stem}.jpg") as path:
            picture.convert("RGB").save(path, quality=92)
        count += 1
    note(f"{counted(count, 'picture')} in {folder}.")


def _write_scene(folder: str, one: SegmentedImage) -> None:
    stem = Path(folder) / Path(one.image).stem
    with atomic_path(stem.with_name(stem.name + ".png")) as path:
        one.label_image().save(path)
    with atomic_path(stem.with_name(stem.name + ".jpg")) as path:
        one.drawn().save(path, quality=92)


PREDICT: dict[str, Any] = {
    "detection": DetectionPredict(),
    "segmentation": SegmentationPredict(),
}
