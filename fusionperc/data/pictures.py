"""Camera pictures, decoded straight to the size in which they are used.

JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that is enough (the decoder skips high frequencies, which costs a
fraction of a full decode), then resized with antialiasing and cropped in one step. No full-size picture is kept.

Picture coordinates have pixel centres at index + 0.5, so a picture scaled by s has u' = s u exactly.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fusionperc.data.errors import DataError
from fusionperc.data.pointclouds import SensorFile

#: Decoding at a reduced size may leave up to this much to enlarge: less than the picture's own blur.
_SMALLEST_SHARE = 0.9


@dataclass(frozen=True)
class PictureCrop:
    """How a picture is brought to the size the model sees.

    At zoom 1 the whole width fits; what is too high is cut off at the top (the sky), as BEVDet does. Where the scaled
    picture does not fill the size, the rest is black.

    Attributes:
        size: (height, width) of the result, px.
        zoom: enlargement beyond fitting the width.
        shift: horizontal place of the crop within what there is to cut, -1 (left end) to 1 (right end).

    Source: BEVDet, arXiv 2112.11790, image-view augmentation; without the picture's flip and rotation.
    """

    size: tuple[int, int]
    zoom: float = 1.0
    shift: float = 0.0

    def scale_and_origin(self, original: tuple[int, int]) -> tuple[float, float, float]:
        """(s, left, top) with u' = s u - left, v' = s v - top, for an original (height, width)."""
        scale = self.zoom * self.size[1] / original[1]
        left = (scale * original[1] - self.size[1]) * (1 + self.shift) / 2
        return scale, left, scale * original[0] - self.size[0]


def read_picture(path: SensorFile, crop: PictureCrop | None) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """A picture and the map from its original coordinates.

    Args:
        path: a JPEG (or any file that PIL reads).
        crop: the wanted size and place; None keeps the original.

    Returns:
        (3, H, W) uint8 RGB, and the (3, 3) matrix that takes the original intrinsics to the picture's.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: the file is cut off or no picture.
    """
    try:
        with Image.open(io.BytesIO(path.read_bytes())) as picture:
            if crop is None:
                return _channels_first(picture.convert("RGB")), np.eye(3)
            original = (picture.height, picture.width)
            scale, left, top = crop.scale_and_origin(original)
            share = scale * _SMALLEST_SHARE
            picture.draft("RGB", (math.ceil(share * original[1]), math.ceil(share * original[0])))
            # What `draft` did is told by the size alone: the original's divided by 1, 2, 4 or 8, rounded up.
            reduction = round(original[1] / picture.width)
            cropped = _cropped(picture.convert("RGB"), crop.size, scale, (left, top), original, reduction)
    except FileNotFoundError:
        raise
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: cannot be read as a picture ({reason}): fetch the file again") from None
    return _channels_first(cropped), np.array([[scale, 0, -left], [0, scale, -top], [0, 0, 1.0]])


def _cropped(
    picture: Image.Image,
    size: tuple[int, int],
    scale: float,
    origin: tuple[float, float],
    original: tuple[int, int],
    reduction: int,
) -> Image.Image:
    """Resizes exactly the part of `picture` that is seen; black where the original does not reach."""
    spans = []
    for target, start, length in zip((size[1], size[0]), origin, (original[1], original[0]), strict=True):
        low = max(0, math.ceil(-start - 1e-6))
        high = min(target, math.floor(scale * length - start + 1e-6))
        # The clipping only removes the tolerance above.
        source = [min(max((edge + start) / scale, 0.0), float(length)) / reduction for edge in (low, high)]
        spans.append((low, high, source))
    (u_low, u_high, u_source), (v_low, v_high, v_source) = spans
    box = (u_source[0], v_source[0], u_source[1], v_source[1])
    part = picture.resize((u_high - u_low, v_high - v_low), Image.Resampling.BILINEAR, box=box)
    if part.size == (size[1], size[0]):
        return part
    canvas = Image.new("RGB", (size[1], size[0]))
    canvas.paste(part, (u_low, v_low))
    return canvas


def _channels_first(picture: Image.Image) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.asarray(picture, dtype=np.uint8).transpose(2, 0, 1))
