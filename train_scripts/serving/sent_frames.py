"""Frames as clients send them: eight bytes with the second, and then a picture or a pose."""

import io
import struct

import numpy as np
from PIL import Image, ImageOps

from .problems import Problem

SECONDS_BEFORE_A_FRAME = struct.Struct(">d")
PICTURE_FORMATS = ("JPEG", "WEBP", "PNG")


def decoded_picture(content: bytes, max_pixels: int) -> np.ndarray:
    """
    A JPEG, WebP or PNG, whose size is checked before it is decoded, as RGB `(height, width, 3)`.

    Raises:
        Problem: for anything else, and for pictures that are too large.
    """
    try:
        with Image.open(io.BytesIO(content), formats=PICTURE_FORMATS) as image:
            width, height = image.size
            if width * height <= max_pixels:
                return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception as error:  # Pillow's readers raise whatever they meet
        raise Problem(422, "frame", "A frame is not a JPEG, WebP or PNG picture, or is damaged.") from error
    detail = f"A frame may have {max_pixels} pixels at most, got {width} x {height}. Send it smaller."
    raise Problem(413, "too_large", detail)


def decoded_pose(content: bytes) -> np.ndarray:
    """
    Little-endian float32 numbers, x, y and score of each point, as `(points, 3)`.

    Raises:
        Problem: for another number of bytes.
    """
    if len(content) % 12:
        detail = "A pose must be little-endian float32 numbers: x, y and score of each point."
        raise Problem(422, "frame", f"{detail} Got {len(content)} bytes, which 12 does not divide.")
    return np.frombuffer(content, "<f4").reshape(-1, 3).astype(np.float32)
