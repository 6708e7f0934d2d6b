"""Poses that others extracted: a file or a folder per clip, or files of many clips, with a table of sentences."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .corpus_rows import Gathered, path_below
from .corpus_schema import RawClip, RawCorpus
from .corpus_tables import COLUMN_NAMES
from .label_entries import string_of
from .pose_folders import PoseFolder
from .reader_features import gather_from_tables
from .reader_gfslt_labels import clip_of_label, gather_labels
from .spreadsheets import refuse_tier

TAKES_TABLE = True

POSE_COLUMN_NAMES = {**COLUMN_NAMES, "file": (*COLUMN_NAMES["file"], "poses", "pose", "keypoints")}


def read(
    folder: Path, videos: Path | None, table: Path | None, columns: Mapping[str, str], tier: str | None = None
) -> RawCorpus:
    """
    A spreadsheet or a `KnownTable` as in `reader_features`, or the label files of GFSLT-VLP, sltbaselines or Uni-Sign
    (`labels.train`, `labels.dev`, `labels.test`) as in `reader_gfslt_labels`. They name the poses of each clip: a file,
    with or without its folder and its suffix, a folder of OpenPose's JSON files, or an array in a file of many clips;
    the name of a video means the poses of that video. `start` and `end` mark the part that the clip is.

    Poses that no row names are problems. `videos` is the folder of the poses, if they are not below `folder`.
    """
    refuse_tier(tier)
    gathered, poses = Gathered(), PoseFolder(videos or folder)
    if table is None and (folder / "labels.train").is_file():
        gather_labels(gathered, folder, lambda entry, split: _clip_of_label(entry, split, poses))
        gathered.problems += [*poses.problems, *poses.unused("the label files")]
        return gathered.corpus(clips_are="poses")
    languages = gather_from_tables(gathered, folder, table, columns, poses, POSE_COLUMN_NAMES)
    return gathered.corpus(**languages, clips_are="poses")


def _clip_of_label(entry: Mapping[str, Any], split: str, poses: PoseFolder) -> RawClip:
    name = string_of(entry, "name" if entry.get("video_path") is None else "video_path")
    path, array = poses.find(path_below(name), split)
    clip = clip_of_label(entry, split, path)
    return clip if array is None else RawClip(**{**vars(clip), "array": array})
