"""Pictures to a film that browsers play."""

import io
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np

TICKS_PER_SECOND = 1000


def as_mp4(pictures: Sequence[tuple[float, np.ndarray]], seconds: float) -> bytes:
    """
    A film without sound.

    Args:
        pictures: second and uint8 picture `(height, width, 3)` of each, all of one size, in order.
        seconds: when the last picture ends.
    """
    content = io.BytesIO()
    with av.open(content, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=TICKS_PER_SECOND)
        height, width, _ = _with_even_sides(pictures[0][1]).shape
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, TICKS_PER_SECOND)
        stream.options = {"preset": "veryfast", "bf": "0"}
        last = max(seconds - 1 / TICKS_PER_SECOND, pictures[-1][0])
        for second, picture in [*pictures, (last, pictures[-1][1])]:
            frame = av.VideoFrame.from_ndarray(_with_even_sides(picture))
            frame.pts, frame.time_base = round(second * TICKS_PER_SECOND), Fraction(1, TICKS_PER_SECOND)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return content.getvalue()


def _with_even_sides(picture: np.ndarray) -> np.ndarray:
    """The film's colours need an even width and height."""
    height, width, _ = picture.shape
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
