"""From a pretrained configuration to weights in a model."""

from typing import Any

from foveal.models.backbone import Backbone


def load_pretrained(model: Backbone, cfg: dict[str, Any], cache_dir: str | None = None) -> None:
    raise NotImplementedError
