# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""The model files of pose extractors: downloaded once, from a fixed address, and checked by their SHA-256."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import torch

CACHE_FOLDER = "flallm_poses"  # in the folder of torch.hub, which TORCH_HOME moves
DIGITS_SHOWN = 12


@dataclass(frozen=True)
class PinnedModel:
    """
    A model file that is downloaded.

    Args:
        address: of the file, in a version that does not change.
        sha256: of its content.
        license: of the model.
    """

    address: str
    sha256: str
    license: str

    @property
    def file_name(self) -> str:
        return self.address.rpartition("/")[2]

    def path(self) -> Path:
        """
        The file on this machine, downloaded if it is not there yet.

        Raises:
            ValueError: if it cannot be downloaded, or has another content than expected.
        """
        path = Path(torch.hub.get_dir()) / CACHE_FOLDER / self.file_name
        if not path.is_file():
            self._download(path)
        found = sha256_of([path])
        if found != self.sha256:
            raise ValueError(
                f"{path} has the SHA-256 {found}, expected {self.sha256}. Delete the file, and it is downloaded again."
            )
        return path

    def _download(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        by_hand = f"Download {self.address} on another machine and put it at {path}, or pass a model file of your own."
        try:
            torch.hub.download_url_to_file(self.address, str(path), hash_prefix=self.sha256)
        except RuntimeError as error:  # another content, of which torch keeps nothing
            raise ValueError(f"{self.address} is not the file that was expected: {error}.") from error
        except (URLError, OSError) as error:
            raise ValueError(f"{self.address} could not be downloaded: {error}. {by_hand}") from error


def sha256_of(paths: Iterable[Path]) -> str:
    """The digest of a file, or of several as one."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while content := file.read(2**20):
                digest.update(content)
    return digest.hexdigest()


def shown_digest(paths: Iterable[Path]) -> str:
    """The beginning of the digest of model files, as descriptions of extractors have it."""
    return f"sha256:{sha256_of(paths)[:DIGITS_SHOWN]}"


def given_model_file(path: str | Path) -> Path:
    """
    A model file that somebody names.

    Raises:
        ValueError: if it is not there.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"There is no model file {path}.")
    return path
