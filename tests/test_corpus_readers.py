"""Readers of raw corpora: each on a tree of its exact layout, and on what people and broken disks do to such trees."""

import ast
import contextlib
import gzip
import os
import random
import re
import struct
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
import raw_corpora
from raw_corpora import NUM_CLIPS, plain_pickle

import train_scripts.corpora
from modeling_flallm.own_processing import read_plain_pickle
from train_scripts.corpora import corpus_readers
from train_scripts.corpora.corpus_readers import KINDS, read_corpus
from train_scripts.corpora.corpus_schema import Problem, RawCorpus

LAYOUTS = [
    *((kind, None) for kind in KINDS),
    *((kind, "videos") for kind in ("how2sign", "openasl", "table")),
]
NUM_PROBLEMS = {"csl_daily": 3, "how2sign": 1, "openasl": 1}


def make(kind: str, folder: Path, layout: str | None = None, **options) -> Path:
    builder = getattr(raw_corpora, f"make_{kind}")
    return builder(folder, num_frames=(2, 3), frame_size=(16, 16), **options, **({"layout": layout} if layout else {}))


def read(kind: str, folder: Path, **options) -> RawCorpus:
    return read_corpus(kind, folder, videos=folder / "frames" if kind == "gfslt_labels" else None, **options)


def own_table(folder: Path, content: str | bytes, files: tuple[str, ...] = ("a.mp4",), name: str = "clips.csv") -> Path:
    """A folder with a table as written, and files (not real videos: readers do not open them)."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(b"video")
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def texts(corpus: RawCorpus) -> list[str]:
    return [clip.text for clip in corpus.clips]


def problems(corpus: RawCorpus) -> list[tuple[str, str]]:
    return [(problem.where, problem.what) for problem in corpus.problems]


# Whole corpora


@pytest.mark.parametrize(("kind", "layout"), LAYOUTS)
def test_every_clip_of_a_corpus_is_read(kind, layout, tmp_path):
    num_clips = {split: random.randint(1, 4) for split in NUM_CLIPS}
    corpus = read(kind, make(kind, tmp_path / kind, layout, num_clips=num_clips))
    assert Counter(clip.split for clip in corpus.clips) == num_clips
    assert len(corpus.problems) == NUM_PROBLEMS.get(kind, 0)
    assert all(clip.text == clip.text.strip() != "" for clip in corpus.clips)
    assert all(clip.video.is_file() or any(clip.video.iterdir()) for clip in corpus.clips)
    assert len({(clip.split, clip.name) for clip in corpus.clips}) == len(corpus.clips)
    assert not [clip.name for clip in corpus.clips if "/" in clip.name]
    has_times = layout == "videos"
    assert all((clip.start is not None and clip.end > clip.start) == has_times for clip in corpus.clips)


def test_phoenix14t(tmp_path):
    folder = make("phoenix14t", tmp_path)
    table = folder / "PHOENIX-2014-T" / "annotations" / "manual" / "PHOENIX-2014-T.dev.corpus.csv"
    table.write_text(
        "name|video|start|end|speaker|orth|translation\n"
        '05April_2010_Thursday_heute-6694|05April/1/*.png|-1|-1|Signer08|REGEN " |am "tag regen\n'
        "gone|gone/1/*.png|-1|-1|Signer01|X|nicht da\n",
        encoding="utf-8",
    )
    corpus = read("phoenix14t", folder)
    [clip] = [clip for clip in corpus.clips if clip.split == "validation"]
    frames = folder / "PHOENIX-2014-T" / "features" / "fullFrame-210x260px" / "dev"
    assert clip.video == frames / "05April_2010_Thursday_heute-6694"
    assert (clip.text, clip.gloss, clip.signer, clip.start) == ('am "tag regen', 'REGEN "', "Signer08", None)
    where = "PHOENIX-2014-T/annotations/manual/PHOENIX-2014-T.dev.corpus.csv, line 3"
    assert problems(corpus) == [(where, f"there is no folder of frames {frames / 'gone'}")]
    assert (corpus.sign_language, corpus.spoken_language, corpus.frames_per_second) == ("gsg", "de", 25)
    assert corpus.official_sizes == {"train": 7096, "validation": 519, "test": 642}
    assert read("phoenix14t", folder / "PHOENIX-2014-T").clips == corpus.clips


def test_csl_daily_lists_what_its_files_disagree_on(tmp_path):
    corpus = read("csl_daily", make("csl_daily", tmp_path))
    assert problems(corpus) == [
        ("sentence_label/split_1.txt, line 2", "'S000005_P0004_T00' is not in csl2020ct_v2.pkl"),
        ("sentence_label/split_1.txt, line 3", "the sentence is empty"),
        ("sentence_label/csl2020ct_v2.pkl", "has the clip 'S000007_P0003_T00', which split_1.txt puts in no split"),
    ]
    assert " " not in corpus.clips[0].text and corpus.clips[0].text.endswith("。")
    assert [clip.signer for clip in corpus.clips[:3]] == ["P0000", "P0001", "P0002"]
    assert (corpus.sign_language, corpus.spoken_language, corpus.frames_per_second) == ("csl", "zh", 30)


def test_lost_pictures_are_listed_and_the_clip_is_kept(tmp_path):
    folder = make("csl_daily", tmp_path)
    before = read("csl_daily", folder)
    clip = before.clips[0]
    num_pictures = len(list(clip.video.iterdir()))
    (clip.video / "000000.jpg").unlink()
    after = read("csl_daily", folder)
    what = f"its label states {num_pictures} frames, but its folder holds {num_pictures - 1} pictures; the clip is kept"
    assert set(after.problems) - set(before.problems) == {Problem(f"train {clip.name}", what)}
    assert after.clips == before.clips


def test_how2sign_prefers_the_videos_that_its_times_belong_to(tmp_path):
    folder = make("how2sign", tmp_path, "videos", num_clips={"train": 2, "validation": 2, "test": 2})
    video = read("how2sign", folder).clips[0].video
    clips = [clip for clip in read("how2sign", folder).clips if clip.video == video]
    assert [clip.name[-12:] for clip in clips] == ["-0-rgb_front", "-1-rgb_front"]
    assert [clip.signer for clip in clips] == ["0", "1"]
    assert clips[0].start == 0.0 and clips[0].end == clips[1].start < clips[1].end
    own_table(folder, "", files=tuple(f"anywhere/{clip.name}.mp4" for clip in clips), name="note.txt")
    assert read("how2sign", folder).clips[:2] == clips
    video.unlink()
    assert [(clip.video.parent.name, clip.start) for clip in read("how2sign", folder).clips[:2]] == [
        ("anywhere", None),
        ("anywhere", None),
    ]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ('"He said ""yes"" today."', 'He said "yes" today.'),
        ('"Yes," he said, "and no."', '"Yes," he said, "and no."'),
        ('He said "yes', 'He said "yes'),
        ('"Quoted."', '"Quoted."'),
    ],
)
def test_how2sign_sentences_keep_their_quotation_marks(written, meant, tmp_path):
    folder = make("how2sign", tmp_path, num_clips={"train": 1, "validation": 1, "test": 1})
    path = folder / "how2sign_realigned_train.csv"
    header, row, *_ = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([header, "\t".join([*row.split("\t")[:-1], written])]), encoding="utf-8")
    corpus = read("how2sign", folder)
    assert corpus.clips[0].text == meant and corpus.problems == []


@pytest.mark.parametrize(
    ("kind", "table", "names"),
    [
        (
            "how2sign",
            "sentence_level/val/text/en/raw_text/re_aligned/how2sign_realigned_val.csv",
            ["START_REALIGNED", "END_REALIGNED"],
        ),
        ("openasl", "data/openasl-v1.0.tsv", ["start", "end"]),
    ],
)
@pytest.mark.parametrize("layout", ["clips", "videos"])
def test_times_are_needed_in_videos_of_many_sentences_only(kind, table, names, layout, tmp_path):
    folder = make(kind, tmp_path, layout)
    path = folder / (table if layout == "videos" or kind == "openasl" else Path(table).name)
    header, *rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    for name in names:
        rows[0][header.index(name)] = ""
    rows[1][header.index(names[0])] = "soon"
    path.write_text("\n".join("\t".join(row) for row in [header, *rows]), encoding="utf-8")
    corpus = read(kind, folder)
    whats = [what for where, what in problems(corpus) if re.search("line [23]$", where)]
    assert len(corpus.clips) == sum(NUM_CLIPS.values()) - len(whats)
    if layout == "clips":
        assert whats == []
    else:
        assert whats[0].startswith(f"it lacks {names[0]} or {names[1]}, which say where in ")
        assert whats[1] == f"{names[0]} must be seconds or hours:minutes:seconds, got 'soon'"


@pytest.mark.parametrize("instead_of_colon", ":-_")
def test_openasl_clips_are_found_with_colons_and_without(instead_of_colon, tmp_path):
    folder = make("openasl", tmp_path)
    for path in (folder / "video-clip").iterdir():
        path.rename(path.with_name(path.name.replace(":", instead_of_colon)))
    corpus = read("openasl", folder)
    assert len(corpus.clips) == sum(NUM_CLIPS.values())
    assert corpus.clips[0].text.count('"') == 1
    [(where, what)] = problems(corpus)
    assert where == "data/openasl-v1.0.tsv, line 10"
    assert what.startswith("there is no clip 'gone-00:00:01.000-00:00:02.500' and no video 'gone' below ")


def test_labels_without_paths_have_a_folder_of_the_name(tmp_path):
    """As sltbaselines has them for CSL-Daily."""
    folder = make("gfslt_labels", tmp_path)
    with_paths = read("gfslt_labels", folder)
    for split in ("train", "dev", "test"):
        labels = read_plain_pickle(folder / f"labels.{split}")
        content = {key: {k: v for k, v in entry.items() if k != "imgs_path"} for key, entry in labels.items()}
        (folder / f"labels.{split}").write_bytes(plain_pickle(content))
    assert read("gfslt_labels", folder) == with_paths


def test_broken_labels_cost_themselves_only(tmp_path):
    folder = make("gfslt_labels", tmp_path)
    labels = read_plain_pickle(folder / "labels.dev")
    good = next(iter(labels.values()))
    broken = {
        "list": [1, 2],
        "no name": {**good, "name": None},
        "no text": {**good, "name": "x", "text": 3},
        "two folders": {**good, "name": "x", "imgs_path": ["dev/a/1.png", "dev/b/1.png"]},
        "outside": {**good, "name": "x", "imgs_path": ["../../etc/1.png"]},
        "twice": good,
        "blank": {**good, "name": "//"},
    }
    (folder / "labels.dev").write_bytes(gzip.compress(plain_pickle({**labels, **broken})))
    corpus = read("gfslt_labels", folder)
    assert len([clip for clip in corpus.clips if clip.split == "validation"]) == len(labels)
    assert [where for where, _ in problems(corpus)] == [f"labels.dev, {key!r}" for key in broken]
    whats = [what for _, what in problems(corpus)]
    assert whats[0] == "the label must be a dictionary, got list"
    assert whats[1] == "`name` must be a string, got NoneType"
    assert whats[3] == "`imgs_path` names pictures in 2 folders, expected one folder per clip"
    assert whats[4] == "the path '../../etc' would leave the folder of the corpus, and is refused"
    assert "is already used in labels.dev, " in whats[5]


def test_labels_of_uni_sign_name_videos_and_lists_of_glosses(tmp_path):
    for index, split in enumerate(("train", "dev", "test")):
        (tmp_path / "videos").mkdir(exist_ok=True)
        (tmp_path / "videos" / f"S{index}.mp4").write_bytes(b"video")
        entry = {
            "name": f"S{index}",
            "gloss": ["我", "们"],
            "text": "我们。",
            "length": 9,
            "video_path": f"S{index}.mp4",
        }
        labels = {f"S{index}": entry, "gone": {**entry, "name": "gone", "video_path": "gone.mp4"}}
        (tmp_path / f"labels.{split}").write_bytes(gzip.compress(plain_pickle(labels)))
    corpus = read_corpus("gfslt_labels", tmp_path)
    assert [(clip.name, clip.split, clip.text, clip.gloss) for clip in corpus.clips] == [
        (f"S{index}", split, "我们。", "我 们") for index, split in enumerate(("train", "validation", "test"))
    ]
    assert [clip.video.name for clip in corpus.clips] == ["S0.mp4", "S1.mp4", "S2.mp4"]
    assert problems(corpus) == [
        (f"labels.{split}, 'gone'", f"there is no video 'gone.mp4' below {tmp_path}")
        for split in ("train", "dev", "test")
    ]
    assert read_corpus("gfslt_labels", tmp_path, videos=tmp_path / "videos").clips == corpus.clips


# Tables of anyone's own


def test_a_table_with_other_names_and_semicolons(tmp_path):
    content = "\ufeffDatei;Satz;von;bis;Person\r\nmorgen.MP4;Es regnet; 1,5 ;0:02,25;Ada\r\n;;;;\r\n\r\n"
    columns = {"file": "Datei", "text": "Satz", "start": "von", "end": "bis", "signer": "Person"}
    corpus = read("table", own_table(tmp_path, content, files=("tief/unten/morgen.MP4",)), columns=columns)
    [clip] = corpus.clips
    assert (clip.text, clip.signer, clip.split, clip.gloss) == ("Es regnet", "Ada", "train", None)
    assert (clip.start, clip.end) == (1.5, 2.25)
    assert clip.video == tmp_path / "tief" / "unten" / "morgen.MP4"
    assert corpus.problems == []


@pytest.mark.parametrize(
    "header",
    [
        "file,text,split,start,end,signer",
        "FILE,Text,SPLIT,Start,END,Signer",
        " Video_Path , Sentence ,Subset,Start Time,end-time,Signer ID",
        "\uff26\uff49\uff4c\uff45,\uff34ext,\uff33plit,\uff33tart,\uff25nd,\uff33igner",
        "file name,translation,Data split,begin (s),End [seconds],speaker",
        "FileName,Text,DataSplit,StartTime,EndTime,SignerID",
        "\ufefffi\u00adle,text,spl\u200bit,st\u2060art,end,signer",
        "filename\u200b,text\u00a0,partition,start_in_seconds,End Time - ss.msec,Participant",
    ],
)
def test_columns_are_understood_however_they_are_written(header, tmp_path):
    rows = ["a.mp4,x,train,0.5,1.5,Ada", "b.mp4,y, DEV ,1,2,Bea", "c.mp4,z,\uff34est,0:03,0:04,Cid"]
    own_table(tmp_path, "\n".join([header, *rows]), files=("a.mp4", "b.mp4", "c.mp4"))
    corpus = read("table", tmp_path)
    assert [(clip.text, clip.split, clip.start, clip.end, clip.signer) for clip in corpus.clips] == [
        ("x", "train", 0.5, 1.5, "Ada"),
        ("y", "validation", 1.0, 2.0, "Bea"),
        ("z", "test", 3.0, 4.0, "Cid"),
    ]
    assert (corpus.problems, corpus.notes) == ([], [])


def test_names_given_for_columns_meet_in_any_unicode_form(tmp_path):
    own_table(tmp_path, "Ü-Satz,DATEI\nx,a.mp4\n".replace("Ü", "U\u0308"))
    columns = {"text": "Ü-Satz", "file": "Datei"}
    assert texts(read("table", tmp_path, columns=columns)) == ["x"]
    own_table(tmp_path, "file,text,Text\na.mp4,x,y\n")
    assert texts(read("table", tmp_path, columns={"text": "Text"})) == ["y"]


def test_columns_that_are_not_used_are_named(tmp_path):
    corpus = read(
        "table", own_table(tmp_path, "file,text,Gender,weekend,reply to,frames,duration\na.mp4,x,1,2,3,4,5\n")
    )
    assert corpus.notes == [
        "clips.csv has unused columns: Gender, weekend, reply to, frames, duration",
        "clips.csv names no split for 1 clip(s): they are put in train",
    ]
    corpus = read("table", own_table(tmp_path, ",file,text,split,\n7,a.mp4,x,test,\n"))
    assert corpus.notes == ["clips.csv has unused columns: column 1, column 5"]
    corpus = read("table", own_table(tmp_path, "file,text,split\na.mp4,x,\na.mp4,y,test\n"))
    assert corpus.notes == ["clips.csv names no split for 1 clip(s): they are put in train"]


@pytest.mark.parametrize(
    ("column", "meaning"),
    [
        *((name, "split") for name in ("my split", "subset name", "Fold", "is_test", "train/dev")),
        *(
            (name, "start")
            for name in ("start_frame", "Startzeit", "begin_ms", "Onset", "von", "Timecode", "from frame")
        ),
        *((name, "end") for name in ("end_frame", "Ende", "stop time", "bis", "frame to", "offset")),
    ],
)
def test_a_column_that_may_be_a_split_or_a_time_is_not_ignored(column, meaning, tmp_path):
    own_table(tmp_path, f"file,text,{column}\na.mp4,x,1\n")
    what = "train, validation or test" if meaning == "split" else "seconds from the beginning of the video"
    expected = (
        f"{tmp_path / 'clips.csv'} has a column {column!r}, which is not recognised and may be the {meaning} of each "
        f"clip. If it is, rename it to {meaning} ({what}); otherwise remove it from the file."
    )
    with pytest.raises(ValueError, match=re.escape(expected)):
        read("table", tmp_path)
    own_table(tmp_path, f"file,text,{column},{meaning}\na.mp4,x,1,{'test' if meaning == 'split' else 2}\n")
    assert f"clips.csv has unused columns: {column}" in read("table", tmp_path).notes


def test_a_start_with_a_duration_is_no_start_to_the_end(tmp_path):
    own_table(tmp_path, "file,text,start,duration\na.mp4,x,1,2\n")
    with pytest.raises(ValueError, match="has a column 'duration', which is not recognised and may be the end of each"):
        read("table", tmp_path)
    own_table(tmp_path, "file,text,duration\na.mp4,x,2\n")
    assert texts(read("table", tmp_path)) == ["x"]


def test_a_column_of_splits_is_not_ignored_whatever_its_name(tmp_path):
    own_table(tmp_path, "file,text,Aufteilung\na.mp4,x,Train\nb.mp4,y,\nc.mp4,z,test\n")
    expected = (
        f"{tmp_path / 'clips.csv'} has a column 'Aufteilung', which is not recognised but holds names of splits: "
        "Train, test. If it says which split each clip belongs to, rename it to split; otherwise remove it from the "
        "file."
    )
    with pytest.raises(ValueError, match=re.escape(expected)):
        read("table", tmp_path)
    corpus = read("table", tmp_path, columns={"split": "aufteilung"})
    assert [clip.split for clip in corpus.clips] == ["train"]


def test_splits_that_are_not_understood_end_the_reading(tmp_path):
    rows = ["a.mp4,x,train", "b.mp4,y,sunday", "c.mp4,z,3", "d.mp4,w,sunday"]
    own_table(tmp_path, "\n".join(["file,text,split", *rows]), files=tuple(f"{name}.mp4" for name in "abcd"))
    expected = (
        "The split of a clip must be one of dev, devel, development, test, testing, train, training, val, valid, "
        "validation, got 'sunday' (clips.csv, line 3), '3' (clips.csv, line 4). Correct the column, so that no clip "
        "ends up in the wrong split."
    )
    with pytest.raises(ValueError, match=re.escape(expected)):
        read("table", tmp_path)
    folder = make("openasl", tmp_path / "openasl")
    path = folder / "data" / "openasl-v1.0.tsv"
    path.write_text(path.read_text(encoding="utf-8").replace("\tvalid\n", "\theld-out\n"), encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape("got 'held-out' (data/openasl-v1.0.tsv, line ")):
        read("openasl", folder)


@pytest.mark.parametrize(
    ("first", "delimiter"),
    [("sep=;", ";"), ("SEP=,", ","), ('"sep=;"', ";"), ("sep=\t", "\t"), ("sep=|", "|"), ("", ";")],
)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_exports_of_excel(first, delimiter, encoding, tmp_path):
    rows = [
        ["file", "text", "split", "start", "end"],
        ["videos\\1.mp4", '"Ja; nein, und"', "train", '"0,5"', '"1,5"'],
        ["VIDEOS\\2.MP4", '"Er sagt ""ja""."', "dev", '"0:00,5"', '"00:00:01,25"'],
        ["videos\\3.mp4", "z", "test", "12:00:01 AM", "12:01:02 am"],
    ]
    table = "\r\n".join([*([first] if first else []), *map(delimiter.join, rows), ""])
    own_table(tmp_path, table.encode(encoding), files=("videos/1.mp4", "videos/2.mp4", "videos/3.mp4"))
    corpus = read("table", tmp_path)
    assert [(clip.text, clip.start, clip.end) for clip in corpus.clips] == [
        ("Ja; nein, und", 0.5, 1.5),
        ('Er sagt "ja".', 0.5, 1.25),
        ("z", 1.0, 62.0),
    ]
    assert corpus.problems == []
    own_table(tmp_path, f"sep={delimiter}\r\n{delimiter.join(('file', 'text'))}\r\ngone{delimiter}x\r\n")
    assert problems(read("table", tmp_path))[0][0] == "clips.csv, line 3"


def test_a_file_of_a_spreadsheet_program_is_named(tmp_path):
    own_table(tmp_path, "PK", name="clips.xlsx")
    with pytest.raises(FileNotFoundError, match=re.escape("or name one. clips.xlsx: Save the file as UTF-8")):
        read("table", tmp_path)
    expected = f"{tmp_path / 'clips.xlsx'} is in a spreadsheet program's own format. Save the file as UTF-8"
    with pytest.raises(ValueError, match=re.escape(expected)):
        read("table", tmp_path, table=tmp_path / "clips.xlsx")


@pytest.mark.parametrize("kind", ["table", "frame_folders"])
def test_names_of_files_meet_in_any_unicode_form_and_letter_case(kind, tmp_path):
    names = ["Mu\u0308ller/Ja.MP4", "M\u00fcller/nein.mp4", "\u1112\u1161\u11ab.mov"]
    written = ["M\u00fcller/ja.mp4", "mu\u0308ller/Nein.mp4", "\ud55c.MOV"]
    files = tuple(f"{name}/1.png" if kind == "frame_folders" else name for name in names)
    rows = [f"{name},{index}" for index, name in enumerate(written)]
    corpus = read(kind, own_table(tmp_path, "\n".join(["file,text", *rows]), files=files))
    assert texts(corpus) == ["0", "1", "2"] and corpus.problems == []


def test_of_two_files_that_differ_in_case_the_one_as_written_is_taken(tmp_path):
    own_table(tmp_path, "file,text\nClip.mp4,x\nCLIP.mp4,y\n", files=("1/clip.mp4", "2/Clip.mp4"))
    corpus = read("table", tmp_path)
    assert [clip.video.parent.name for clip in corpus.clips] == ["2"]
    assert problems(corpus)[0][1] == "2 files are named 'CLIP.mp4', such as 1/clip.mp4 and 2/Clip.mp4"


def test_what_systems_put_beside_files_is_passed_over(tmp_path):
    of_systems = ("._clips.csv", "._a.mp4", "videos/._a.mp4", "__MACOSX/videos/._a.mp4", "__MACOSX/b.mp4")
    of_systems += ("@eaDir/c.mp4", ".Trashes/d.mp4", "$RECYCLE.BIN/e.mp4", "videos/.AppleDouble/a.mp4")
    own_table(tmp_path, "file,text\na,x\n", files=("videos/a.mp4", *of_systems))
    for table in (None, tmp_path / "clips.csv"):
        corpus = read("table", tmp_path, table=table)
        assert texts(corpus) == ["x"] and corpus.problems == []


def test_tables_named_after_their_splits(tmp_path):
    own_table(tmp_path, "file\ttext\na\tHello\n", name="train.tsv")
    own_table(tmp_path, "file,text\nb.mp4,Bye\n", files=("b.mp4",), name="dev.csv")
    corpus = read("table", tmp_path)
    assert {clip.name: clip.split for clip in corpus.clips} == {"a": "train", "b": "validation"}


def test_a_header_over_several_lines(tmp_path):
    corpus = read("table", own_table(tmp_path, '"file","text","start\r\ntime"\r\na.mp4,x,1\r\ngone,y,2\r\n'))
    assert [(clip.text, clip.start) for clip in corpus.clips] == [("x", 1)]
    assert problems(corpus)[0][0] == "clips.csv, line 4"


def test_a_sentence_over_several_lines(tmp_path):
    corpus = read("table", own_table(tmp_path, 'file,text\na.mp4,"Hello, ""you""\r\n there"\n'))
    assert texts(corpus) == ['Hello, "you" there'] and corpus.problems == []


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ('a.mp4,"never closed,,', "it cannot be read as CSV: a quotation mark is not closed"),
        ('a.mp4,"one" two,,', "it cannot be read as CSV"),
        ("a.mp4,too,1,2,many", "it has 5 values, but the header has 4"),
        ("a.mp4,too few", "it has 2 values, but the header has 4"),
        ("a.mp4,  ,,", "the sentence is empty"),
        ("a.mp4,nul\0byte,,", "it contains a NUL byte; the file is broken there"),
        (b"a.mp4,gr\xfc\xdfe,,", "it is not UTF-8 text. Save the file as UTF-8"),
        ("a.mp4,x,one,2", "start must be seconds or hours:minutes:seconds, got 'one'"),
        ("a.mp4,x,nan,2", "start must be seconds or hours:minutes:seconds, got 'nan'"),
        ("a.mp4,x,-1,2", "start must be seconds or hours:minutes:seconds, got '-1'"),
        ("a.mp4,x,0,1e999", "end must be seconds or hours:minutes:seconds, got '1e999'"),
        ("a.mp4,x,1e18,", "start must be at most 10,000,000 seconds, got '1e18'"),
        ("a.mp4,x,0,99999999:00", "end must be at most 10,000,000 seconds, got '99999999:00'"),
        ("a.mp4,x,inf,", "start must be seconds or hours:minutes:seconds, got 'inf'"),
        ("a.mp4,x,1_0,", "start must be seconds or hours:minutes:seconds, got '1_0'"),
        ("a.mp4,x,3,2", "end must come after start, got 3.0 to 2.0 seconds"),
        ("a.mp4,x,0,1:2:3:4", "end must be seconds or hours:minutes:seconds, got '1:2:3:4'"),
        ("a.mp4,x,2,2", "end must come after start, got 2.0 to 2.0 seconds"),
        ("a.mp4,x,,0", "end must come after start, got 0.0 to 0.0 seconds"),
        ("gone.mp4,x,,", "there is no video 'gone.mp4' below "),
        (",x,,", "the path '' does not name a file"),
        ("../a.mp4,x,,", "the path '../a.mp4' would leave the folder of the corpus, and is refused"),
        ("b/../../a.mp4,x,,", "the path 'b/../../a.mp4' would leave the folder"),
        ("/etc/passwd,x,,", "the path '/etc/passwd' would leave the folder"),
        ("C:\\a.mp4,x,,", "the path 'C:/a.mp4' would leave the folder"),
        ("b\\..\\..\\a.mp4,x,,", "the path 'b/../../a.mp4' would leave the folder"),
        ("ok.mp4,x,,", "the name 'ok' is already used in clips.csv, line 2; this row is left out"),
        ("x" * 5000 + ",x,,", "there is no video 'xxx"),
        ("loop.mp4,x,,", "loop.mp4 is a broken link"),
        ("twice.mp4,x,,", "2 files are named 'twice.mp4', such as 1/twice.mp4 and 2/twice.mp4"),
    ],
)
def test_a_broken_row_is_one_problem_and_costs_no_other_row(row, what, tmp_path):
    row = row if isinstance(row, bytes) else row.encode()
    content = b"file,text,start,end\nok.mp4,first,,\n" + row + b'\nlast.mp4,"last, one",1,2\n'
    own_table(tmp_path, content, files=("a.mp4", "ok.mp4", "last.mp4", "1/twice.mp4", "2/twice.mp4"))
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    corpus = read("table", tmp_path)
    assert texts(corpus) == ["first", "last, one"]
    found = {where: text for where, text in problems(corpus) if where.startswith("clips.csv")}
    assert list(found) == ["clips.csv, line 3"] and found["clips.csv, line 3"].startswith(what)


def test_names_that_cannot_be(tmp_path):
    rows = ["a.mp4,x,Val,../up", "a.mp4,x,Test,..", "a.mp4,x,VALID,good name: 1"]
    corpus = read("table", own_table(tmp_path, "\n".join(["file,text,split,name", *rows])))
    assert [(clip.split, clip.name) for clip in corpus.clips] == [("validation", "good name: 1")]
    assert [what for _, what in problems(corpus)] == [
        "'../up' cannot be the name of a clip: it must not be empty or contain / or \\",
        "'..' cannot be the name of a clip: it must not be empty or contain / or \\",
    ]


def test_videos_that_no_row_names_are_listed(tmp_path):
    corpus = read("table", own_table(tmp_path, "file,text\na.mp4,x\n", files=("a.mp4", "b/c.webm", "note.txt")))
    assert problems(corpus) == [("b/c.webm", "no clip is made from this video: no valid row of clips.csv names it")]


def test_folders_that_link_in_a_circle(tmp_path):
    own_table(tmp_path, "file,text\na,x\n", files=("videos/a.mp4",))
    (tmp_path / "videos" / "again").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    corpus = read("table", tmp_path)
    assert [clip.video for clip in corpus.clips] == [tmp_path / "videos" / "a.mp4"] and corpus.problems == []


def test_folders_that_are_linked_within_the_corpus_are_followed(tmp_path):
    own_table(tmp_path / "corpus", "file,text\nvideos/a,x\nother/a.mp4,y,\n", files=("store/a.mp4",))
    (tmp_path / "corpus" / "videos").symlink_to(tmp_path / "corpus" / "store")
    (tmp_path / "corpus" / "other").symlink_to("store")
    corpus = read("table", tmp_path / "corpus")
    assert texts(corpus) == ["y"] and [where for where, _ in problems(corpus)] == ["clips.csv, line 2"]


OUTSIDE = (
    "is a link that leads out of the folder, and is not followed: name the folder it leads to with --videos, or "
    "replace it with a copy"
)


def test_links_that_lead_out_of_the_corpus_are_refused(tmp_path):
    own_table(tmp_path / "elsewhere", "", files=("private.mp4", "pictures/1.png"), name="note.txt")
    folder = own_table(tmp_path / "corpus", "file,text\na,x\nb.mp4,y\nlinked/private.mp4,z\nprivate,z\n")
    (folder / "b.mp4").symlink_to(tmp_path / "elsewhere" / "private.mp4")
    (folder / "linked").symlink_to("../elsewhere")
    corpus = read("table", folder)
    assert texts(corpus) == ["x"]
    assert problems(corpus) == [
        ("linked", OUTSIDE),
        ("b.mp4", OUTSIDE),
        ("clips.csv, line 3", f"b.mp4 {OUTSIDE}"),
        ("clips.csv, line 4", f"linked/private.mp4 {OUTSIDE}"),
        ("clips.csv, line 5", f"there is no video 'private' below {folder}"),
    ]
    assert texts(read_corpus("table", folder, videos=tmp_path / "elsewhere")) == ["z"]
    (folder / "clips.csv").unlink()
    (folder / "clips.csv").symlink_to("../elsewhere/note.txt")
    with pytest.raises(ValueError, match=re.escape(f"clips.csv {OUTSIDE}")):
        read("table", folder)


def test_pictures_that_are_links_out_of_the_corpus_are_refused(tmp_path):
    own_table(tmp_path / "elsewhere", "", files=("pictures/1.png",), name="note.txt")
    folder = own_table(tmp_path / "corpus", "file,text\nwhole,x\nfolder,y\none,z\n", files=("whole/1.png", "one/1.png"))
    (folder / "folder").symlink_to("../elsewhere/pictures")
    (folder / "one" / "2.png").symlink_to("../../elsewhere/pictures/1.png")
    corpus = read("frame_folders", folder)
    assert texts(corpus) == ["x"]
    assert [what for _, what in problems(corpus)] == [f"folder {OUTSIDE}", f"one/2.png {OUTSIDE}"]
    phoenix = make("phoenix14t", tmp_path / "phoenix14t") / "PHOENIX-2014-T"
    (phoenix / "features").rename(tmp_path / "away")
    (phoenix / "features").symlink_to(tmp_path / "away")
    with pytest.raises(ValueError, match=re.escape(OUTSIDE)):
        read("phoenix14t", phoenix)


def test_a_snapshot_of_the_hub_is_read_although_its_files_are_links(tmp_path):
    files = own_table(tmp_path / "datasets--me--mine" / "blobs", "file,text\na,x\n", name="0123")
    snapshot = files.parent / "snapshots" / "4567"
    snapshot.mkdir(parents=True)
    (snapshot / "clips.csv").symlink_to("../../blobs/0123")
    (snapshot / "a.mp4").symlink_to("../../blobs/a.mp4")
    corpus = read("table", snapshot)
    assert texts(corpus) == ["x"] and corpus.problems == []


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
def test_tables_in_the_encodings_of_excel(encoding, tmp_path):
    corpus = read("table", own_table(tmp_path, "file\ttext\r\na.mp4\tGrüße\r\n".encode(encoding)))
    assert texts(corpus) == ["Grüße"] and corpus.problems == []
    own_table(tmp_path, "file,text\na.mp4,x\n".encode("utf-16") + b"\0")
    expected = (
        f"{tmp_path / 'clips.csv'} is broken UTF-16 text: truncated data. Save the file as UTF-8 (spreadsheet programs "
        "call it 'CSV UTF-8')."
    )
    with pytest.raises(ValueError, match=re.escape(expected)):
        read("table", tmp_path)


def test_frame_folders_without_pictures_or_with_times(tmp_path):
    folder = make("frame_folders", tmp_path)
    (folder / "empty").mkdir()
    (folder / "more.csv").write_text("file,text,start,end\nempty,x,,\ntrain/clip0,x,1,2\n.,x,,\ntrain/clip1/,y,,\n")
    corpus = read("frame_folders", folder, table=folder / "more.csv")
    assert [(clip.name, clip.video) for clip in corpus.clips] == [("train_clip1", folder / "train" / "clip1")]
    assert [what for _, what in problems(corpus)] == [
        f"the folder {folder / 'empty'} holds no pictures",
        "start and end are for videos: put the pictures of this clip into a folder of their own",
        "the path '.' does not name a file",
    ]


def test_random_bytes_in_a_table_crash_nothing(tmp_path):
    lines = [f'ok{number}.mp4,"sentence, {number}"'.encode() for number in range(200)]
    broken = random.sample(range(200), 60)
    for number in broken:
        lines[number] = bytes(byte for byte in random.randbytes(random.randint(1, 60)) if byte not in b"\r\n") or b"x"
    own_table(tmp_path, b"file,text\n" + b"\n".join(lines), files=tuple(f"ok{number}.mp4" for number in range(200)))
    corpus = read("table", tmp_path)
    assert {f"sentence, {number}" for number in range(200) if number not in broken} == set(texts(corpus))
    listed: set[int] = set()
    for where, _ in problems(corpus):
        if where.startswith("clips.csv, line "):
            first, _, last = where.removeprefix("clips.csv, line ").partition(" to ")
            listed |= set(range(int(first) - 2, int(last or first) - 1))
    left = {
        number: lines[number].decode("utf-8", "surrogateescape").replace(",", "").replace('"', "") for number in broken
    }
    not_blank = {number for number, text in left.items() if text.strip()}
    assert not_blank <= listed <= set(broken)


# A corpus a file


def test_a_kind_of_corpus_is_known_by_its_file_alone():
    folder = Path(corpus_readers.__file__).parent
    assert sorted(KINDS) == sorted(path.stem.removeprefix("reader_") for path in folder.glob("reader_*.py"))
    sources = [path for path in folder.parent.rglob("*.py") if path.stem not in {f"reader_{kind}" for kind in KINDS}]
    names = {
        node.value
        for path in sources
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
    }
    # Tables, folders of frames, features and poses have their own words.
    assert names & set(KINDS) <= {"table", "features", "poses"}


def test_the_name_by_which_others_ask_for_video_suffixes():
    from train_scripts.corpora.corpus_readers import VIDEO_SUFFIXES

    assert ".mts" in VIDEO_SUFFIXES and not hasattr(corpus_readers, "PICTURE_SUFFIXES")


def test_a_new_kind_of_corpus_is_one_file(tmp_path, monkeypatch):
    package = tmp_path / "more_corpora"
    package.mkdir()
    (package / "reader_bsl.py").write_text(
        "from train_scripts.corpora.corpus_schema import RawCorpus\n"
        "def read(folder, videos):\n"
        "    return RawCorpus([], sign_language='bfi')\n"
    )
    monkeypatch.setattr(train_scripts.corpora, "__path__", [*train_scripts.corpora.__path__, str(package)])
    monkeypatch.setattr(corpus_readers, "KINDS", corpus_readers.find_kinds())
    assert read_corpus("bsl", tmp_path).sign_language == "bfi"
    with pytest.raises(ValueError, match="Only features, frame_folders, poses and table take a table"):
        read_corpus("bsl", tmp_path, table=tmp_path / "clips.csv")


# What is refused at once


def test_an_unknown_kind(tmp_path):
    message = (
        "The kind of corpus must be one of csl_daily, features, frame_folders, gfslt_labels, how2sign, openasl, "
        "phoenix14t, poses, table, got 'phoenix'."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        read_corpus("phoenix", tmp_path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("phoenix14t", "{}/annotations/manual/PHOENIX-2014-T.train.corpus.csv is expected, but is not there."),
        ("csl_daily", "{}/sentence_label/csl2020ct_v2.pkl is expected, but is not there."),
        ("how2sign", "how2sign_realigned_train.csv is expected anywhere below {}, but is not there."),
        ("openasl", "openasl-v1.0.tsv is expected anywhere below {}, but is not there."),
        ("gfslt_labels", "{}/labels.train is expected, but is not there."),
        (
            "table",
            "{} must hold a .csv or .tsv file with the columns file and text, or subtitles (.srt, .vtt) or ELAN files "
            "(.eaf) beside its videos, or name one.",
        ),
        ("frame_folders", "{} must hold a .csv or .tsv file with the columns file and text, or name one."),
        ("features", "There is no file of features (.npy, .npz, .safetensors, .h5, .hdf5, .pkl, .pickle, .pkl.gz, "),
        ("poses", "There is no file of poses (.pose, "),
    ],
)
def test_a_wrong_folder(kind, message, tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(message.format(tmp_path))):
        read_corpus(kind, tmp_path)
    with pytest.raises(FileNotFoundError, match=re.escape(f"{tmp_path / 'gone'} must be a folder, but it is not")):
        read_corpus(kind, tmp_path / "gone")


@pytest.mark.parametrize(
    ("kind", "path", "error", "message"),
    [
        ("phoenix14t", "PHOENIX-2014-T/annotations/manual/PHOENIX-2014-T.dev.corpus.csv", FileNotFoundError, "dev"),
        ("phoenix14t", "PHOENIX-2014-T/features", FileNotFoundError, "The frames are expected in "),
        ("csl_daily", "sentence_label/split_1.txt", FileNotFoundError, "split_1.txt is expected, but is not there."),
        ("csl_daily", "sentence", FileNotFoundError, "The frames are expected in "),
        ("how2sign", "how2sign_realigned_val.csv", FileNotFoundError, "how2sign_realigned_val.csv is expected any"),
        ("openasl", "video-clip", FileNotFoundError, "There is no video below "),
        ("gfslt_labels", "labels.dev", FileNotFoundError, "labels.dev is expected, but is not there."),
    ],
)
def test_a_corpus_with_a_part_missing(kind, path, error, message, tmp_path):
    folder = make(kind, tmp_path / "corpus")
    (folder / path).rename(tmp_path / "away")
    with pytest.raises(error, match=re.escape(message)):
        read(kind, folder)


def test_how2sign_tables_that_are_there_twice(tmp_path):
    folder = make("how2sign", tmp_path)
    own_table(folder / "copy", "", files=(), name="how2sign_realigned_val.csv")
    with pytest.raises(ValueError, match="how2sign_realigned_val.csv exists more than once: .* Keep only one of them"):
        read("how2sign", folder)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("", {}, "clips.csv is empty, expected a header with file, text."),
        ("clip,text\na,b\n", {}, "clips.csv must have the columns file, text once each, got ['clip', 'text']."),
        ("file,text,Text\na,b,c\n", {"columns": {"text": "satz"}}, "must have the columns file, satz once each"),
        ("file,text,Split,SPLIT\n", {}, "the columns file, text, split once each, got ['file', 'text', 'Split',"),
        ("file,text,start,start\n", {}, "the columns file, text, start once each, got ['file', 'text', 'start',"),
        ("file,text,text\na,b,c\n", {}, "must have the columns file, text once each, got ['file', 'text', 'text']."),
        ("file,text\na,b\n", {"columns": {"signer": "who"}}, "must have the columns file, text, who once each"),
        ("file,text\na,b\n", {"columns": {"sign": "who"}}, "got ['sign']."),
    ],
)
def test_a_table_that_is_another(content, options, message, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        read("table", own_table(tmp_path, content), **options)


def test_several_tables_and_options_that_do_not_fit(tmp_path):
    own_table(tmp_path, "file,text\n")
    own_table(tmp_path, "file,text\na.mp4,x\n", name="old.csv")
    with pytest.raises(ValueError, match="holds 2 tables, clips.csv, old.csv: name the one to use."):
        read("table", tmp_path)
    assert len(read("table", tmp_path, table=tmp_path / "old.csv").clips) == 1
    with pytest.raises(ValueError, match="Only features, frame_folders, poses and table take a table, column names"):
        read("openasl", tmp_path, table=tmp_path / "old.csv")


# Pickles


def test_plain_pickles_are_read(tmp_path):
    value = {"Füße": [1, -5, None, {"deep": ["是", ""]}], "empty": {}}
    for content in (plain_pickle(value), gzip.compress(plain_pickle(value))):
        (tmp_path / "labels").write_bytes(content)
        assert read_plain_pickle(tmp_path / "labels") == value


@pytest.mark.parametrize(
    ("attack", "named"),
    [
        (b"cposix\nsystem\n(S'touch %s'\ntR.", "posix.system"),
        (b"\x80\x04\x8c\x05posix\x8c\x06system\x93(S'touch %s'\ntR.", "posix.system"),
        (b"(S'touch %s'\niposix\nsystem\n.", "posix.system"),
        (b"(cposix\nsystem\nS'touch %s'\no.", "posix.system"),
        (b"(cbuiltins\nlist\n)\x81.%s", "builtins.list"),
        (b"ccollections\nOrderedDict\n)R.%s", "collections.OrderedDict"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_pickles_that_ask_for_anything_are_refused_and_do_not_run(attack, named, pack, tmp_path):
    proof = tmp_path / "proof"
    (tmp_path / "labels").write_bytes(pack(attack % os.fsencode(proof)))
    message = (
        f"{tmp_path / 'labels'} must be a pickle of plain dictionaries, lists, strings and numbers, but it asks for "
        f"{named}, which could run code."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        read_plain_pickle(tmp_path / "labels")
    assert not proof.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80\x03", b"plain text\n", b"Pname\n.", b"\x82\x01.", b"u.", b"}K\x01b.", b"(" * 50 + b"t" * 50, b"}]}s."],
)
def test_broken_pickles_say_so(content, tmp_path):
    (tmp_path / "labels").write_bytes(content)
    with pytest.raises(
        ValueError, match="labels must be a pickle of plain dictionaries, lists, strings and numbers, b"
    ):
        read_plain_pickle(tmp_path / "labels")


@pytest.mark.parametrize("content", [b"Nr\0\0\x20\0.", b"\x80\x05\x96" + struct.pack("<Q", 1 << 24) + b"."])
def test_a_small_pickle_cannot_ask_for_much_memory(content, tmp_path):
    (tmp_path / "labels").write_bytes(content)
    tracemalloc.start()
    try:
        with contextlib.suppress(ValueError):
            read_plain_pickle(tmp_path / "labels")
        _, peak_in_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_in_bytes < 3 << 20


def test_broken_and_bloated_packings(tmp_path):
    path = tmp_path / "labels"
    packed = gzip.compress(plain_pickle({"a": ["x" * 50] * 200}))
    path.write_bytes(packed[: random.randint(15, len(packed) - 1)])
    with pytest.raises(ValueError, match="labels is broken: .*Download it again."):
        read_plain_pickle(path)
    path.write_bytes(packed)
    with pytest.raises(ValueError, match="labels unpacks to more than 1,000 bytes, more than any file of labels does."):
        read_plain_pickle(path, most_bytes=1000)
    size = len(gzip.decompress(packed))
    assert len(read_plain_pickle(path, most_bytes=size)["a"]) == 200


def test_pickles_of_the_wrong_shape(tmp_path):
    folder = make("csl_daily", tmp_path)
    path = folder / "sentence_label" / "csl2020ct_v2.pkl"
    info = read_plain_pickle(path)["info"]
    entries = [*info, "text", {"name": 3}, {"name": "again"}, {"name": "again"}]
    entries[0] = {**info[0], "label_char": "我们"}
    path.write_bytes(plain_pickle({"info": entries}))
    whats = [what for _, what in problems(read("csl_daily", folder))]
    assert whats.count("has no name") == 2
    assert "repeats the name 'again'; this entry is left out" in whats
    assert "`label_char` must be a list of strings" in whats
    path.write_bytes(plain_pickle(info))
    with pytest.raises(ValueError, match="must hold a dictionary with a list 'info', as CSL-Daily's does."):
        read("csl_daily", folder)


def test_a_lone_surrogate_in_a_pickle_is_a_problem(tmp_path):
    """Pickles can hold strings that no file can."""
    folder = make("gfslt_labels", tmp_path)
    content = gzip.decompress((folder / "labels.test").read_bytes())
    word = b"TAG SONNE"
    start = content.index(word)
    content = content[: start - 4] + struct.pack("<I", 3) + b"\xed\xa0\x80" + content[start + len(word) :]
    (folder / "labels.test").write_bytes(content)
    [(_, what)] = problems(read("gfslt_labels", folder))
    assert what.startswith("it is not UTF-8 text.")
