"""
Small trees in the exact layout of each raw corpus, quirks included, made on the fly.

Every builder takes the number of whole clips per split and returns the folder that `read_corpus` takes. Defects of real
corpora (a row without its video, an empty sentence) come on top, and are listed in the builder's docstring. Frames come
from `counting_frames`: their brightness encodes their number.
"""

import csv
import gzip
import random
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image
from video_files import counting_frames, write_video

NUM_CLIPS = MappingProxyType({"train": 4, "validation": 2, "test": 2})
GERMAN = "am tag scheint oft die sonne im norden regnet es und in der nacht wird kalt bei schwachem wind"
ENGLISH = 'Now we are going to talk about how you can make "the best" bread with your own hands today.'
CHINESE = "我们今天去学校看书他喜欢吃苹果你家在哪里天气很好"
PHOENIX_NAMES = {"train": "train", "validation": "dev", "test": "test"}
HOW2SIGN_NAMES = {"train": "train", "validation": "val", "test": "test"}
HOW2SIGN_COLUMNS = ["VIDEO_ID", "VIDEO_NAME", "SENTENCE_ID", "SENTENCE_NAME"]
HOW2SIGN_COLUMNS += ["START_REALIGNED", "END_REALIGNED", "SENTENCE"]
OPENASL_NAMES = {"train": "train", "validation": "valid", "test": "test"}
FRAMES_PER_SECOND = 25


def make_phoenix14t(
    folder: Path,
    num_clips: Mapping[str, int] = NUM_CLIPS,
    frame_size: tuple[int, int] = (48, 40),
    num_frames: tuple[int, int] = (6, 14),
) -> Path:
    """PHOENIX14T as its archive unpacks: `|` without quotes, `/1/` in a column that names no folder, -1 for times."""
    root = folder / "PHOENIX-2014-T"
    (root / "annotations" / "manual").mkdir(parents=True)
    for split, index in _clips(num_clips):
        name = f"{index + 1:02}April_2010_Thursday_heute-{6690 + index}"
        official = PHOENIX_NAMES[split]
        _write_pictures(
            root / "features" / "fullFrame-210x260px" / official / name, frame_size, num_frames, "images{:04}.png", 1
        )
        path = root / "annotations" / "manual" / f"PHOENIX-2014-T.{official}.corpus.csv"
        values = [name, f"{name}/1/*.png", "-1", "-1", f"Signer{index % 3 + 1:02}", "TAG SONNE", sentence(GERMAN)]
        _append(path, "name|video|start|end|speaker|orth|translation", "|".join(values))
    return folder


def make_csl_daily(
    folder: Path,
    num_clips: Mapping[str, int] = NUM_CLIPS,
    frame_size: tuple[int, int] = (48, 40),
    num_frames: tuple[int, int] = (6, 14),
) -> Path:
    """
    CSL-Daily. On top, all in the split train: S000005_P0004_T00 in the split file only, S000007_P0003_T00 in the
    annotation only (with frames), and S009999_P0001_T00 with frames and an empty sentence.
    """
    labels, pictures = folder / "sentence_label", folder / "sentence" / "frames_512x512"
    labels.mkdir(parents=True)
    annotations, splits = [], ["name|split", "S000005_P0004_T00|train", "S009999_P0001_T00|train"]
    names = [(f"S{index + 100:06}_P{index % 4:04}_T00", split) for split, index in _clips(num_clips)]
    splits += [f"{name}|{PHOENIX_NAMES[split]}" for name, split in names]
    for name in [*dict(names), "S000007_P0003_T00", "S009999_P0001_T00"]:
        length = _write_pictures(pictures / name, frame_size, num_frames, "{:06}.jpg", 0)
        characters = [] if name.startswith("S009999") else random.choices(CHINESE, k=random.randint(4, 9)) + ["。"]
        annotations.append(_csl_row(name, length, characters))
    (labels / "csl2020ct_v2.pkl").write_bytes(plain_pickle({"info": annotations, "gloss_map": ["今天"]}))
    (labels / "split_1.txt").write_text("\n".join(splits) + "\n", encoding="utf-8")
    return folder


def _csl_row(name: str, length: int, characters: list[str]) -> dict[str, Any]:
    words = {"label_gloss": ["今天", "学校"], "label_word": characters, "label_postag": ["n"] * len(characters)}
    return {"name": name, "length": length, "label_char": characters, **words, "signer": int(name[9:13]), "time": 0}


def make_how2sign(
    folder: Path,
    num_clips: Mapping[str, int] = NUM_CLIPS,
    frame_size: tuple[int, int] = (48, 40),
    num_frames: tuple[int, int] = (6, 14),
    layout: str = "clips",
) -> Path:
    """
    How2Sign: `layout` is "clips" (one file a sentence) or "videos" (two sentences a file, as its download script puts
    them). On top, one training row without its video.
    """
    rows = {split: [] for split in num_clips}
    for split, index, start, end, num_frames_of_video in _segments(num_clips, num_frames, layout):
        video, place = f"--7E2sU6zP{index if layout == 'clips' else index // 2}", HOW2SIGN_NAMES[split]
        names = [video, f"{video}-{index % 3}-rgb_front", f"{video}_{index}", f"{video}_{index}-{index % 3}-rgb_front"]
        if layout == "videos":
            names[1] = f"{video}-5-rgb_front"
            path = folder / "video_level" / place / "rgb_front" / "raw_videos" / f"{names[1]}.mp4"
        else:
            path = folder / f"{place}_rgb_front_clips" / "raw_videos" / f"{names[3]}.mp4"
        _write_once(path, num_frames_of_video, frame_size)
        rows[split].append([*names, str(start), str(end), sentence(ENGLISH)])
    missing = ["gone", "gone-1-rgb_front", "gone_0", "gone_0-1-rgb_front", "0.1", "2.5", "This clip is missing."]
    rows["train"].append(missing)
    for split, values in rows.items():
        place = HOW2SIGN_NAMES[split]
        path = folder / f"how2sign_realigned_{place}.csv"
        if layout == "videos":
            path = folder / "sentence_level" / place / "text" / "en" / "raw_text" / "re_aligned" / path.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join("\t".join(row) + "\n" for row in [HOW2SIGN_COLUMNS, *values]), encoding="utf-8")
    return folder


def make_openasl(
    folder: Path,
    num_clips: Mapping[str, int] = NUM_CLIPS,
    frame_size: tuple[int, int] = (48, 40),
    num_frames: tuple[int, int] = (6, 14),
    layout: str = "clips",
) -> Path:
    """
    OpenASL: `layout` is "clips" (its script's output, colons in the names) or "videos" (two sentences a downloaded
    file). The first sentence has an unclosed quotation mark; on top, one training row without its video.
    """
    (folder / "data").mkdir(parents=True)
    lines = ["\t".join(["vid", "yid", "start", "end", "raw-text", "tokenized-text", "gloss", "split"])]
    for split, index, start, end, num_frames_of_video in _segments(num_clips, num_frames, layout):
        youtube = f"xY_-{index if layout == 'clips' else index // 2:07}"
        name = f"{youtube}-{clock(start)}-{clock(end)}"
        path = folder / ("video-clip" if layout == "clips" else "raw-video")
        _write_once(path / f"{name if layout == 'clips' else youtube}.mp4", num_frames_of_video, frame_size)
        text = '"' * (index == 0) + sentence(ENGLISH).replace('"', "")
        lines.append(
            "\t".join([name, youtube, clock(start), clock(end), text, text.lower(), "BREAD", OPENASL_NAMES[split]])
        )
    gone = ["gone-00:00:01.000-00:00:02.500", "gone", "00:00:01.000", "00:00:02.500"]
    lines.append("\t".join([*gone, "This video is private.", "this video is private .", "", "train"]))
    (folder / "data" / "openasl-v1.0.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def make_gfslt_labels(
    folder: Path,
    num_clips: Mapping[str, int] = NUM_CLIPS,
    frame_size: tuple[int, int] = (48, 40),
    num_frames: tuple[int, int] = (6, 14),
) -> Path:
    """Label files labels.train, labels.dev, labels.test (gzip pickles), and the pictures below the folder `frames`."""
    labels: dict[str, dict[str, Any]] = {split: {} for split in num_clips}
    for split, index in _clips(num_clips):
        name = f"{PHOENIX_NAMES[split]}/{index:02}April_2010_Thursday_heute-{6690 + index}"
        length = _write_pictures(folder / "frames" / name, frame_size, num_frames, "images{:04}.png", 1)
        paths = [f"{name}/images{number:04}.png" for number in range(1, length + 1)]
        labels[split][name] = {
            "name": name,
            "gloss": "TAG SONNE",
            "text": sentence(GERMAN),
            "length": length,
            "imgs_path": paths,
        }
    for split, values in labels.items():
        (folder / f"labels.{PHOENIX_NAMES[split]}").write_bytes(gzip.compress(plain_pickle(values)))
    return folder


def make_table(
    folder: Path,
    num_clips: Mapping[str, int] = NUM_CLIPS,
    frame_size: tuple[int, int] = (48, 40),
    num_frames: tuple[int, int] = (6, 14),
    layout: str = "clips",
) -> Path:
    """
    A spreadsheet `clips.csv` with the columns that the reader expects by default, and videos in folders per signer.
    `layout` "videos" puts two sentences into one file, with `start` and `end`.
    """
    rows = []
    for split, index, start, end, num_frames_of_video in _segments(num_clips, num_frames, layout):
        signer = f"signer {index % 2}"
        path = folder / signer / f"clip {index if layout == 'clips' else index // 2:03}.mp4"
        if layout == "videos":
            path = folder / "long" / path.name
        _write_once(path, num_frames_of_video, frame_size)
        times = {"start": "", "end": ""} if layout == "clips" else {"start": start, "end": end}
        row = {"file": path.relative_to(folder), "text": sentence(ENGLISH), **times}
        rows.append({**row, "signer": signer, "gloss": "BREAD", "split": split})
    _write_table(folder / "clips.csv", rows)
    return folder


def make_frame_folders(
    folder: Path,
    num_clips: Mapping[str, int] = NUM_CLIPS,
    frame_size: tuple[int, int] = (48, 40),
    num_frames: tuple[int, int] = (6, 14),
) -> Path:
    """A spreadsheet `clips.csv` that names folders of JPEG files, numbered without leading zeros."""
    rows = []
    for split, index in _clips(num_clips):
        _write_pictures(folder / split / f"clip{index}", frame_size, num_frames, "frame{}.jpg", 1)
        rows.append({"file": f"{split}/clip{index}", "text": sentence(ENGLISH), "split": split})
    _write_table(folder / "clips.csv", rows)
    return folder


def make_features(
    folder: Path,
    num_clips: Mapping[str, int] = NUM_CLIPS,
    frame_size: tuple[int, int] = (48, 40),
    num_frames: tuple[int, int] = (6, 14),
) -> Path:
    """A spreadsheet `clips.csv`, and for each clip a `.npy` file (frames, pixels) in a folder of its split."""
    rows = []
    for split, index in _clips(num_clips):
        path = folder / "features" / PHOENIX_NAMES[split] / f"clip{index}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (random.randint(*num_frames), frame_size[0] * frame_size[1])
        np.save(path, np.random.standard_normal(shape).astype(np.float32))
        rows.append({"file": f"clip{index}", "text": sentence(ENGLISH), "split": split})
    _write_table(folder / "clips.csv", rows)
    return folder


def make_poses(
    folder: Path,
    num_clips: Mapping[str, int] = NUM_CLIPS,
    frame_size: tuple[int, int] = (48, 40),
    num_frames: tuple[int, int] = (6, 14),
) -> Path:
    """A spreadsheet `clips.csv`, and for each clip a `.npz` file (frames, 133, 3) in a folder of its split."""
    rows = []
    for split, index in _clips(num_clips):
        path = folder / "poses" / PHOENIX_NAMES[split] / f"clip{index}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        keypoints = np.random.uniform(0, 1, (random.randint(*num_frames), 133, 3)) * [*frame_size, 1]
        np.savez(path, keypoints=keypoints.astype(np.float32), frames_per_second=25.0)
        rows.append({"file": f"clip{index}", "text": sentence(ENGLISH), "split": split})
    _write_table(folder / "clips.csv", rows)
    return folder


def sentence(words: str) -> str:
    return " ".join(random.choices(words.split(), k=random.randint(4, 8)))


def clock(seconds: float) -> str:
    """61.5 -> 00:01:01.500"""
    return f"{int(seconds) // 3600:02}:{int(seconds) // 60 % 60:02}:{seconds % 60:06.3f}"


def plain_pickle(value: Any) -> bytes:
    """Equivalent to pickle.dumps(value, protocol=3) for dictionaries, lists, strings, numbers and None."""
    return b"\x80\x03" + b"".join(_pickle_parts(value)) + b"."


def _pickle_parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, dict):
        yield b"}("
        for pair in value.items():
            yield from (part for item in pair for part in _pickle_parts(item))
        yield b"u"
    elif isinstance(value, list):
        yield b"]("
        for item in value:
            yield from _pickle_parts(item)
        yield b"e"
    elif isinstance(value, str):
        content = value.encode()
        yield b"X" + struct.pack("<I", len(content)) + content
    elif isinstance(value, float):
        yield b"G" + struct.pack(">d", value)
    else:
        yield b"N" if value is None else b"J" + struct.pack("<i", value)


def _clips(num_clips: Mapping[str, int]) -> list[tuple[str, int]]:
    """A split and a number for each clip; numbering continues from split to split."""
    splits = [split for split, count in num_clips.items() for _ in range(count)]
    return [(split, index) for index, split in enumerate(splits)]


def _segments(
    num_clips: Mapping[str, int], num_frames: tuple[int, int], layout: str
) -> Iterator[tuple[str, int, float, float, int]]:
    """
    Split, number, start and end in seconds, and frames of the whole file, for each sentence; in the layout "videos",
    files hold two sentences of the same split (numbers then skip one after an odd count).
    """
    index = 0
    for split, count in num_clips.items():
        for position in range(count):
            if layout == "clips" or position % 2 == 0:
                middle, total = random.randint(*num_frames), random.randint(*num_frames)
            part = position % 2 if layout == "videos" else 0
            first, last = (middle, middle + total) if part else (0, middle)
            whole = middle + total if layout == "videos" else middle
            yield split, index, first / FRAMES_PER_SECOND, last / FRAMES_PER_SECOND, whole
            index += 1
        index += index % 2 if layout == "videos" else 0


def _write_once(path: Path, num_frames: int, frame_size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write_video(path, counting_frames(num_frames, *frame_size), fps=FRAMES_PER_SECOND)


def _write_pictures(
    folder: Path, frame_size: tuple[int, int], num_frames: tuple[int, int], name: str, first: int
) -> int:
    """-> the number of pictures"""
    folder.mkdir(parents=True)
    count = random.randint(*num_frames)
    for number, frame in enumerate(counting_frames(count, *frame_size), first):
        Image.fromarray(frame).save(folder / name.format(number))
    return count


def _append(path: Path, header: str, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n" if file.tell() else f"{header}\n{line}\n")


def _write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
