"""RWTH-PHOENIX-Weather 2014 T: weather forecasts in German Sign Language, as folders of pictures."""

from pathlib import Path

from .corpus_files import folder_with_frames, frame_folder, needed_file, root_with
from .corpus_rows import Gathered, clip_name, sentence
from .corpus_schema import RawClip, RawCorpus
from .corpus_tables import SPLIT_NAMES, read_rows


def read(folder: Path, videos: Path | None) -> RawCorpus:
    """
    RWTH-PHOENIX-Weather 2014 T (Camgoz et al., CVPR 2018). The archive unpacks to `PHOENIX-2014-T`; its tables are
    separated by `|` without quoting, and their column `video` has a `/1/` that no folder has. Sizes and 25 frames per
    second are from the paper. Sentences are not changed: nothing is appended to them.
    """
    places = ("", "PHOENIX-2014-T", "PHOENIX-2014-T-release-v3/PHOENIX-2014-T")
    tables = {split: f"annotations/manual/PHOENIX-2014-T.{split}.corpus.csv" for split in ("train", "dev", "test")}
    root = root_with(folder, places, tables["train"])
    pictures = videos or folder_with_frames(root, ("features/fullFrame-210x260px",))
    gathered = Gathered()
    for split, name in tables.items():
        path = needed_file(root / name, folder)
        rows = read_rows(path, folder, "|", ("name", "speaker", "orth", "translation"))
        gathered.add(rows, lambda values, split=split: _phoenix_clip(values, split, pictures))
    return gathered.corpus(
        sign_language="gsg",
        spoken_language="de",
        frames_per_second=25.0,
        official_sizes={"train": 7096, "validation": 519, "test": 642},
    )


def _phoenix_clip(values: dict[str, str], split: str, pictures: Path) -> RawClip:
    name = clip_name(values["name"])
    return RawClip(
        name=name,
        split=SPLIT_NAMES[split],
        text=sentence(values["translation"]),
        video=frame_folder(pictures, f"{split}/{name}"),
        signer=values["speaker"].strip() or None,
        gloss=values["orth"].strip() or None,
    )
