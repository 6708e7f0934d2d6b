# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Which files are videos and which are pictures, in one list for every command; and the error for bad ones."""

import os
from pathlib import PurePath

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
# fmt: off
VIDEO_SUFFIXES = frozenset(
    {
        ".3g2", ".3gp", ".3gpp", ".amv", ".apng", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif",
        ".ivf", ".m1v", ".m2p", ".m2t", ".m2ts", ".m2v", ".m4v", ".mk3d", ".mkv", ".mod", ".mov", ".mp4",
        ".mp4v", ".mpe", ".mpeg", ".mpg", ".mpv", ".mts", ".mxf", ".nut", ".ogm", ".ogv", ".qt", ".rm", ".rmvb",
        ".tod", ".tp", ".trp", ".ts", ".vob", ".vro", ".webm", ".wm", ".wmv",
    }
)
# fmt: on
# Texts use these, too: TypeScript, Go modules.
SUFFIXES_OF_TEXTS_TOO = (".ts", ".mod", ".tp")
BYTES_THAT_TELL_A_TEXT = 1024
FOLDER_OF_MACOS = "__MACOSX"


class VideoDecodingError(ValueError):
    """
    A video that cannot be read as requested; the text names the video, what was expected and what to do.

    `reason` is one word: "empty", "no_video", "no_picture" (only sound), "unsupported" (no decoder), "outside"
    (nothing is shown in the part that was asked for), or "damaged" for everything else.
    """

    def __init__(self, text: str, reason: str = "damaged"):
        super().__init__(text)
        self.reason = reason


def is_video_file(path: str | os.PathLike) -> bool:
    """
    Tell by its name, in any letter case, whether a file is a video. Hidden files are not, nor are the `._` files and
    the `__MACOSX` folders that macOS leaves beside real ones, nor `.ts` files with text in them, such as TypeScript.
    """
    suffix = PurePath(path).suffix.lower()
    if suffix not in VIDEO_SUFFIXES or is_hidden_file(path):
        return False
    return suffix not in SUFFIXES_OF_TEXTS_TOO or not _is_text(path)


def is_picture_file(path: str | os.PathLike) -> bool:
    """Tell by its name, in any letter case, whether a file is a picture; hidden files are not."""
    return PurePath(path).suffix.lower() in PICTURE_SUFFIXES and not is_hidden_file(path)


def is_hidden_file(path: str | os.PathLike) -> bool:
    """Tell whether a name begins with a dot, or is in a `__MACOSX` folder."""
    path = PurePath(path)
    return path.name.startswith(".") or FOLDER_OF_MACOS in path.parts


def _is_text(path: str | os.PathLike) -> bool:
    """Whether an existing file begins like a text: every video soon has a zero byte."""
    try:
        with open(path, "rb") as file:
            head = file.read(BYTES_THAT_TELL_A_TEXT)
    except OSError:
        return False
    return bool(head) and b"\0" not in head
