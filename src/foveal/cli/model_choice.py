"""Which model a command is to use."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

from jsonargparse import ArgumentParser

from foveal.cli.arguments import UsageError, model_options
from foveal.cli.console import banner, note
from foveal.models.factory import list_models
from foveal.tools.box import load_boxed
from foveal.tools.trained import (
    TrainedModel,
    available_device,
    find_checkpoint,
    load_trained,
    model_by_name,
    read_card,
)


def add_model_arguments(parser: ArgumentParser) -> None:
    """The flags that choose a trained model."""
    parser.add_argument(
        "--checkpoint",
        metavar="DIR_OR_FILE",
        help="output folder of a training run (best, else last), or a file "
        "(default: the model in the box)",
    )
    parser.add_argument("--model", metavar="NAME", help="network, where the file does not say it")
    parser.add_argument("--pretrained", action="store_true", help="published weights of --model")
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help="side of the input")
    add_option_argument(parser)
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, …; the fastest by default")


def add_models_arguments(parser: ArgumentParser) -> None:
    """The flags that choose several models to be explained."""
    add = parser.add_argument
    add(
        "--models",
        metavar="A,B,…",
        help="networks by name, folders or files of checkpoints, box (default: the model in the "
        "box)",
    )
    add("--pretrained", action="store_true", help="published weights of the networks by name")
    add("--image-size", type=int, metavar="PIXELS", help="side of the input, up to 512")
    add_option_argument(parser)
    add("--device", metavar="NAME", help="cpu, cuda, …; the fastest by default")


def add_option_argument(parser: ArgumentParser) -> None:
    """The flag for options of the network."""
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="option of the network, such as focal_levels=3; may be repeated",
    )


def chosen_model(options: Namespace) -> TrainedModel:
    """The model that the flags speak of, on its device; a banner says if it is untrained."""
    trained = _load(options)
    if options.image_size is not None:
        trained = _at_size(trained, options.image_size)
    if not trained.is_trained:
        banner(
            f"UNTRAINED: {trained.card.model} has random weights, so what follows is noise. "
            "Give --checkpoint DIR, or --pretrained for published weights."
        )
    trained.model.to(available_device(options.device))
    return trained


def chosen_models(options: Namespace) -> list[TrainedModel]:
    """The models of a list by commas, on their device; a banner says which are untrained.

    Each is the name of a network, the folder or file of a checkpoint, or "box". Reads
    `options.models`, `pretrained`, `image_size`, `option` and `device`.
    """
    if options.models is None and (options.pretrained or options.option):
        raise UsageError("--pretrained and --option go with --models NAME,….")
    names = [name.strip() for name in (options.models or "box").split(",")]
    if not all(names):
        raise UsageError(
            f"--models takes names or checkpoints, separated by commas, got {options.models!r}."
        )
    device = available_device(options.device)
    chosen = [_listed(name, options) for name in names]
    if options.image_size is not None:
        chosen = [_at_size(trained, options.image_size) for trained in chosen]
    untrained = [trained.card.model for trained in chosen if not trained.is_trained]
    if untrained:
        one = len(untrained) == 1
        banner(
            f"UNTRAINED: {', '.join(untrained)} {'has' if one else 'have'} random weights, so what "
            f"{'it sees' if one else 'they see'} is noise. Give the folder or file of a checkpoint "
            "in place of the name, or --pretrained for published weights."
        )
    for trained in chosen:
        trained.model.to(device)
    return chosen


def _listed(name: str, options: Namespace) -> TrainedModel:
    """One of the models of a list."""
    if name == "box":
        return load_boxed()
    if Path(name).exists() and name not in list_models():
        return load_trained(name)
    if Path(name).suffix in (".safetensors", ".pt", ".pth"):
        # So that a mistyped file is not taken for a mistyped network.
        find_checkpoint(name)
    return model_by_name(name, pretrained=options.pretrained, options=model_options(options.option))


def _at_size(trained: TrainedModel, image_size: int) -> TrainedModel:
    preprocessing = replace(trained.card.preprocessing, image_size=image_size)
    return replace(trained, card=replace(trained.card, preprocessing=preprocessing))


def _load(options: Namespace) -> TrainedModel:
    name, checkpoint = options.model, options.checkpoint
    if checkpoint is not None and options.pretrained:
        raise UsageError("--checkpoint and --pretrained exclude each other; give one of them.")
    if checkpoint is not None:
        card = read_card(find_checkpoint(checkpoint))
        if name is None or (card is not None and card.model == name):
            if options.option:
                raise UsageError(
                    f"{checkpoint} says its network's options itself; leave --option out."
                    if card is not None
                    else "--option goes with --model NAME."
                )
            return load_trained(checkpoint)
    if name is None:
        if options.pretrained or options.option:
            raise UsageError("--pretrained and --option go with --model NAME.")
        trained = load_boxed()
        classes = len(trained.card.classes)
        note(
            f"Using the model in the box: {trained.card.model}, {classes} classes of small "
            "photographs. Give --checkpoint DIR or --model NAME for another."
        )
        return trained
    trained = model_by_name(
        name,
        pretrained=options.pretrained,
        checkpoint=checkpoint,
        options=model_options(options.option),
    )
    if checkpoint is not None:
        note(trained.source)
    return trained
