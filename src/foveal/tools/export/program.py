"""The network as a graph of standard operators, for all sizes at once."""

import torch
from torch.export import Dim, ExportedProgram

from foveal.errors import FovealError, first_line
from foveal.tools.export.subject import Subject


def program_of(subject: Subject) -> ExportedProgram:
    """What every format is made of.

    Raises:
        FovealError: PyTorch cannot trace the network for any size.
    """
    options = subject.options
    shapes = None
    if options.dynamic:
        batch, *sides = options.largest or (None, None, None)
        height, width = (
            Dim(name, min=options.smallest, max=most)
            for name, most in zip(("height", "width"), sides, strict=True)
        )
        shapes = ({0: Dim("batch", max=batch), 2: height, 3: width},)
    try:
        with torch.no_grad():
            return torch.export.export(subject.module, (subject.example,), dynamic_shapes=shapes)
    except Exception as error:
        if not options.dynamic:
            raise
        raise FovealError(
            f"{subject.metadata['model']} cannot be exported for images of any size: "
            f"{first_line(error)}; "
            "--fixed exports it for one."
        ) from error
