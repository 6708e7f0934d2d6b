"""The Space's reading processes: what they read from a video, and that no file takes the Space down."""

import multiprocessing
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_corpus import trained_model
from video_files import counting_frames, cut, write_audio, write_packets, write_video

from modeling_flallm.own_processing import FLaLLMProcessor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "spaces_demo"))

import decoding  # noqa: E402
from decoding import VideoFacts, VideoProblem, VideoReader  # noqa: E402
from reading_tasks import crash, fill_the_memory, never_end, write_a_file  # noqa: E402

pytestmark = pytest.mark.slow  # a reading process takes its time to start


@pytest.fixture(scope="module")
def reader(forked_workers):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "NUM_READERS", 1)  # each takes its time to start, and none is asked beside another
        reader = VideoReader(str(trained_model()), None, trust_remote_code=True)
        yield reader
        reader.close()


@pytest.fixture
def clip(tmp_path) -> Path:
    return write_video(tmp_path / "clip.mp4", np.random.randint(256, size=(50, 48, 64, 3), dtype=np.uint8))


def problem_of(call, *arguments) -> VideoProblem:
    with pytest.raises(VideoProblem) as caught:
        call(*arguments)
    return caught.value


def test_length_and_size(reader, clip, tmp_path):
    assert reader.look(str(clip)) == VideoFacts(2.0, 64, 48)
    streamed = write_video(tmp_path / "recorded.webm", counting_frames(40), fps=20, live=True)
    assert reader.look(str(streamed)).seconds == pytest.approx(2.0, abs=0.06)


def test_a_part_is_what_the_processor_makes_of_it(reader, clip):
    processor = FLaLLMProcessor.from_pretrained(trained_model())
    start, end = sorted(np.random.uniform(0, 1.9, size=2))
    expected = processor(videos=str(clip), start=start, end=end + 0.1, return_metadata=True, return_tensors="np")
    part = reader.read(str(clip), start, end + 0.1)
    assert np.array_equal(part["pixel_values_videos"], expected["pixel_values_videos"][0])
    assert part["video_metadata"]["frames_indices"] == expected["video_metadata"][0]["frames_indices"]
    assert part["start"] == start


def test_thumbnails_keep_the_shape_of_the_picture(reader, clip):
    thumbnails = reader.thumbnails(str(clip), 0.4, 1.6, 5, 24)
    assert len(thumbnails) == 5
    assert {picture.shape for _, picture in thumbnails} == {(24, 32, 3)}
    assert {picture.dtype for _, picture in thumbnails} == {np.dtype(np.uint8)}
    seconds = [second for second, _ in thumbnails]
    assert seconds == sorted(seconds) and seconds[0] == pytest.approx(0.4) and seconds[-1] < 1.6


def test_what_is_wrong_with_a_file(reader, clip, tmp_path):
    empty, text, noise = tmp_path / "empty.mp4", tmp_path / "text.mp4", tmp_path / "noise.webm"
    empty.touch()
    text.write_text("this is no video", encoding="utf-8")
    noise.write_bytes(bytes(64) + np.random.bytes(2000))
    names = {
        "error_empty_file": empty,
        "error_no_video_file": text,
        "error_no_picture": write_audio(tmp_path / "speech.mp4"),
        "error_damaged": cut(clip, 0.5, tmp_path / "cut.mp4"),
    }
    assert {name: problem_of(reader.look, str(path)).name for name, path in names.items()} == {n: n for n in names}
    assert problem_of(reader.look, str(noise)).name == "error_no_video_file"


def test_the_length_is_that_of_the_picture_and_counts_from_the_beginning_of_the_file(reader, tmp_path):
    longer = write_packets(tmp_path / "longer.mp4", counting_frames(75), seconds_of_sound=5.0)
    assert reader.look(str(longer)) == VideoFacts(3.0, 64, 48)
    late = write_packets(tmp_path / "late.webm", counting_frames(75), picture_begins_at=0.8, seconds_of_sound=2.0)
    assert reader.look(str(late)).seconds == pytest.approx(3.8)
    assert len(reader.read(str(late), 3.3, 3.7)["pixel_values_videos"]) > 0
    assert reader.thumbnails(str(late), None, None, 5, 24)[0][0] == pytest.approx(0.8)
    assert problem_of(reader.read, str(longer), 3.5, 3.9).name == "error_nothing_shown"
    assert problem_of(reader.read, str(late), 0.0, 0.4).name == "error_nothing_shown"


def test_a_format_that_cannot_be_decoded(reader, clip, tmp_path):
    unknown = tmp_path / "unknown.mp4"
    unknown.write_bytes(clip.read_bytes().replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))
    for call in ((reader.look, str(unknown)), (reader.read, str(unknown), None, None)):
        assert problem_of(*call).name == "error_unknown_format"


def test_an_address_is_never_downloaded(reader):
    for call in ((reader.look,), (reader.read, None, None), (reader.split_at_rests, None, None)):
        assert problem_of(call[0], "http://127.0.0.1:1/clip.mp4", *call[1:]).name == "error_no_video_file"


def test_a_list_of_other_files_is_no_video(reader, clip, tmp_path):
    """None of them may make the server read its other files."""
    playlists = {
        "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{clip}\n#EXT-X-ENDLIST\n",
        "list.mp4": f"ffconcat version 1.0\nfile '{clip}'\n",
        "list.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    }
    for name, content in playlists.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
        assert problem_of(reader.look, str(tmp_path / name)).name == "error_no_video_file"


def test_limits(reader, clip, tmp_path, monkeypatch):
    wide = write_video(tmp_path / "wide.mp4", counting_frames(2, height=2, width=decoding.LARGEST_WIDTH_IN_PIXELS + 2))
    problem = problem_of(reader.look, str(wide))
    assert problem.name == "error_too_large_picture"
    assert problem.values == {"width": 4098, "height": 2, "limit_width": 4096, "limit_height": 2304}
    slow = write_video(tmp_path / "slow.mp4", counting_frames(2), times_in_milliseconds=[0, 1_900_000])
    problem = problem_of(reader.look, str(slow))
    assert problem.name == "error_too_long" and problem.values["limit"] == 1800 < problem.values["seconds"]


def test_no_file_takes_the_space_down(reader, clip, tmp_path):
    assert problem_of(reader._ask, 60, crash, str(clip)).name == "error_damaged"
    assert problem_of(reader._ask, 60, fill_the_memory, str(clip)).name == "error_damaged"
    assert problem_of(reader._ask, 1, never_end, str(clip)).name == "error_took_too_long"
    with pytest.raises(OSError):
        reader._ask(60, write_a_file, str(tmp_path / "left.txt"))
    assert reader.look(str(clip)) == VideoFacts(2.0, 64, 48)


def test_killed_processes_are_replaced(reader, clip):
    processes = multiprocessing.active_children()
    assert processes != []
    for process in processes:
        process.kill()
    assert reader.look(str(clip)) == VideoFacts(2.0, 64, 48)
