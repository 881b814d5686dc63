"""Which labelled images a command is to judge by, and how they go through the model."""

from argparse import Namespace

from jsonargparse import ArgumentParser

from foveal.tools.evaluate import EvaluationImages, EvaluationSettings, OnBatch, find_images
from foveal.tools.trained import TrainedModel


def add_image_arguments(parser: ArgumentParser) -> None:
    """The flags that choose images and how they are read."""
    add = parser.add_argument
    add("--data", required=True, metavar="FOLDER", help="CLASS/image or {train,val}/CLASS/image")
    add(
        "--split",
        choices=["auto", "train", "val", "all"],
        default="auto",
        help="which images; auto: val, or what training on this folder held out, or else all",
    )
    add("--batch-size", type=int, default=32, help="images at a time (default: 32)")
    add("--workers", type=int, default=2, help="processes that load images (default: 2)")
    add(
        "--on-bad-image",
        choices=["refuse", "skip"],
        default="refuse",
        help="what to do about images that cannot be read (default: refuse)",
    )


def chosen_images(trained: TrainedModel, options: Namespace) -> EvaluationImages:
    """The images that the flags speak of; only some commands have --dataset."""
    return find_images(
        trained,
        options.data,
        dataset=getattr(options, "dataset", "folder"),
        split=options.split,
        on_bad_image=options.on_bad_image,
    )


def chosen_settings(options: Namespace, on_batch: OnBatch) -> EvaluationSettings:
    """How the images go through the model; only some commands have --flip."""
    return EvaluationSettings(
        batch_size=options.batch_size,
        workers=options.workers,
        flip=getattr(options, "flip", False),
        on_batch=on_batch,
    )
