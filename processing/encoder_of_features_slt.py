# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Which encoder computed the features of a file, as the header of a `.safetensors` file says, and whether it fits."""

import os
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError, safe_open

from .array_files_slt import split_name

SHOWN_DIGITS = 12  # of a fingerprint


@dataclass(frozen=True)
class EncoderOfFeatures:
    """
    Args:
        name: the encoder's id on the Hub, or what else its user calls it; it may be missing.
        fingerprint: the digest of all that its features depend on: weights, and how clips are sampled and prepared.
    """

    name: str | None
    fingerprint: str

    def __str__(self) -> str:
        return f"{self.name or 'an encoder without a name'} (fingerprint {self.fingerprint[:SHOWN_DIGITS]})"


def encoder_of_features(source: Any) -> EncoderOfFeatures | None:
    """Read which encoder made a file; None for files that do not say, for arrays, and for what cannot be read."""
    if not isinstance(source, str | os.PathLike):
        return None
    path, _ = split_name(source)
    if path.suffix.lower() != ".safetensors":
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except (OSError, SafetensorError):  # whoever reads its values has a better error
        return None
    fingerprint = header.get("encoder_fingerprint")
    return EncoderOfFeatures(header.get("encoder"), fingerprint) if fingerprint else None


def check_encoder_of_features(source: Any, expected: EncoderOfFeatures) -> None:
    """Raise `ValueError` for a file of another encoder than the expected one."""
    found = encoder_of_features(source)
    if found is not None and found.fingerprint != expected.fingerprint:
        raise ValueError(
            f"'{source}' holds features of {found}, but the model was trained on those of {expected}. Compute them "
            "with that encoder and its settings."
        )
