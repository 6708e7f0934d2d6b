"""What a run and its model card say about the descriptions of its clips."""

from typing import Any

import datasets

from ..clips.description_store import DESCRIPTIONS_COLUMN, description_facts, read_descriptions
from ..hub.hub_names import is_hub_id
from ..hub.training_run import plain_name, public_name

# What a model card says of them, by the names in the store.
FACTS = ("describer", "describer_license", "column", "text_encoder", "text_encoder_license", "stride", "segment_frames")
NAMES = ("describer", "column", "text_encoder")


def describe_descriptions(name_or_path: str, split: datasets.Dataset) -> dict[str, Any]:
    """
    For the model card: where the descriptions are from and, of the clips of a split, `described_clips` and
    `described_frames`, the shares that are described; that of the frames is over the clips with a description.

    Raises:
        FileNotFoundError, ValueError: as `description_facts` and `read_descriptions`.
    """
    facts = description_facts(name_or_path)
    num_clips = num_frames = num_described = 0
    for path in split[DESCRIPTIONS_COLUMN]:
        if path is not None:
            found = read_descriptions(path)
            num_clips += 1
            num_frames += found.num_frames
            num_described += int((found.frames[:, 1] - found.frames[:, 0]).sum())
    names = {name: plain_name(str(facts[name])) for name in NAMES if facts[name] is not None}
    return {
        **{name: facts[name] for name in FACTS},
        **names,
        "name": public_name(name_or_path),
        "hub_id": name_or_path if is_hub_id(name_or_path) else None,
        "described_clips": num_clips / len(split),
        "described_frames": num_described / max(num_frames, 1),
    }


def described_share_text(described: dict[str, Any]) -> str:
    return (
        f"Described are {100 * described['described_clips']:.1f} of 100 training clips, and in these "
        f"{100 * described['described_frames']:.1f} of 100 frames."
    )
