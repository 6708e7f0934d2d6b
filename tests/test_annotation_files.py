"""Subtitles and ELAN files as sources of clips: their content, the video that they belong to, and their errors."""

import os
import re
from pathlib import Path

import pytest
from test_corpus_readers import own_table, problems, texts

from train_scripts.corpora.corpus_readers import read_corpus
from train_scripts.corpora.corpus_schema import RawCorpus

SRT = """1
00:00:00,500 --> 00:00:01,500
Hello <i>there</i>.

2
00:00:01,600 --> 00:00:02,400  X1:10 X2:20
{\\an8}How are<br/>you?
"""
VTT = """WEBVTT - Talk
Kind: captions

NOTE made by hand
in two lines

STYLE
::cue { color: red }

intro
00:00.500 --> 00:01.500 align:start
<v Ada>Hello <c.loud>there</c>.</v>

00:00:01.600 --> 00:00:02.400
How are you<00:00:02.000> &amp; yours?
"""


def eaf(
    tiers: dict[str, list[tuple[int | None, int | None, str]]],
    media: str = '<MEDIA_DESCRIPTOR MEDIA_URL="file:///C:/my%20films/talk.mp4"/>',
    header: str = "",
    more: str = "",
) -> str:
    slots, parts = [], []
    for tier, annotations in tiers.items():
        parts.append(f'<TIER TIER_ID="{tier}" PARTICIPANT="Ada" LINGUISTIC_TYPE_REF="default-lt">')
        for start, end, text in annotations:
            number = len(slots)
            slots += [
                f'<TIME_SLOT TIME_SLOT_ID="ts{number + index}"'
                + ("" if time is None else f' TIME_VALUE="{time}"')
                + "/>"
                for index, time in enumerate((start, end))
            ]
            parts.append(
                f'<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a{number}" TIME_SLOT_REF1="ts{number}" '
                f'TIME_SLOT_REF2="ts{number + 1}"><ANNOTATION_VALUE>{text}</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION>'
                "</ANNOTATION>"
            )
        parts.append("</TIER>")
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><ANNOTATION_DOCUMENT><HEADER MEDIA_FILE="" {header}>{media}</HEADER>'
        f"<TIME_ORDER>{''.join(slots)}</TIME_ORDER>{''.join(parts)}{more}</ANNOTATION_DOCUMENT>"
    )


def read(folder: Path, content: str | bytes, name: str, files: tuple[str, ...] = ("talk.mp4",), **options) -> RawCorpus:
    return read_corpus("table", own_table(folder, content, files=files, name=name), **options)


def parts(corpus: RawCorpus) -> list[tuple[str, float, float]]:
    return [(clip.text, clip.start, clip.end) for clip in corpus.clips]


# Subtitles


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_subtitles_give_segments_and_sentences(line_end, encoding, tmp_path):
    srt = read(tmp_path / "srt", SRT.replace("\n", line_end).encode(encoding), "talk.srt")
    assert parts(srt) == [("Hello there.", 0.5, 1.5), ("How are you?", 1.6, 2.4)]
    assert [clip.name for clip in srt.clips] == ["talk-0.5-1.5", "talk-1.6-2.4"]
    vtt = read(tmp_path / "vtt", VTT.replace("\n", line_end).encode(encoding), "TALK.VTT")
    assert parts(vtt) == [("Hello there.", 0.5, 1.5), ("How are you & yours?", 1.6, 2.4)]
    assert srt.problems == vtt.problems == []
    assert srt.notes == [
        "1 file(s), such as talk.srt, are not in a folder named after a split: their clips are put in train"
    ]


def test_cues_that_overlap_or_stand_close_are_kept_and_broken_ones_named(tmp_path):
    content = (
        "1\n00:00:00,000 --> 00:00:02,000\nfirst\n2\n00:00:01,000 --> 00:00:03,000\noverlaps, 3 < 4\n"
        "\n3\n00:00:03,000 --> 00:00:04,000\n\n\n4\n00:00:05,000 --> 00:00:04,000\nbackwards\n"
        "\n5\n00:00:aa,000 --> 00:00:04,000\nbroken\n\nleft over\n\n6\n00:00:06 --> 00:00:07.5\nlast\n\n7\n"
        "99999999:00:00,000 --> 99999999:00:01,000\nlate\n"
    )
    corpus = read(tmp_path, content, "talk.srt")
    assert parts(corpus) == [("first", 0, 2), ("overlaps, 3 < 4", 1, 3), ("last", 6, 7.5)]
    assert problems(corpus) == [
        ("talk.srt, line 9", "the sentence is empty"),
        ("talk.srt, line 13", "end must come after start, got 5.0 to 4.0 seconds"),
        (
            "talk.srt, line 17",
            "its times cannot be read, expected 00:01:02,500 --> 00:01:04,000, got '00:00:aa,000 --> 00:00:04,000'",
        ),
        ("talk.srt, line 20", "it has no times, and is left out: 'left over'"),
        ("talk.srt, line 27", "the time must be at most 10,000,000 seconds, got '99999999:00:00,000'"),
    ]


def test_subtitles_of_a_part_of_a_stream_are_refused(tmp_path):
    content = VTT.replace("Kind: captions", "X-TIMESTAMP-MAP=MPEGTS:900000,LOCAL:00:00:00.000")
    with pytest.raises(ValueError, match="its times do not start at the beginning of the video. Download the subt"):
        read(tmp_path, content, "talk.vtt")


def test_text_that_is_not_utf8_is_named(tmp_path):
    corpus = read(tmp_path, SRT.replace("there", "Grüße").encode("latin-1"), "talk.srt")
    assert texts(corpus) == ["How are you?"]
    assert problems(corpus)[0][1].startswith("it is not UTF-8 text. Save the file as UTF-8")


def test_a_link_to_subtitles_elsewhere_is_named(tmp_path):
    folder = own_table(tmp_path / "corpus", b"", files=("talk.mp4",), name="note.txt")
    (tmp_path / "talk.srt").write_text(SRT)
    (folder / "talk.srt").symlink_to("../talk.srt")
    with pytest.raises(FileNotFoundError, match="or name one. talk.srt is a link that leads out of the folder, and is"):
        read_corpus("table", folder)


def test_notes_of_anybody_and_pipes_are_no_annotations(tmp_path):
    own_table(tmp_path, b"\xff\xfea", files=("talk.mp4",), name="notes.txt")
    os.mkfifo(tmp_path / "other.srt")
    own_table(tmp_path, SRT, name="talk.srt")
    assert len(read_corpus("table", tmp_path).clips) == 2


def test_every_file_below_belongs_to_the_video_beside_it(tmp_path):
    files = ("train/1.mp4", "dev/1.mp4", "test/2.MOV", "test/3.mp4")
    for name, text in (("train/1.en.srt", "a"), ("dev/1.vtt", "b"), ("test/2.srt", "c"), ("test/gone.srt", "d")):
        own_table(tmp_path, SRT.replace("Hello", text), files=files, name=name)
    own_table(tmp_path, b"", files=(), name="test/._2.srt")
    corpus = read_corpus("table", tmp_path)
    found = {(clip.split, clip.video.relative_to(tmp_path).as_posix(), clip.text[0]) for clip in corpus.clips}
    assert found == {
        *(("train", "train/1.mp4", letter) for letter in "aH"),
        *(("validation", "dev/1.mp4", letter) for letter in "bH"),
        *(("test", "test/2.MOV", letter) for letter in "cH"),
    }
    assert problems(corpus)[0] == ("test/gone.srt", f"there is no video 'gone' below {tmp_path}")
    assert problems(corpus)[1][0] == "test/3.mp4" and corpus.notes == []


def test_two_files_for_one_video_must_be_told_apart(tmp_path):
    own_table(tmp_path, VTT, name="talk.vtt")
    own_table(tmp_path, SRT, files=("talk.mp4",), name="talk.srt")
    expected = (
        "talk.mp4 has more than one file with sentences, talk.srt and talk.vtt. Choose one with --table, or keep only "
        "one of them."
    )
    with pytest.raises(ValueError, match=re.escape(expected)):
        read_corpus("table", tmp_path)
    assert len(read_corpus("table", tmp_path, table=tmp_path / "talk.vtt").clips) == 2
    own_table(tmp_path, "file,text\ntalk,x\n")
    corpus = read_corpus("table", tmp_path)
    assert texts(corpus) == ["x"]
    assert "2 file(s) with subtitles or annotations are not used, such as talk.srt, talk.vtt" in corpus.notes


def test_options_of_spreadsheets_and_of_annotations_do_not_mix(tmp_path):
    folder = own_table(tmp_path / "srt", SRT, files=("talk.mp4",), name="talk.srt")
    with pytest.raises(ValueError, match=re.escape("Only spreadsheets have column names, got ['text'] for talk.srt.")):
        read_corpus("table", folder, columns={"text": "Satz"})
    with pytest.raises(ValueError, match=re.escape("The annotations have no tier 't'. Set --tier to one of: none.")):
        read_corpus("table", folder, tier="t")
    folder = own_table(tmp_path / "csv", "file,text\na,x\n")
    for kind in ("table", "frame_folders"):
        with pytest.raises(ValueError, match="Only ELAN annotations have tiers, got --tier 't' for a spreadsheet."):
            read_corpus(kind, folder, tier="t")


# ELAN


def test_annotations_of_elan_give_segments_and_sentences(tmp_path):
    content = eaf({"German": [(500, 1500, "Hallo &amp; guten Tag."), (1600, 2400, "Wie geht es?")], "empty": []})
    corpus = read(tmp_path, content, "session 1.eaf")
    assert parts(corpus) == [("Hallo & guten Tag.", 0.5, 1.5), ("Wie geht es?", 1.6, 2.4)]
    assert {(clip.video.name, clip.signer) for clip in corpus.clips} == {("talk.mp4", "Ada")}
    assert corpus.problems == []


def test_of_several_tiers_one_must_be_named(tmp_path):
    content = eaf({"Gloss": [(0, 100, "HALLO")], "Übersetzung": [(0, 900, "Hallo."), (None, 2, "x"), (3, 4, "")]})
    with pytest.raises(ValueError, match="tiers 'Gloss', 'Übersetzung': choose the one with the sentences with --tier"):
        read(tmp_path, content, "talk.eaf")
    with pytest.raises(ValueError, match="no tier 'text'. Set --tier to one of: 'Gloss', 'Übersetzung'"):
        read(tmp_path, content, "talk.eaf", tier="text")
    corpus = read(tmp_path, content, "talk.eaf", tier="u\u0308bersetzung")
    assert parts(corpus) == [("Hallo.", 0, 0.9)]
    assert problems(corpus) == [
        (
            "talk.eaf, tier 'Übersetzung', annotation 'a4'",
            "it has no times: align its beginning and end in ELAN",
        ),
        ("talk.eaf, tier 'Übersetzung', annotation 'a6'", "the sentence is empty"),
    ]
    assert "unused tiers: 'Gloss'" in corpus.notes


def test_annotations_that_refer_to_others_have_their_times(tmp_path):
    more = '<TIER TIER_ID="text" PARENT_REF="gloss">' + "".join(
        f'<ANNOTATION><REF_ANNOTATION ANNOTATION_ID="{name}" ANNOTATION_REF="{reference}"><ANNOTATION_VALUE>{name}'
        "</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION>"
        for name, reference in (("r0", "a0"), ("r1", "r0"), ("r2", "r3"), ("r3", "r2"), ("r4", "gone"))
    )
    corpus = read(tmp_path, eaf({"gloss": [(500, 900, "X")]}, more=f"{more}</TIER>"), "talk.eaf", tier="text")
    assert parts(corpus)[0] == ("r0", 0.5, 0.9)
    whats = [what for _, what in problems(corpus)]
    assert whats[0].startswith("the name 'talk-0.5-0.9' is already used")
    assert whats[1:] == [
        f"it refers to the annotation {name!r}, which has no times" for name in ("r3", "r2", "gone")
    ] or whats[1:] == [f"it refers to the annotation {name!r}, which has no times" for name in ("r2", "r3", "gone")]


@pytest.mark.parametrize(("origin", "start"), [("2000", 2.5), ("-300", 0.2), ("0", 0.5)])
def test_the_offset_of_a_video_in_elan_is_respected(origin, start, tmp_path):
    media = (
        f'<MEDIA_DESCRIPTOR MEDIA_URL="file:///somewhere/talk.mp4" TIME_ORIGIN="{origin}"/>'
        '<MEDIA_DESCRIPTOR MEDIA_URL="file:///somewhere/sound.wav" TIME_ORIGIN="7000"/>'
    )
    corpus = read(tmp_path, eaf({"t": [(500, 1500, "x"), (0, 400, "y")]}, media), "session.eaf")
    assert parts(corpus)[0] == ("x", start, start + 1)
    if origin == "-300":
        assert problems(corpus)[0][1] == "it begins 0.3 seconds before the video does"


def test_an_offset_of_a_video_that_is_not_there_is_refused(tmp_path):
    media = '<MEDIA_DESCRIPTOR MEDIA_URL="file:///x/original.mpg" TIME_ORIGIN="2000"/>'
    corpus = read(tmp_path, eaf({"t": [(500, 1500, "x")]}, media), "talk.eaf")
    assert texts(corpus) == []
    assert problems(corpus)[0] == (
        "talk.eaf",
        "its times begin within original.mpg, but none of these videos exists",
    )


def test_of_several_videos_in_elan_the_one_of_its_name_is_taken(tmp_path):
    media = "".join(f'<MEDIA_DESCRIPTOR MEDIA_URL="file:///x/{name}.mp4"/>' for name in ("left", "right"))
    files = ("left.mp4", "right.mp4")
    corpus = read(tmp_path / "named", eaf({"t": [(0, 500, "x")]}, media), "right.eaf", files)
    assert [clip.video.name for clip in corpus.clips] == ["right.mp4"]
    corpus = read(tmp_path / "not", eaf({"t": [(0, 500, "x")]}, media), "session.eaf", files)
    assert texts(corpus) == [] and problems(corpus)[0] == (
        "session.eaf",
        "it belongs to 2 videos, left.mp4, right.mp4: keep only one, or name this file after its video",
    )


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
OUTSIDE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            BOMB + "<ANNOTATION_DOCUMENT>&b;</ANNOTATION_DOCUMENT>",
            "talk.eaf cannot be read as XML: it has a DOCTYPE, which",
        ),
        (
            OUTSIDE + "<ANNOTATION_DOCUMENT>&a;</ANNOTATION_DOCUMENT>",
            "talk.eaf cannot be read as XML: it has a DOCTYPE",
        ),
        ("<ANNOTATION_DOCUMENT>&b;</ANNOTATION_DOCUMENT>", "talk.eaf cannot be read as XML: undefined entity"),
        ("<html></html>", "talk.eaf is not an ELAN file: it begins with <html>, not <ANNOTATION_DOCUMENT>."),
        ("", "talk.eaf cannot be read as XML: no element found: line 1, column 0."),
        ("<ANNOTATION_DOCUMENT>", "talk.eaf cannot be read as XML: no element found"),
        ('<?xml version="1.0" encoding="nonsense"?><a/>', "talk.eaf cannot be read as XML: unknown encoding"),
        (eaf({}, header='TIME_UNITS="PAL-frames"'), "talk.eaf measures time in PAL-frames, not milliseconds."),
        (eaf({}, '<MEDIA_DESCRIPTOR TIME_ORIGIN="soon"/>'), "talk.eaf: TIME_ORIGIN must be milliseconds, got 'soon'."),
    ],
)
def test_files_that_are_none_of_elan(content, message, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        read(tmp_path, content, "talk.eaf")
    own_table(tmp_path, SRT, files=("other.mp4",), name="other.srt")
    corpus = read_corpus("table", tmp_path)
    assert len(corpus.clips) == 2 and message in problems(corpus)[0][1]


TIMES = "Begin Time - hh:mm:ss.ms\tBegin Time - ss.msec\tEnd Time - hh:mm:ss.ms\tEnd Time - ss.msec\tDuration - ss.msec"
FRENCH = "Temps de départ - ss.msec\tTemps de fin - ss.msec\tDurée - ss.msec"


@pytest.mark.parametrize("name", ["talk.txt", "talk.csv", "talk.tsv"])
@pytest.mark.parametrize(
    "content",
    [
        f'{TIMES}\tDeutsch\tComment\n00:00:00.500\t0.5\t00:00:01.500\t1.5\t1.0\t"Ja, und\t\n'
        "00:00:01.600\t1.6\t00:00:02.400\t2.4\t0.8\tNein\t\n00:00:05.000\t5.0\t00:00:06.000\t6.0\t1.0\t\tnoise\n",
        f'{FRENCH}\tDeutsch\tComment\n0.5\t1.5\t1\t"Ja, und\t\n1.6\t2.4\t0.8\tNein\t\n5\t6\t1\t\tnoise\n',
        'Begin Time - msec\tEnd Time - msec\tTier\tAnnotation\n500\t1500\tDeutsch\t"Ja, und\n'
        "1600\t2400\tDeutsch\tNein\n"
        "5000\t6000\tComment\tnoise\n",
        'Deutsch\t\t00:00:00.500\t0.5\t00:00:01.500\t1.5\t00:00:01.000\t1.0\t"Ja, und\n'
        "Deutsch\t\t00:00:01.600\t1.6\t00:00:02.400\t2.4\t00:00:00.800\t0.8\tNein\n"
        "Comment\t\t00:00:05.000\t5.0\t00:00:06.000\t6.0\t00:00:01.000\t1.0\tnoise\n",
    ],
)
def test_exports_of_elan(content, name, tmp_path):
    corpus = read(tmp_path, content, name, tier="Deutsch")
    assert parts(corpus) == [('"Ja, und', 0.5, 1.5), ("Nein", 1.6, 2.4)]
    assert corpus.problems == [] and "unused tiers: 'Comment'" in corpus.notes
    with pytest.raises(ValueError, match="The annotations have the tiers 'Deutsch', 'Comment': choose the one"):
        read_corpus("table", tmp_path)


def test_an_export_of_elan_without_an_end_is_named(tmp_path):
    lines = [
        "t\t\t00:00:01.000\t00:00:02.000\tx",
        "t\t\t00:00:03.000\ty",
        "t\t\t00:00:03.000\t00:00:04.000\ttwo\ttexts",
    ]
    corpus = read(tmp_path, "\n".join(lines), "talk.txt")
    assert parts(corpus) == [("x", 1, 2)]
    what = "it has no begin and end time in the format hh:mm:ss.ms followed by one text"
    assert problems(corpus) == [("talk.txt, line 2", what), ("talk.txt, line 3", what)]
    corpus = read(tmp_path, f"{TIMES}\tt\n00:00:01.000\t1\t00:00:02.000\t2\t1\tx\ty\n", "talk.txt")
    assert problems(corpus)[0] == ("talk.txt, line 2", "it has 7 values, but the header has 6")
    corpus = read(tmp_path, "Begin Time - ss.msec\tEnd Time - hh:mm:ss.ms\tt\n1\t00:00:02.000\tx\n", "talk.txt")
    assert problems(corpus)[0] == ("talk.txt, line 2", "it has no end time: export both begin and end time")
    with pytest.raises(
        ValueError, match=r"talk.txt is not a tab-delimited ELAN export|must have the columns file, text"
    ):
        read(tmp_path, "anything at all\n", "talk.txt", table=tmp_path / "talk.txt")
