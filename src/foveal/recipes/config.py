"""What a classification run is made of: typed, as plain values, and back."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from foveal.data.screening import OnBadImage
from foveal.data.source import Format
from foveal.data.transforms import Augmentation
from foveal.errors import OptionError, closest
from foveal.tasks.mixing import Mixing
from foveal.train.config import TrainConfig

Config = TypeVar("Config")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What to train on.

    Attributes:
        source: "files" for what `path` holds, "digits" for scikit-learn's scans.
        path: of the images.
        format: of what is there; "auto" to find out.
        streaming: read training images from parquet or tars in passing, without a copy.
        held_out: share of every class to judge by, where the data have no such part.
        on_bad_image: "refuse" unreadable images, or "skip" them.
    """

    source: Literal["files", "digits"] = "files"
    path: str | None = None
    format: Format = "auto"
    streaming: bool = False
    held_out: float = 0.1
    on_bad_image: OnBadImage = "refuse"


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Learning from another network's outputs beside the labels.

    Attributes:
        teacher: name of a pretrained network ("timm:NAME" for timm's), or a run's folder or file;
            None for labels alone.
        kind: "hard", the teacher's likeliest class, or "soft", its probabilities.
        weight: share of the teacher in the loss, from 0 to 1.
        temperature: of the soft probabilities.
    """

    teacher: str | None = None
    kind: Literal["hard", "soft"] = "hard"
    weight: float = 0.5
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1 or self.temperature <= 0:
            raise OptionError(
                "distillation.weight lies between 0 and 1 and temperature above 0, "
                f"got {self.weight} and {self.temperature}."
            )


@dataclass(frozen=True, kw_only=True)
class ClassificationConfig:
    """A classification run.

    Attributes:
        recipe: that the values come from, but for those given beside it.
        model: name of the network, or "timm:NAME".
        options: of the network, beside the number of classes.
        drop_path_rate: stochastic depth of the last block; None for the network's own.
        pretrained: start from published weights.
        checkpoint: start from this file's weights.
        data: what to train on.
        image_size: side in pixels; None for the network's usual one.
        crop_pct: share of the resized side that is looked at; None for the network's usual one.
        augmentation: random changes to the training images.
        mixing: blends of training images.
        label_smoothing: share of the target spread over all classes.
        distillation: a teacher.
        frozen_stages: stem and so many stages stay as they are; 0 for none of them.
        head_only: everything but the classifier stays as it is.
        train: length and optimisation.
    """

    recipe: str | None = None
    model: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    drop_path_rate: float | None = None
    pretrained: bool = False
    checkpoint: str | None = None
    data: DataConfig = field(default_factory=DataConfig)
    image_size: int | None = None
    crop_pct: float | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    mixing: Mixing = field(default_factory=Mixing)
    label_smoothing: float = 0.1
    distillation: Distillation = field(default_factory=Distillation)
    frozen_stages: int = 0
    head_only: bool = False
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if "num_classes" in self.options:
            raise OptionError("The data say how many classes there are; leave num_classes out.")
        if not 0 <= self.label_smoothing < 1:
            raise OptionError(
                f"label_smoothing is 0 or more and below 1, got {self.label_smoothing}."
            )
        if self.crop_pct is not None and not 0 < self.crop_pct <= 1:
            raise OptionError(f"crop_pct is more than 0 and at most 1, got {self.crop_pct}.")
        if self.drop_path_rate is not None and not 0 <= self.drop_path_rate < 1:
            raise OptionError(
                f"drop_path_rate is 0 or more and below 1, got {self.drop_path_rate}."
            )

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for config.yaml."""
        return plain(asdict(self))

    def model_options(self) -> dict[str, Any]:
        """What the network is made with, beside the number of classes."""
        rate = self.drop_path_rate
        return {**self.options, **({} if rate is None else {"drop_path_rate": rate})}


def from_dict(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """A configuration from plain values; what is left out keeps its default.

    Raises:
        OptionError: a key that does not exist; the message has the nearest.
    """
    hints = get_type_hints(kind)
    known = [entry.name for entry in fields(kind)]  # pyright: ignore[reportArgumentType]
    given: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise OptionError(
                f"A run has no setting {key!r}.{closest(key, known)} It has {', '.join(known)}."
            )
        hint = hints[key]
        if is_dataclass(hint) and isinstance(value, Mapping):
            given[key] = from_dict(hint, value)  # pyright: ignore[reportArgumentType]
        else:
            _require_kind(key, hint, value)
            given[key] = tuple(value) if isinstance(value, list) and _is_tuple(hint) else value
    return kind(**given)


def _is_tuple(hint: Any) -> bool:
    """Whether a setting is, or may be, a tuple."""
    choices = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return any(get_origin(choice) is tuple for choice in choices)


# What a value may be, by the type a setting has.
_KINDS: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "text"),
    tuple: ((list, tuple), "a list of numbers"),
    dict: ((Mapping,), "names with values"),
    type(None): ((type(None),), "null"),
}


def _require_kind(key: str, hint: Any, value: Any) -> None:
    """Raise if a value is of another type than its setting."""
    choices = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    words: list[str] = []
    for choice in choices:
        if get_origin(choice) is Literal:
            allowed, text = value in get_args(choice), f"one of {', '.join(get_args(choice))}"
        else:
            kinds, text = _KINDS.get(get_origin(choice) or choice, ((object,), "anything"))
            # Python takes true for 1.
            allowed = isinstance(value, kinds) and (isinstance(value, bool) <= (bool in kinds))
        if allowed:
            return
        words.append(text)
    raise OptionError(f"{key} is {' or '.join(words)}, got {value!r}.")


def plain(value: Any) -> Any:
    """Tuples as lists, all the way down, as YAML and JSON give them back."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value
