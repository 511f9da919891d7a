"""Texture pictures in memory: PNG, exact, or JPEG, smaller."""

from __future__ import annotations

import io

from .types import Bytes

JPEG_QUALITY = 92


def encode_image(pixels: Bytes, kind: str = "png", software: str = "") -> bytes:
    """``(H, W, 3)`` or ``(H, W)`` uint8 as the bytes of a 'png' or 'jpeg' file, row 0 at the top.

    ``software`` is what a PNG says, right at its beginning, that it was made with.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    sink = io.BytesIO()
    if kind == "jpeg":
        Image.fromarray(pixels).save(sink, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    else:
        note = PngInfo()
        if software:
            note.add_text("Software", software)
        Image.fromarray(pixels).save(sink, "PNG", compress_level=6, pnginfo=note)
    return sink.getvalue()
