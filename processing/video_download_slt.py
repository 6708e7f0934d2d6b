# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Downloads videos from http(s) addresses, with limits on size and time and without access to the local network."""

import ipaddress
import socket
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException
from typing import Any, BinaryIO

from .video_files_slt import VideoDecodingError

SECONDS_WITHOUT_AN_ANSWER = 30
LONGEST_DOWNLOAD_IN_SECONDS = 1800
LARGEST_DOWNLOAD_IN_BYTES = 4 * 2**30
BYTES_AT_ONCE = 2**20


def download(address: str) -> BinaryIO:
    """
    Download a video into a temporary file, which is deleted when it is closed.

    Raises:
        VideoDecodingError: for an address that is not http(s) or redirects to one that is not, for one on the internet
            that redirects into the local network, for a video that is too large or takes too long, and for everything
            else that goes wrong.
    """
    if not address.lower().startswith(("http://", "https://")):
        raise VideoDecodingError(f"Only http:// and https:// addresses are read, got '{address}'. Download it first.")
    file = tempfile.TemporaryFile()  # noqa: SIM115
    try:
        request = urllib.request.Request(address, headers={"User-Agent": "flallm"})
        with _opener().open(request, timeout=SECONDS_WITHOUT_AN_ANSWER) as response:
            _copy(response, file, address)
    except (urllib.error.URLError, HTTPException, OSError, ValueError) as error:
        file.close()
        if isinstance(error, VideoDecodingError):
            raise
        raise VideoDecodingError(
            f"'{address}' could not be downloaded: {error}. Check the address, or download the video and pass its path."
        ) from error
    file.seek(0)
    return file


def _copy(response: Any, file: BinaryIO, address: str) -> None:
    deadline, size = time.monotonic() + LONGEST_DOWNLOAD_IN_SECONDS, 0
    announced = int(response.headers.get("Content-Length") or 0)
    while announced <= LARGEST_DOWNLOAD_IN_BYTES and (content := response.read1(BYTES_AT_ONCE)):
        size += len(content)
        if size > LARGEST_DOWNLOAD_IN_BYTES:
            break
        if time.monotonic() > deadline:
            raise VideoDecodingError(
                f"'{address}' takes longer than {LONGEST_DOWNLOAD_IN_SECONDS} seconds to download. Download the video "
                "and pass its path."
            )
        file.write(content)
    if max(size, announced) > LARGEST_DOWNLOAD_IN_BYTES:
        raise VideoDecodingError(
            f"'{address}' is larger than {LARGEST_DOWNLOAD_IN_BYTES} bytes, the most that is downloaded. Download the "
            "video and pass its path."
        )
    if size < announced:
        raise ValueError(f"the connection ended after {size} of {announced} bytes")


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request: Any, *arguments: Any) -> Any:
        new = arguments[-1]
        if urllib.parse.urlsplit(new).scheme not in ("http", "https"):
            raise ValueError(f"it redirects to '{new}', which is not an http(s) address")
        if _is_inside(new) and not _is_inside(request.full_url):
            raise ValueError(f"it redirects to '{new}', an address inside the local network")
        return super().redirect_request(request, *arguments)


def _is_inside(address: str) -> bool:
    """Whether any of a host's addresses belongs to this machine or the local network."""
    host = urllib.parse.urlsplit(address).hostname or ""
    found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    return not all(ipaddress.ip_address(name.split("%")[0]).is_global for name in found)


def _opener() -> urllib.request.OpenerDirector:
    """An opener for http and https, but not for ftp, files or data."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        _Redirects,
    ):
        opener.add_handler(handler())
    return opener
