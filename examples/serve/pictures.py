"""From the bytes of an upload to an image, without decoding what is too large. Runs in threads."""

import struct
import zlib
from io import BytesIO

from PIL import Image
from python_multipart import create_form_parser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File

from foveal.data.images import EncodedImage, ImageError, read_image

from .refusals import Refusal
from .uploads import FORM

# Those of the web and of cameras. What else Pillow reads is seldom sent, and attacked more easily:
# the size of a tile in a TIFF file, for one, has nothing to do with that of its image.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP")
MOST_FIELDS = 16
_WANTED = "send a JPEG, PNG, WebP, GIF or BMP image"

_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    ArithmeticError,
    TypeError,
    struct.error,
    zlib.error,
)


def picture(body: bytes, content_type: str, mode: str, max_pixels: int) -> Image.Image:
    """The image of an upload, upright and in PIL's `mode`.

    Args:
        body: of the request.
        content_type: of the request, an image's or a form's.
        mode: as for `foveal.data.images.read_image`.
        max_pixels: of the image.

    Raises:
        Refusal: 422 for no image, 415 for a format that is not taken, 413 for too many pixels.
    """
    data = file_in_form(body, content_type) if content_type.lower().startswith(FORM) else body
    if not data:
        raise Refusal(422, f"The upload is empty; {_WANTED}.")
    _require_harmless(data, max_pixels)
    try:
        return read_image(EncodedImage("The upload", data), mode)
    except ImageError as error:
        raise Refusal(422, f"{str(error).rstrip('.')}; {_WANTED}.") from error
    except _DECODE_ERRORS as error:
        raise Refusal(422, f"The upload is a damaged image; {_WANTED}.") from error


def file_in_form(body: bytes, content_type: str) -> bytes:
    """The one file of a form.

    Raises:
        Refusal: 422, the form is damaged, or has no file or several.
    """
    files: list[File] = []
    fields: list[Field] = []

    def found_file(file: File) -> None:
        files.append(file)
        if len(files) > 1:
            raise Refusal(422, "The form has several files; send one image a request.")

    def found_field(field: Field) -> None:
        fields.append(field)
        if len(fields) > MOST_FIELDS:
            raise Refusal(422, f"The form has more than {MOST_FIELDS} fields; send its file alone.")

    try:
        parser = create_form_parser(
            {"Content-Type": content_type.encode("latin-1")},
            found_field,
            found_file,
            config={"MAX_MEMORY_FILE_SIZE": len(body)},
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise Refusal(
            422, f"The form is damaged or names no boundary; send the image as a file in {FORM}."
        ) from error
    if not files:
        raise Refusal(
            422,
            "The form has no whole file; send the image as one, such as "
            "curl --form file=@photo.jpg does.",
        )
    files[0].file_object.seek(0)
    return files[0].file_object.read()


def _require_harmless(data: bytes, max_pixels: int) -> None:
    """Read the image's head alone, and refuse what would cost too much to decode."""
    allowed = f"and {max_pixels:,} pixels are allowed; reduce it first."
    try:
        with Image.open(BytesIO(data)) as image:
            kind, (width, height) = image.format, image.size
    except Image.DecompressionBombError as error:
        raise Refusal(413, f"The image is far too large, {allowed}") from error
    except _DECODE_ERRORS as error:
        raise Refusal(422, f"The upload is not an image that can be read; {_WANTED}.") from error
    if kind not in FORMATS:
        raise Refusal(415, f"The upload is of the format {kind}, which is not taken; {_WANTED}.")
    if width * height > max_pixels:
        raise Refusal(413, f"The image has {width} × {height} pixels, {allowed}")
