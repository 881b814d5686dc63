"""Whether a file in 8 bits goes on to other sizes as its network does."""

import numpy as np
import torch
from jaxtyping import Float
from torch.nn import functional as F

from foveal.errors import FovealError
from foveal.tools.export.check import sizes_to_check
from foveal.tools.export.formats import Run
from foveal.tools.export.subject import Subject
from foveal.tools.quantize.layers import relative_error
from foveal.tools.quantize.report import SizeError

# A file of one size run at another gives outputs that have nothing to do with the network's, whose
# error is 1 or more; rounding alone grows little.
_ROUGHLY, _GROWTH = 0.5, 3.0


def check_other_sizes(
    subject: Subject, run: Run, images: Float[np.ndarray, "n c h w"]
) -> tuple[SizeError, ...]:
    """How far a file is from its network at the traced size and, if it takes others, at three.

    Raises:
        FovealError: it computes something else at another size.
    """
    found: list[SizeError] = []
    for batch, height, width in sizes_to_check(subject):
        chosen = torch.from_numpy(images[np.arange(batch) % len(images)])
        resized = F.interpolate(chosen, (height, width), mode="bilinear", antialias=True)
        with torch.inference_mode():
            (expected,) = subject.module(resized)
        error = relative_error(np.asarray(run(resized)[0]), expected.numpy())
        found.append(SizeError(tuple(resized.shape), error))
    allowed = max(_ROUGHLY, _GROWTH * found[0].error)
    for size in found[1:]:
        if not size.error <= allowed:
            raise FovealError(
                f"{subject.metadata['model']} in 8 bits does not compute what the network computes "
                f"at {size.shape[2]} × {size.shape[3]} (off by {size.error:.2f} of the outputs, "
                f"{found[0].error:.2f} at the traced size); --fixed quantises it for one size."
            )
    return tuple(found)
