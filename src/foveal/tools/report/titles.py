"""What images and models are called where their names alone do not tell them apart."""

from collections import Counter
from collections.abc import Sequence

from foveal.tools.explain.explanation import Explanation, ModelExplanation
from foveal.tools.explain.names import numbered


def image_titles(explanation: Explanation) -> list[str]:
    """The images' names; those that recur are numbered from the second on."""
    return numbered([image.name for image in explanation.images])


def model_titles(models: Sequence[ModelExplanation]) -> list[str]:
    """The models' names, those that recur followed by the source of the weights."""
    pairs = zip(models, distinctions(models), strict=True)
    return [f"{model.model}, {which}" if which else model.model for model, which in pairs]


def distinctions(models: Sequence[ModelExplanation]) -> list[str]:
    """What tells a model from others of its name: the source of its weights, numbered where that
    recurs, too; empty where the name is the only one."""
    counts = Counter(model.model for model in models)
    which = [""] * len(models)
    for name in (name for name, count in counts.items() if count > 1):
        places = [place for place, model in enumerate(models) if model.model == name]
        sources = numbered([weights_of(models[place]) for place in places])
        for place, source in zip(places, sources, strict=True):
            which[place] = source
    return which


def weights_of(model: ModelExplanation) -> str:
    """Where the weights come from; a file's path as it was given."""
    return model.source if model.is_trained else "random weights"
