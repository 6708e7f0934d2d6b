"""CSL-Daily: everyday sentences in Chinese Sign Language, as folders of pictures."""

import re
from pathlib import Path
from typing import Any

from modeling_flallm.own_processing import read_plain_pickle

from .corpus_files import folder_with_frames, frame_folder, needed_file, root_with
from .corpus_rows import Gathered, clip_name, sentence, split_named
from .corpus_schema import Problem, RawClip, RawCorpus
from .corpus_tables import RowError, read_rows, shown_path
from .label_entries import compare_length, strings_of


def read(folder: Path, videos: Path | None) -> RawCorpus:
    """
    CSL-Daily (Zhou et al., CVPR 2021: sizes, 30 frames per second). `csl2020ct_v2.pkl` holds a list "info" of
    `name, length, label_char, label_gloss, ...`, `split_1.txt` the splits. They disagree: the split file lists
    S000005_P0004_T00, the annotation file S000007_P0003_T00, which other projects use instead; here both are listed as
    problems, and so is the one empty sentence. The signer is the P of the name.
    """
    labels = root_with(folder, ("sentence_label", "", "sentence_labels"), "csl2020ct_v2.pkl")
    path = labels / "csl2020ct_v2.pkl"
    split_path = needed_file(labels / "split_1.txt", folder)
    places = ("sentence/frames_512x512", "sentence_frames-512x512/frames_512x512", "frames_512x512")
    pictures = videos or folder_with_frames(folder, places)
    content = read_plain_pickle(path)
    if not isinstance(content, dict) or not isinstance(content.get("info"), list):
        raise ValueError(f"{path} must hold a dictionary with a list 'info', as CSL-Daily's does.")
    gathered, annotations = Gathered(), {}
    for number, entry in enumerate(content["info"]):
        where = f"{shown_path(path, folder)}, entry {number} of 'info'"
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            gathered.problems.append(Problem(where, "has no name"))
        elif entry["name"] in annotations:
            gathered.problems.append(Problem(where, f"repeats the name {entry['name']!r}; this entry is left out"))
        else:
            annotations[entry["name"]] = entry
    in_split: set[str] = set()

    def to_clip(values: dict[str, str]) -> RawClip:
        in_split.add(values["name"].strip())
        return _csl_daily_clip(values, annotations, pictures, gathered)

    gathered.add(read_rows(split_path, folder, "|", ("name", "split")), to_clip)
    gathered.problems += [
        Problem(shown_path(path, folder), f"has the clip {name!r}, which {split_path.name} puts in no split")
        for name in annotations
        if name not in in_split
    ]
    return gathered.corpus(
        sign_language="csl",
        spoken_language="zh",
        frames_per_second=30.0,
        official_sizes={"train": 18401, "validation": 1077, "test": 1176},
    )


def _csl_daily_clip(values: dict[str, str], annotations: dict[str, Any], pictures: Path, gathered: Gathered) -> RawClip:
    name = clip_name(values["name"])
    if name not in annotations:
        raise RowError(f"{name!r} is not in csl2020ct_v2.pkl")
    entry = annotations[name]
    signer = re.search(r"_(P\d+)_", name)
    clip = RawClip(
        name=name,
        split=split_named(values["split"]),
        text=sentence("".join(strings_of(entry, "label_char"))),
        video=frame_folder(pictures, name),
        signer=signer.group(1) if signer else None,
        gloss=" ".join(strings_of(entry, "label_gloss") if "label_gloss" in entry else []) or None,
    )
    compare_length(clip, entry.get("length"), gathered)
    return clip
