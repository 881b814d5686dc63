"""`foveal train`: a model on a folder of images."""

from argparse import Namespace

from jsonargparse import ArgumentParser

from foveal.cli.arguments import UsageError, model_options
from foveal.cli.console import note, skipped_note
from foveal.cli.model_choice import add_option_argument
from foveal.recipes.classification import ClassificationRun
from foveal.recipes.train_folder import train_folder

SUMMARY = "train a network on a folder of images"


def add_arguments(parser: ArgumentParser) -> None:
    """The command's flags."""
    add = parser.add_argument
    add("--model", required=True, metavar="NAME", help="network; see foveal models")
    add(
        "--data",
        required=True,
        metavar="FOLDER",
        help="CLASS/image (a tenth of each class is held out) or {train,val}/CLASS/image",
    )
    add("--output", required=True, metavar="DIR", help="folder for checkpoints and figures")
    add("--pretrained", action="store_true", help="start from published weights")
    add("--checkpoint", metavar="DIR_OR_FILE", help="start from these weights")
    add("--image-size", type=int, metavar="PIXELS", help="side of the input (default: model's own)")
    add("--epochs", type=int, default=30, help="passes over the images (default: 30)")
    add("--max-steps", type=int, help="stop after so many steps, if that comes first")
    add("--batch-size", type=int, default=32, help="images a step (default: 32)")
    add("--lr", type=float, help="peak learning rate (default: 1e-3, or 2e-4 from trained weights)")
    add("--seed", type=int, default=0, help="of weights, split, order and transforms (default: 0)")
    add("--workers", type=int, default=2, help="processes that load images (default: 2)")
    add("--resume", action="store_true", help="go on from what DIR holds")
    add("--overwrite", action="store_true", help="replace an earlier run in DIR")
    add(
        "--on-bad-image",
        choices=["refuse", "skip"],
        default="refuse",
        help="what to do about images that cannot be read (default: refuse)",
    )
    add_option_argument(parser)


def run(options: Namespace) -> None:
    """Train, and say where the results are."""
    if options.pretrained and options.checkpoint is not None:
        raise UsageError("--checkpoint and --pretrained exclude each other; give one of them.")
    config = train_folder(
        options.model,
        options.data,
        pretrained=options.pretrained,
        checkpoint=options.checkpoint,
        image_size=options.image_size,
        epochs=options.epochs,
        max_steps=options.max_steps,
        batch_size=options.batch_size,
        lr=options.lr,
        seed=options.seed,
        workers=options.workers,
        on_bad_image=options.on_bad_image,
        options=model_options(options.option),
    )
    run_ = ClassificationRun(
        config, options.output, resume=options.resume, overwrite=options.overwrite
    )
    describe(run_)
    result = fit(run_)
    note(
        f"Finished {result.steps} steps in {result.seconds:.0f} s, best top-1 "
        f"{result.best_score:.2f} %. Try: foveal predict IMAGE --checkpoint {options.output}"
    )


def describe(run_: ClassificationRun) -> None:
    """Say what will be trained on what."""
    data = run_.data
    skipped_note(data.skipped)
    if data.ignored:
        note(f"Passed over {data.ignored} files that have no image's extension.")
    for text in run_.notes:
        note(text)
    note(
        f"{run_.config.model} on {len(data.train)} images of {len(data.classes)} classes, "
        f"{len(data.val)} more to judge by, at {run_.preprocessing.image_size} pixels."
    )


def fit(run_: ClassificationRun):
    """Train; when interrupted, say what is saved."""
    try:
        return run_.fit()
    except KeyboardInterrupt:
        last = run_.folder.last
        saved = (
            f"{last} holds the last finished epoch" if last.exists() else "nothing was saved yet"
        )
        note(f"Stopped; {saved}. Go on with --resume.")
        raise
