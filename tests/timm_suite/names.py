"""A pytest plugin that points timm's own model tests at Foveal's networks.

Loaded with `-p tests.timm_suite.names` before timm's test file is collected. The environment
variable FOVEAL_NAMES holds the names, separated by commas.
"""

import os

import timm

import foveal

NAMES = [f"foveal_{name}" for name in os.environ["FOVEAL_NAMES"].split(",")]


def _ours(*_args: object, **_kwargs: object) -> list[str]:
    return NAMES


assert set(NAMES) <= {f"foveal_{name}" for name in foveal.list_models()}
timm.list_models = _ours
timm.list_pretrained = _ours
