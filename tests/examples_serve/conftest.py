"""One server for all tests that leave it as it was."""

from collections.abc import Iterator

import pytest

from tests.examples_serve.servers import Running, serving, small_model


@pytest.fixture(scope="package")
def server() -> Iterator[Running]:
    """With a small network, and limits that are soon reached."""
    with serving(
        small_model(), max_bytes=200_000, max_pixels=400_000, body_seconds=1.0, head_seconds=1.0
    ) as running:
        yield running
