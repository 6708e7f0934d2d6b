"""Long videos through the pipeline: pieces, stitching, caption times, caption files, and memory that stays flat."""

import html
import importlib.util
import itertools
import json
import re
import resource
import sys
import unicodedata
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pysubs2
import pytest
import torch
from signing_pictures import signing
from test_pipeline import make_pipeline, random_clip
from tiny_corpus import corpus, trained_model
from two_processes import in_another_process
from video_files import write_video

from modeling_flallm import SignLanguageTranslationPipeline
from processing import format_captions
from train_scripts.commands import translate

PLAN = [("sign", 2.0), ("rest", 0.8), ("sign", 3.0), ("rest", 4.0), ("sign", 2.4)]


@pytest.fixture
def translator() -> SignLanguageTranslationPipeline:
    return make_pipeline()


@pytest.fixture
def video(tmp_path) -> Path:
    return write_video(tmp_path / "talk.mp4", signing(PLAN))


def ready_piece(start: float, end: float, num_frames: int = 12) -> dict[str, Any]:
    metadata = {"fps": num_frames / (end - start), "total_num_frames": num_frames}
    metadata["frames_indices"] = list(range(num_frames))
    return {
        "pixel_values_videos": torch.randn(num_frames, 3, 32, 32),
        "video_metadata": metadata,
        "start": start,
        "end": end,
    }


# Pieces


def test_each_answer_is_that_of_a_call_for_its_part(translator, video):
    wanted = {"return_scores": True, "return_timestamps": True, "num_beams": 2}
    segments = translator.processor.video_processor.split_at_rests(str(video))
    answers = list(translator.translate_long(str(video), **wanted))
    assert len(answers) == len(segments) == 3
    for index, (segment, answer) in enumerate(zip(segments, answers, strict=True)):
        alone = translator(str(video), start=segment.start, end=segment.end, **wanted)
        times = {"start": round(segment.caption_start, 3), "end": round(segment.caption_end, 3)}
        assert answer == alone | times | {"piece": index}


def test_captions_cover_all_but_idle_time_and_do_not_overlap(translator, video):
    first, second, third = translator.translate_long(str(video))
    assert first["start"] == 0 and first["end"] == second["start"] == pytest.approx(2.4, abs=0.15)
    assert third["start"] - second["end"] == pytest.approx(3.0, abs=0.3)
    assert third["end"] == pytest.approx(12.2, abs=0.1)


def test_segments_of_ones_own_and_batches(translator, video):
    segments = [(0.0, 2.5), (2.5, 5.0), (9.5, 12.0)]
    expected = [translator(str(video), start=start, end=end) for start, end in segments]
    for batch_size in (1, 2):
        answers = list(translator.translate_long(str(video), segments, batch_size=batch_size))
        assert [(answer["start"], answer["end"]) for answer in answers] == segments
        assert [answer["translation_text"] for answer in answers] == [one["translation_text"] for one in expected]
    alternatives = list(translator.translate_long(str(video), segments, num_beams=3, num_return_sequences=2))
    assert [[one["piece"] for one in answer] for answer in alternatives] == [[0, 0], [1, 1], [2, 2]]
    with pytest.raises(ValueError, match=re.escape("With `segments` leave them out.")):
        translator.translate_long(str(video), segments, start=1)


@pytest.mark.parametrize("num_workers", [0, 1, 2, 5])
def test_any_number_of_workers_gives_the_same(translator, num_workers):
    frames = np.random.randint(256, size=(40, 48, 48, 3), dtype=np.uint8)
    segments = [(0.0, 0.8), (0.8, 1.6)]
    expected = list(translator.translate_long(frames, segments, source_fps=25))
    assert list(translator.translate_long(frames, segments, source_fps=25, num_workers=num_workers)) == expected


@pytest.mark.parametrize("num_workers", [-1, 1.5, "2"])
def test_a_wrong_number_of_workers(translator, num_workers):
    with pytest.raises(ValueError, match=re.escape(f"whole number of 0 or more, got {num_workers!r}.")):
        list(translator.translate_pieces([ready_piece(0.0, 1.0)], num_workers=num_workers))


def test_nobody_moves_and_nothing_is_said(translator, tmp_path):
    still = write_video(tmp_path / "still.mp4", signing([("rest", 5.0)]))
    assert list(translator.translate_long(str(still))) == []


def test_a_piece_is_taken_only_when_its_turn_comes(translator):
    taken = []

    def pieces():
        for index in range(6):
            taken.append(index)
            yield ready_piece(index * 2.0, index * 2.0 + 2)

    answers = translator.translate_pieces(pieces())
    next(answers)
    assert len(taken) <= 2
    assert len(list(answers)) == 5


def test_pieces_that_are_too_long_for_the_model_are_translated_in_parts(translator):
    pieces = [ready_piece(10.0, 30.0, 300), ready_piece(30.0, 31.0)]  # the model takes 64 positions, 128 frames
    answers = list(translator.translate_pieces(pieces, return_timestamps=True))
    assert [answer["piece"] for answer in answers] == [0] * (len(answers) - 1) + [1] and len(answers) > 3
    assert answers[0]["start"] == 10 and answers[-1]["end"] == 31
    for earlier, later in zip(answers[:-1], answers[1:], strict=True):
        assert earlier["end"] == later["start"]
    for answer in answers:
        assert all(10 <= word["start"] <= word["end"] <= answer["end"] + 0.1 for word in answer["words"])


def test_a_piece_that_is_too_short_for_the_model_is_held_at_its_end():
    translator = make_pipeline(vision={"temporal_blocks": ["K5", "P2", "K5", "P2"], "temporal_padding": "none"})
    piece = ready_piece(3.0, 4.0, 10)
    pixels = piece["pixel_values_videos"]
    longer = ready_piece(3.0, 4.6, 16) | {"pixel_values_videos": torch.cat([pixels, pixels[-1:].repeat(6, 1, 1, 1)])}
    (answer,) = translator.translate_pieces([piece], return_timestamps=True)
    assert answer["translation_text"] == translator(longer)["translation_text"]
    assert all(word["end"] <= 4 for word in answer["words"])


def test_pieces_out_of_order_or_without_times_are_refused(translator):
    message = "Pieces must come in order of time, got 1 to 3 seconds after 2 to 4."
    with pytest.raises(ValueError, match=re.escape(message)):
        list(translator.translate_pieces([ready_piece(2.0, 4.0), ready_piece(1.0, 3.0)]))
    with pytest.raises(
        ValueError, match=re.escape("video_metadata, start, end, got one without ['video_metadata', 'start', 'end']")
    ):
        list(translator.translate_pieces([{"pixel_values_videos": torch.zeros(12, 3, 32, 32)}]))


# Stitching


def stitch(translator, monkeypatch, texts: list[str], times: list[tuple[float, float]]) -> list[dict[str, Any]]:
    """Answers to pieces at these times, of which the model says these texts."""

    def say(self, inputs, **arguments):
        for _, text in zip(inputs, texts, strict=True):
            words = [{"word": word} for word in text.replace(".", "").replace("，", "").split()]
            yield {"translation_text": text, "words": words, "attention": np.ones((len(words), 4))}

    monkeypatch.setattr(SignLanguageTranslationPipeline, "__call__", say)
    return list(translator.translate_pieces(ready_piece(start, end) for start, end in times))


@pytest.mark.parametrize(
    "texts, expected",
    [
        (["the old man sees a dog .", "a dog runs home ."], "runs home ."),
        (["in the rain", "In the rain, in the rain"], "in the rain"),
        (["it rains a lot", "rains a lot ."], ""),
        (["it rains", "the sun shines"], "the sun shines"),
        (["", "the sun shines"], "the sun shines"),
        (["今天 天", "天 下雨"], "天 下雨"),
    ],
)
def test_words_said_twice_where_pieces_overlap_are_said_once(texts, expected, translator, monkeypatch):
    first, second = stitch(translator, monkeypatch, texts, [(0, 5), (4, 9)])
    assert (first["translation_text"], second["translation_text"]) == (texts[0], expected)
    assert [word["word"].strip(",") for word in second["words"]] == expected.replace(".", "").split()
    assert len(second["attention"]) == len(second["words"])
    assert (first["start"], first["end"], second["start"], second["end"]) == (0, 5, 5, 9)


def test_words_said_twice_in_two_sentences_stay(translator, monkeypatch):
    _, second = stitch(translator, monkeypatch, ["it rains", "rains again"], [(0, 5), (5, 9)])
    assert second["translation_text"] == "rains again"


# Processed videos


def test_what_the_processor_made_of_a_video_gives_the_answer_of_the_file(translator, tmp_path):
    video = tmp_path / "clip.mp4"
    write_video(video, signing([("sign", 4.0)]))
    wanted = {"return_scores": True, "return_timestamps": True}
    for start in (None, 1.2):
        inputs = translator.processor(videos=str(video), start=start, return_metadata=True, return_tensors="pt")
        ready = {"pixel_values_videos": inputs["pixel_values_videos"][0], "video_metadata": inputs["video_metadata"][0]}
        ready |= {} if start is None else {"start": start}
        plain = {key: ready["video_metadata"][key] for key in ("fps", "total_num_frames", "frames_indices")}
        plain = {**ready, "pixel_values_videos": ready["pixel_values_videos"].numpy(), "video_metadata": plain}
        expected = translator(str(video), start=start, **wanted)
        assert translator(ready, **wanted) == translator(plain, **wanted) == expected
        assert translator([plain, str(video)])[0]["translation_text"] == expected["translation_text"]


def test_a_processed_video_that_is_none(translator):
    pixels = torch.randn(12, 3, 32, 32)
    with pytest.raises(
        ValueError, match=re.escape("must have the shape (frames, 3, height, width), got (1, 12, 3, 32, 32).")
    ):
        translator({"pixel_values_videos": pixels[None]})
    with pytest.raises(
        ValueError, match=re.escape("video_metadata, start, end, caption_start, caption_end, got ['fps']")
    ):
        translator({"pixel_values_videos": pixels, "fps": 25})
    with pytest.raises(ValueError, match=re.escape("`start`, `end` and `source_fps` apply when a video is read")):
        translator({"pixel_values_videos": pixels}, start=1)
    with pytest.raises(ValueError, match=re.escape("the processed video has no frame rate")):
        translator({"pixel_values_videos": pixels}, return_timestamps=True)
    with pytest.raises(ValueError, match=re.escape("the processed video is too long to translate.")):
        translator({"pixel_values_videos": torch.zeros(300, 3, 32, 32)})
    assert set(translator({"pixel_values_videos": pixels})) == {"translation_text"}


def test_a_row_of_a_data_set(translator, video):
    row = {"video": {"path": str(video), "bytes": None}, "start": 1.0, "end": None, "text": "a"}
    assert list(translator.translate_long(row)) == list(translator.translate_long(str(video), start=1.0))
    with pytest.raises(ValueError, match=re.escape("got ['begin'].")):
        list(translator.translate_long({"video": str(video), "begin": 1.0}))


# Confidence


def test_a_model_with_a_calibration_gives_a_confidence(translator):
    clip = random_clip(20)
    plain = translator(clip, return_scores=True)
    translator.model.config.confidence_calibration = {"slope": 1.5, "intercept": 0.25}
    answer = translator(clip, return_scores=True)
    assert answer["confidence"] == pytest.approx(1 / (1 + np.exp(-(1.5 * plain["score"] + 0.25))))
    assert answer["is_measured"] and answer["is_familiar"]
    assert "confidence" not in plain and "confidence" not in translator(clip)


@pytest.mark.parametrize(
    ("lowest", "highest", "is_measured", "counted"),
    [(-0.5, 0.5, True, 0.0), (0.0, 0.0, True, 0.0), (0.5, 1.0, False, None), (-2.0, -1.0, False, -1.0)],
)
def test_what_was_never_measured_is_named(translator, lowest, highest, is_measured, counted):
    """`lowest`, `highest` and the score that counts, `counted`, beside the score of the clip."""
    clip = random_clip(20)
    score = translator(clip, return_scores=True)["score"]
    curve = {"slope": 1.5, "intercept": 0.25, "lowest_score": score + lowest, "highest_score": score + highest}
    translator.model.config.confidence_calibration = curve
    answer = translator(clip, return_scores=True)
    expected = 0 if counted is None else 1 / (1 + np.exp(-(1.5 * (score + counted) + 0.25)))
    assert answer["confidence"] == pytest.approx(expected)
    assert (answer["is_measured"], answer["is_familiar"]) == (is_measured, True)


def test_a_score_that_is_no_number_gives_no_confidence(translator):
    translator.model.config.confidence_calibration = {"slope": 1.5, "intercept": 0.25, "highest_score": -0.5}
    answer = translator._score_and_confidence(float("nan"), torch.zeros(24))
    assert (answer["confidence"], answer["is_measured"]) == (0.0, False)


# Caption files


def caption(start: float, end: float, text: str) -> dict[str, Any]:
    return {"start": start, "end": end, "translation_text": text}


MARKS = [
    "<i>1 < 2 & 3 > 2</i> &amp; &lt;",
    "{\\an8}top {b}",
    "a --> b",
    "\\N new \\h line",
    "one\ntwo\r\n\r\n3\n00:00:01,000 --> later",
    "WEBVTT",
    "NOTE a & b",
    "7",
    "\u202eturned",
    "شكرا جزيلا",
    "今天下雨",
]


@pytest.mark.parametrize("text", MARKS)
@pytest.mark.parametrize("format_name", ["srt", "vtt"])
def test_every_character_of_a_caption_is_text(text, format_name):
    content = format_captions([caption(0.5, 2.25, text), caption(2.25, 4, "next")], format_name)
    visible = " ".join(text.replace("\u202e", "").split())
    subtitles = pysubs2.SSAFile.from_string(content, format_name)
    assert [(line.start, line.end) for line in subtitles] == [(500, 2250), (2250, 4000)]
    if format_name == "srt":
        shown = subtitles[0].plaintext
        assert not set("<>{}\\") & set(shown) and unicodedata.normalize("NFKC", " ".join(shown.split())) == visible
    else:
        lines = content.split("\n\n")[1].splitlines()[1:]
        assert not set("<>") & set("".join(lines))
        assert html.unescape(" ".join(lines)) == visible


def test_long_texts_are_wrapped_and_share_their_time():
    words = ["".join(np.random.choice(list("abcdefgh"), np.random.randint(1, 12))) for _ in range(60)]
    content = format_captions([caption(1, 21, " ".join(words)), caption(21, 22, "end")], "srt")
    *parts, last = pysubs2.SSAFile.from_string(content, "srt")
    lines = [part.plaintext.splitlines() for part in parts]
    assert " ".join(line for part in lines for line in part).split() == words
    assert all(len(part) <= 2 and all(len(line) <= 42 for line in part) for part in lines)
    assert parts[0].start == 1000 and parts[-1].end == last.start == 21000 and len(parts) > 2
    for earlier, later in zip(parts[:-1], parts[1:], strict=True):
        assert earlier.end == later.start
    per_character = [part.duration / sum(map(len, text)) for part, text in zip(parts, lines, strict=True)]
    assert max(per_character) == pytest.approx(min(per_character), rel=0.02)


def test_two_lines_are_of_about_one_length():
    text = "the old teacher will not see a fish in the garden"
    subtitles = pysubs2.SSAFile.from_string(format_captions([caption(0, 1, text)], "srt"), "srt")
    first, second = subtitles[0].plaintext.splitlines()
    assert abs(len(first) - len(second)) < 8


def test_empty_texts_are_left_out_and_hours_are_counted():
    captions = [caption(0, 1, " "), caption(3723.5, 3724, "late")]
    assert format_captions(captions, "srt") == "1\n01:02:03,500 --> 01:02:04,000\nlate\n"
    assert format_captions(captions, "vtt") == "WEBVTT\n\n01:02:03.500 --> 01:02:04.000\nlate\n"
    assert (format_captions([], "srt"), format_captions([], "vtt")) == ("", "WEBVTT\n")


def test_captions_that_make_no_sense_are_refused():
    with pytest.raises(
        ValueError, match=re.escape('The format of captions must be "srt", "vtt" or "txt", got \'ass\'.')
    ):
        format_captions([], "ass")
    message = "Captions must come in order of time without overlaps, got 1 to 3 seconds after one that ends at 2.0."
    with pytest.raises(ValueError, match=re.escape(message)):
        format_captions([caption(0, 2, "a"), caption(1, 3, "b")], "vtt")
    with pytest.raises(ValueError, match=re.escape("got 1 to 1 seconds")):
        format_captions([caption(1, 1, "a")], "vtt")
    with pytest.raises(ValueError, match=re.escape("Times of captions must be 0 or more seconds, got nan.")):
        format_captions([caption(float("nan"), 1, "a")], "vtt")


def test_the_video_processor_writes_captions_where_only_it_is_at_hand(translator):
    captions = [caption(0, 1, "a")]
    assert translator.processor.video_processor.format_captions(captions, "srt") == format_captions(captions, "srt")


# Benchmark


def load_benchmark():
    """By path: another installed package may be called `benchmarks`."""
    path = Path(__file__).resolve().parent.parent / "benchmarks" / "long_video.py"
    spec = importlib.util.spec_from_file_location("long_video", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_each_joint_is_found_once_and_within_half_a_second():
    match_boundaries = load_benchmark().match_boundaries
    assert match_boundaries([1.0, 1.2, 5.4, 9.0], [1.1, 5.0, 8.0]) == 2
    assert match_boundaries([], [1.0]) == match_boundaries([1.0], []) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_the_benchmark_prints_both_tables(tmp_path, capsys, monkeypatch):
    benchmark = load_benchmark()
    (tmp_path / "corpus").symlink_to(corpus())
    (tmp_path / "model").symlink_to(trained_model())
    sizes = ["--num_clips", "3", "--pauses", "0.5", "--minutes", "0.1"]
    monkeypatch.syspath_prepend(Path(benchmark.__file__).parent)  # its other processes import it by name
    assert benchmark.main(["--quickstart_output", str(tmp_path), *sizes]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert any(row.startswith("| 0.5 s | 2 |") for row in rows) and any(row.startswith("| 0.1 min |") for row in rows)


# Half an hour


def write_peaks(rank: int, model: Path, videos: list[Path], path: Path) -> None:
    """The peak memory of this process in MiB after each video, whose translation is written beside it."""
    arguments = ["--model", str(model), "--device", "cpu", "--long", "--srt", "--format", "jsonl"]
    peaks = []
    for video in videos:
        assert translate.main([*arguments, "--output", str(video.with_suffix(".jsonl")), str(video)]) == 0
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    path.write_text(json.dumps(peaks))


def translate_in_another_process(*videos: Path) -> list[int]:
    """-> its peak memory in MiB after each of the videos"""
    path = videos[0].with_name("peaks.json")
    in_another_process(write_peaks, trained_model(), list(videos), path)
    for video in videos:
        (row,) = map(json.loads, video.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines())
        assert row["error"] == "" and len(row["pieces"]) > 10
    return json.loads(path.read_text())


def write_again_and_again(path: Path, frames: np.ndarray, times: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(25, 2), options={"preset": "ultrafast", "g": "1000000"})
        stream.height, stream.width = frames.shape[1:3]
        for frame in itertools.chain.from_iterable(itertools.repeat(frames, times)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.slow
def test_half_an_hour_has_captions_from_beginning_to_end_in_flat_memory(tmp_path):
    minute = signing([("sign", 2.6), ("rest", 0.4), ("sign", 3.2), ("rest", 0.8), ("sign", 4.4), ("rest", 0.6)] * 5)
    minute = minute[::2]  # the fewer frames, the faster
    for minutes in (2, 30):
        # One keyframe in all: seeking each piece separately, the last ones would each decode the whole video.
        write_again_and_again(tmp_path / f"{minutes}.mp4", minute, minutes)
    of_two_minutes, of_half_an_hour = translate_in_another_process(tmp_path / "2.mp4", tmp_path / "30.mp4")
    lines = list(pysubs2.load(str(tmp_path / "30.srt")))
    assert lines[0].start == 0 and lines[-1].end == pytest.approx(30 * 60_000, abs=200)
    for earlier, later in zip(lines[:-1], lines[1:], strict=True):
        assert earlier.start < earlier.end == later.start
    assert 300 <= len(lines) <= 600
    assert of_half_an_hour - of_two_minutes < 60, (of_two_minutes, of_half_an_hour)
