"""The papers' component tables as networks; what would clutter a family's file lives here.

`ABLATIONS[table][row]` says which network a row is. Networks that are no options of a family are
bodies: `foveal.create_model` makes them, neither timm nor `foveal.list_models` lists them.
"""

from foveal.models.ablations import efficientmod, focalnet, transnext, van
from foveal.models.ablations.tables import ABLATIONS, Ablation

# Families without published variants, each of one body.
BODIES = (transnext.BODY, focalnet.BODY, efficientmod.BODY, van.BODY)

__all__ = ["ABLATIONS", "BODIES", "Ablation"]
