"""
What `flallm calibrate` measured of a model, in a file beside config.json, confidence_calibration.json. In memory it is
`confidence_calibration` of the model's configuration. A model without the file is not calibrated.
"""

import json
import math
import os
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers import PreTrainedConfig
from transformers.utils import cached_file

from .loading_slt import file_options

CALIBRATION_FILE = "confidence_calibration.json"


class SavedWithItsCalibration:
    """
    Mixin for configurations with a `confidence_calibration` and a `vision_config`: `save_pretrained` writes the
    calibration into its own file and leaves it out of config.json. The `from_pretrained` of models reads that file; of
    the configuration alone, it reads only a calibration that an earlier version wrote into config.json.
    """

    def to_dict(self) -> dict[str, Any]:
        """See `PreTrainedConfig.to_dict`, and the class."""
        values = super().to_dict()
        values.pop("confidence_calibration", None)
        return values

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """
        See `PreTrainedConfig.save_pretrained`, and the class.

        Raises:
            ValueError: as `check_calibration`; nothing is written then.
        """
        if self.confidence_calibration is not None:
            check_calibration(self.confidence_calibration, self.vision_config.hidden_size)
        super().save_pretrained(save_directory, **kwargs)
        if self.confidence_calibration is not None:
            _write(save_directory, self.confidence_calibration)


def read_calibration(config: PreTrainedConfig, options: dict[str, Any]) -> None:
    """
    Put into a configuration what the calibration file beside its model says, if there is one.

    Args:
        config: of a model that was loaded from `config.name_or_path`, a folder or Hub id.
        options: those of its `from_pretrained`.

    Raises:
        ValueError: for a file that is damaged or belongs to another model; it names the file.
        OSError: as `from_pretrained`.
    """
    places = {name: value for name, value in file_options(options).items() if name != "trust_remote_code"}
    # `None`, too, without a connection: a model that an earlier version cached still loads.
    path = cached_file(config.name_or_path, CALIBRATION_FILE, _raise_exceptions_for_missing_entries=False, **places)
    if path is not None:
        config.confidence_calibration = _read(path, config.vision_config.hidden_size)


def _read(path: str, hidden_size: int) -> dict[str, Any] | None:
    try:
        calibration = json.loads(Path(path).read_text(encoding="utf-8"))
        if calibration is not None:
            check_calibration(calibration, hidden_size)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is no calibration of this model: {str(error).rstrip('.')}. Copy or download it again, or run "
            "flallm calibrate. Without this file the model loads, but gives no confidence."
        ) from error
    return calibration


class SentWithItsCalibration:
    """
    Mixin for what has `push_to_hub` and `save_pretrained(push_to_hub=True)` of transformers. They delete nothing in the
    repository, so a model without calibration replaces that of other weights there by an empty one, `null`.
    """

    def _upload_modified_files(self, working_dir: str | os.PathLike, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        """Behind both ways, transformers sends what is new in this folder."""
        is_in_folder = [(Path(working_dir) / name).is_file() for name in ("config.json", CALIBRATION_FILE)]
        if is_in_folder == [True, False] and _is_on_hub(repo_id, kwargs.get("revision"), kwargs.get("token")):
            _write(working_dir, None)
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)


def _is_on_hub(repo_id: str, revision: str | None, token: bool | str | None) -> bool:
    """Whether a calibration is on this branch, or on the main one, of which a new branch is a copy."""
    api = HfApi(token=token)
    return any(api.file_exists(repo_id, CALIBRATION_FILE, revision=branch) for branch in {revision, None})


def _write(folder: str | os.PathLike, calibration: dict[str, Any] | None) -> None:
    (Path(folder) / CALIBRATION_FILE).write_text(json.dumps(calibration, indent=2) + "\n", encoding="utf-8")


def check_calibration(calibration: Any, hidden_size: int) -> None:
    """
    Args:
        hidden_size: of the vision configuration.

    Raises:
        ValueError: for a calibration with unknown, missing or unusable values.
    """
    keys = set(calibration) if isinstance(calibration, dict) else set()
    missing = {"slope", "intercept"} - keys
    unknown = keys - {"slope", "intercept", "lowest_score", "highest_score", "mean_features", "largest_distance"}
    if missing or unknown or ("mean_features" in keys) != ("largest_distance" in keys):
        got = sorted(keys) if isinstance(calibration, dict) else repr(calibration)
        raise ValueError(
            "`confidence_calibration` must hold `slope` and `intercept`, and may hold `lowest_score`, `highest_score` "
            f"and, together, `mean_features` and `largest_distance`, got {got}. Make it with flallm calibrate."
        )
    for name in sorted(keys - {"mean_features"}):
        value = calibration[name]
        if not _is_finite_number(value) or (name == "slope" and value < 0):
            least = " of 0 or more" if name == "slope" else ""
            raise ValueError(f"`{name}` of `confidence_calibration` must be a number{least}, got {value!r}.")
    features = calibration.get("mean_features", [0.0] * hidden_size)
    is_list = isinstance(features, list | tuple)
    if not is_list or len(features) != hidden_size or not all(map(_is_finite_number, features)):
        num_finite = sum(map(_is_finite_number, features)) if is_list else 0
        got = f"{len(features)} values, {num_finite} of them finite numbers" if is_list else repr(features)
        raise ValueError(
            f"`mean_features` of `confidence_calibration` must be a list of {hidden_size} numbers, as many as "
            f"`hidden_size` of the vision configuration, got {got}."
        )


def check_direction(direction: list[float] | None, hidden_size: int) -> None:
    """
    Raises:
        ValueError: for a `handedness_direction` that is neither `None` nor a list of so many finite numbers.
    """
    if direction is None or (len(direction) == hidden_size and all(map(_is_finite_number, direction))):
        return
    raise ValueError(
        f"`handedness_direction` must be a list of {hidden_size} finite numbers, as many as `hidden_size` of the "
        f"vision configuration, got {len(direction)} values."
    )


def _is_finite_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


__all__ = [
    "CALIBRATION_FILE",
    "SavedWithItsCalibration",
    "SentWithItsCalibration",
    "check_calibration",
    "check_direction",
    "read_calibration",
]
