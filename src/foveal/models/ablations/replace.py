"""Another unit in every block of a network."""

from collections.abc import Callable

from torch import nn

from foveal.models.backbone import Backbone, Stage


def replace_units(
    model: Backbone, unit: str, make: Callable[[int, nn.Module], nn.Module | None]
) -> None:
    """Put another unit in every block that has one, initialised as the network does its own.

    Args:
        model: changed in place.
        unit: "mixer" or "channel_mixer".
        make: from the index of the stage and the old unit to the new one; None leaves the old.
    """
    for index, stage in enumerate(model.stages):
        assert isinstance(stage, Stage)
        for block in stage.blocks:
            new = make(index, getattr(block, unit))
            if new is not None:
                for module in new.modules():
                    model.init_weights_of(module)
                setattr(block, unit, new)
