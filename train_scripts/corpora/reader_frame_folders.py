"""Folders of pictures, one folder per clip, with a spreadsheet."""

from collections.abc import Mapping
from pathlib import Path

from .corpus_files import frame_folder
from .corpus_rows import Gathered
from .corpus_schema import RawClip, RawCorpus
from .corpus_tables import RowError
from .spreadsheets import add_tables, find_sources, refuse_tier, table_clip

TAKES_TABLE = True


def read(
    folder: Path, videos: Path | None, table: Path | None, columns: Mapping[str, str], tier: str | None = None
) -> RawCorpus:
    """A spreadsheet as in `reader_table`, except that `file` names a subfolder with pictures, one per frame."""
    refuse_tier(tier)
    gathered = Gathered()

    def to_clip(values: dict[str, str], split: str | None) -> RawClip:
        if values["start"] or values["end"]:
            raise RowError("start and end are for videos: put the pictures of this clip into a folder of their own")
        return table_clip(values, split or "train", lambda name: frame_folder(videos or folder, name))

    add_tables(gathered, find_sources(folder, table, None), folder, columns, to_clip)
    return gathered.corpus()
