"""Seeing through a network: what it computes on the way, and what of the image decides.

`record` collects the readings of this library's mixers; `effective_receptive_field`,
`class_activation_map` and `insertion_deletion` work with any image model; `explain_images` runs all
of it, as `foveal explain` does.
"""

from foveal.tools.explain.attention import QueryAttention
from foveal.tools.explain.class_activation import ClassActivation, class_activation_map
from foveal.tools.explain.explanation import Explanation
from foveal.tools.explain.faithfulness import Faithfulness, insertion_deletion
from foveal.tools.explain.picture import Picture, read_picture, read_pictures
from foveal.tools.explain.reading import AttentionReading, Reading
from foveal.tools.explain.reading_views import views_of
from foveal.tools.explain.receptive_field import ReceptiveField, effective_receptive_field
from foveal.tools.explain.record import Recording, read, record
from foveal.tools.explain.run import Explained, ExplainSettings, explain_images
from foveal.tools.explain.spectrum import RadialSpectrum, radial_spectrum

__all__ = [
    "AttentionReading",
    "ClassActivation",
    "ExplainSettings",
    "Explained",
    "Explanation",
    "Faithfulness",
    "Picture",
    "QueryAttention",
    "RadialSpectrum",
    "Reading",
    "ReceptiveField",
    "Recording",
    "class_activation_map",
    "effective_receptive_field",
    "explain_images",
    "insertion_deletion",
    "radial_spectrum",
    "read",
    "read_picture",
    "read_pictures",
    "record",
    "views_of",
]
