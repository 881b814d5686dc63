"""What the server takes in at most, and how it says that it can take no more."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

from foveal.errors import OptionError

from .refusals import Refusal

RETRY_SECONDS = 1


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Each is a flag of the command line, and each is above 0.

    Attributes:
        max_bytes: of one request's body.
        max_pixels: of one image.
        head_seconds: that a request's head may take, and a connection be idle.
        body_seconds: that a request's body may take.
        max_uploads: requests at a time.
        max_upload_bytes: of all bodies together that are held at a time.
        max_queue: whole uploads that are waiting for their answer.
        max_batch: images that the model is given at once.
        max_wait: seconds that an image waits for others to share its batch.
        decoders: images that are decoded at a time.
        last_call: seconds, once told to end, in which open connections may still send a request.
    """

    max_bytes: int = 8 * 2**20
    max_pixels: int = 25_000_000
    head_seconds: float = 10.0
    body_seconds: float = 20.0
    max_uploads: int = 256
    max_upload_bytes: int = 128 * 2**20
    max_queue: int = 64
    max_batch: int = 16
    max_wait: float = 0.005
    decoders: int = 2
    last_call: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) <= 0:
                flag = field.name.replace("_", "-")
                raise OptionError(f"--{flag} is above 0, got {getattr(self, field.name)}.")


class Bound:
    """Something of which only so much may be in use.

    Args:
        most: how much.
        what: the server has, in words.
    """

    def __init__(self, most: int, what: str):
        self.most, self.what, self.used = most, what, 0

    def take(self, amount: int = 1) -> None:
        """Use some, until it is given back.

        Raises:
            Refusal: 503, there is not so much left.
        """
        if self.used + amount > self.most:
            raise Refusal(
                503,
                f"The server has {self.what} at the moment and takes no more than {self.most}; "
                f"send the request again in {RETRY_SECONDS} s.",
                headers={"Retry-After": str(RETRY_SECONDS)},
            )
        self.used += amount

    def give_back(self, amount: int = 1) -> None:
        """Of what was taken."""
        self.used -= amount

    @contextmanager
    def held(self) -> Iterator[None]:
        """One of it, inside."""
        self.take()
        try:
            yield
        finally:
            self.give_back()
