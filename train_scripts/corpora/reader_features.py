"""Ready-made features that others computed: a file per clip, or files of many clips, with a table of sentences."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from modeling_flallm.own_processing import VIDEO_SUFFIXES, feature_files

from .corpus_files import check_inside, is_of_a_system
from .corpus_rows import Gathered, path_below
from .corpus_schema import SPLITS, RawClip, RawCorpus
from .corpus_tables import COLUMN_NAMES, RowError
from .feature_folders import FeatureFolder
from .feature_tables import KnownTable, known_table
from .spreadsheets import add_tables, find_sources, refuse_tier, table_clip

TAKES_TABLE = True

RATE = feature_files.RATE_KEY
FEATURE_COLUMN_NAMES = {
    **COLUMN_NAMES,
    "file": (*COLUMN_NAMES["file"], "visual_features", "features"),
    RATE: (RATE,),
}


def read(
    folder: Path, videos: Path | None, table: Path | None, columns: Mapping[str, str], tier: str | None = None
) -> RawCorpus:
    """
    A spreadsheet as in `reader_table`, or a `KnownTable`. `file` names what holds the features of a clip: a file, with
    or without its folder, its suffix and SpaMo's postfix, or an array in a file of many clips (`.npz`, `.safetensors`,
    HDF5, pickle); `clips.h5#name` names both. `start` and `end` mark the part of the features that the clip is.

    Rows without a split belong to the split that the table, a folder above the features or their file is named after,
    else to `train`. Features that no row names are problems. `videos` is the folder of the features, if they are not
    below `folder`.
    """
    refuse_tier(tier)
    gathered, features = Gathered(), FeatureFolder(videos or folder)
    languages = gather_from_tables(gathered, folder, table, columns, features, FEATURE_COLUMN_NAMES)
    for postfix, count in features.postfixes.items():
        gathered.notes.append(f"{count} clip(s) have features in files of SpaMo's form, with the postfix {postfix}")
    return gathered.corpus(**languages, clips_are="features")


def gather_from_tables(
    gathered: Gathered,
    folder: Path,
    table: Path | None,
    columns: Mapping[str, str],
    features: FeatureFolder,
    column_names: Mapping[str, tuple[str, ...]],
) -> dict[str, str | None]:
    """
    Adds the clips of all tables; see `read`. Returns `sign_language` and `spoken_language`, if they follow from them.

    Args:
        features: all files of features, or of poses.
        column_names: what our columns may be called in a spreadsheet.
    """
    sources = _find_tables(folder, table)
    known = {path: kind for path in sources if (kind := known_table(path)) is not None}
    for path in known:
        check_inside(path, path.parent if table else folder)
    if known and columns:
        raise ValueError(
            f"The columns of {next(iter(known)).name} are known and cannot be renamed, got {dict(columns)}."
        )
    for path, kind in known.items():
        _add_known_table(gathered, path, kind, folder, features, column_names)
    others = [path for path in sources if path not in known]
    add_tables(gathered, others, folder, columns, lambda values, split: _clip(values, split, features), column_names)
    unused = features.unused(" or ".join(path.name for path in sources[:5]))
    gathered.problems += [*features.problems, *unused]
    languages = next((kind.languages for kind in known.values()), (None, None))
    return dict(zip(("sign_language", "spoken_language"), languages, strict=True))


def _find_tables(folder: Path, table: Path | None) -> list[Path]:
    """The given table, else all known ones in the folder, else its spreadsheets."""
    if table is not None:
        return find_sources(folder, table, None)
    here = sorted(path for path in folder.iterdir() if path.is_file() and not is_of_a_system(path.name))
    return [path for path in here if known_table(path)] or find_sources(folder, None, None)


def _add_known_table(
    gathered: Gathered,
    path: Path,
    kind: KnownTable,
    folder: Path,
    features: FeatureFolder,
    column_names: Mapping[str, tuple[str, ...]],
) -> None:
    split = kind.split_of(path)
    empty = dict.fromkeys(column_names, "")
    gathered.add(kind.rows(path, folder), lambda values: _clip(empty | values, split, features))
    gathered.notes.append(f"{path.name} is read as {kind.title}")


def _clip(values: dict[str, str], split: str | None, features: FeatureFolder) -> RawClip:
    file, _, array = path_below(values["file"]).partition("#")
    suffixes = (*VIDEO_SUFFIXES, *features.suffixes)
    clip = table_clip(values | {"file": array or file}, split or SPLITS[0], Path, suffixes)
    stated = clip.split if values["split"] or split else None
    place = features.find(path_below(values["file"]), stated)
    return replace(
        clip,
        video=place[0],
        array=place[1],
        split=stated or features.split_of(place) or clip.split,
        features_per_second=_rate(values.get(RATE, "")),
    )


def _rate(text: str) -> float | None:
    if not text:
        return None
    try:
        return feature_files.check_rate(text.replace(",", "."), "the clip")
    except ValueError as error:
        raise RowError(str(error).rstrip(".")) from error
