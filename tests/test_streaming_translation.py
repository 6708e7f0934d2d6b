"""Translation of streams: sentences as they are signed, equal to those of a recording, in memory that stays flat."""

import itertools
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import pytest
import torch
from signing_pictures import FRAMES_PER_SECOND, signing
from signing_poses import signing_poses
from test_pipeline import NO_SPECIAL_TOKENS, make_pipeline
from test_pipeline_llava_slt import make_pipeline as make_prompted_pipeline
from tiny_models import VISUAL_ENCODERS, every_visual_encoder, tiny_diffslt, tiny_llava_slt, tiny_mmslt, tiny_model
from tiny_pose_models import pose_pipeline
from video_files import write_video

from modeling_flallm import SignLanguageTranslationPipeline, StreamingTranslator
from modeling_flallm.streaming_slt import MOST_SENTENCES_THAT_WAIT
from processing import FLaLLMVideoProcessor, decode_video, format_captions

# Three sentences.
PLAN = [("rest", 1.0), ("sign", 2.4), ("rest", 0.8), ("sign", 3.0), ("rest", 4.0), ("sign", 2.4), ("rest", 0.6)]


@pytest.fixture
def translator() -> SignLanguageTranslationPipeline:
    """Of which no sentence is empty."""
    pipeline = make_pipeline()
    pipeline.model.generation_config.update(min_new_tokens=3, **NO_SPECIAL_TOKENS)
    return pipeline


def at_25(frames: Any, start: float = 0.0) -> Iterator[tuple[float, Any]]:
    """Frames with their seconds"""
    return ((start + index / FRAMES_PER_SECOND, frame) for index, frame in enumerate(frames))


def finals(updates: Any) -> list[dict[str, Any]]:
    return [update for update in updates if update["is_final"]]


def said(translator: SignLanguageTranslationPipeline, recording: Any, update: dict[str, Any], **arguments: Any) -> str:
    """What a call says of the frames that an update was made of."""
    part = {"start": update["signing_start"], "end": update["signing_end"]}
    return translator(recording, source_fps=25, **part, **arguments)["translation_text"]


# The same as of a recording


@every_visual_encoder
def test_a_final_sentence_is_that_of_a_call_for_the_same_frames(vision):
    translator, frames = make_pipeline(vision=vision), signing(PLAN)
    answers = finals(translator.translate_stream(at_25(frames), num_beams=2))
    assert len(answers) == 3
    for answer in answers:
        assert answer["translation_text"] == said(translator, frames, answer, num_beams=2)


def test_scores_and_words_are_those_of_a_call(translator):
    frames, wanted = signing(PLAN), {"return_scores": True, "return_timestamps": True}
    for answer in finals(translator.translate_stream(at_25(frames), **wanted)):
        part = {"start": answer["signing_start"], "end": answer["signing_end"]}
        alone = translator(frames, source_fps=25, **part, **wanted)
        assert answer["score"] == pytest.approx(alone["score"], abs=1e-5)
        assert len(answer["words"]) == len(alone["words"]) > 0
        for word, other in zip(answer["words"], alone["words"], strict=True):
            assert word["word"] == other["word"] and word["peak"] == pytest.approx(other["peak"], abs=1e-6)


def test_the_frames_of_a_file(translator, tmp_path):
    path = write_video(tmp_path / "talk.mp4", signing(PLAN))
    with av.open(str(path)) as container:
        decoded = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    for answer in finals(translator.translate_stream(decoded)):
        part = {"start": answer["signing_start"], "end": answer["signing_end"]}
        assert answer["translation_text"] == translator(str(path), **part)["translation_text"]


@pytest.mark.slow
def test_sentences_are_cut_where_those_of_a_recording_are():
    translator = make_pipeline(vision={"temporal_blocks": ["K5", "P2", "K5", "P2"]})
    frames = signing([*PLAN, ("rest", 20.0), ("sign", 2.0), ("move", 14.0), ("rest", 1.0), ("sign", 1.5)])
    segments = translator.processor.modality.split_at_rests(frames, rate=25)
    answers = finals(translator.translate_stream(at_25(frames)))
    assert len(answers) == len(segments)
    for answer, segment in zip(answers, segments, strict=True):
        assert answer["signing_start"] == pytest.approx(segment.start, abs=0.13)
        assert answer["signing_end"] == pytest.approx(segment.end, abs=0.13)
        assert segment.caption_start - 0.1 <= answer["start"] < answer["end"] <= segment.caption_end + 0.1


@pytest.mark.parametrize(
    ("first", "rest", "num_sentences"), [(1.4, 0.28, 1), (1.4, 0.6, 2), (3.2, 0.28, 2), (3.2, 0.6, 2)]
)
def test_a_short_rest_counts_once_enough_was_signed_to_tell(first, rest, num_sentences):
    """Before that, nobody knows how high the hands usually are; a long rest always counts."""
    clip = FLaLLMVideoProcessor(size={"height": 36, "width": 36}, do_center_crop=False).live()
    plan = [("rest", 1.0), ("sign", first), ("rest", rest), ("sign", 2.4), ("rest", 1.5)]
    ended = [task for seconds, frame in at_25(signing(plan)) for task in clip.take(frame, seconds) if task.is_final]
    ended += [task for task in clip.end() if task.is_final]
    assert len([task for task in ended if task.part is not None]) == num_sentences


def test_nobody_moves_and_nothing_is_said(translator):
    assert list(translator.translate_stream(at_25(signing([("rest", 6.0)])))) == []
    assert list(translator.translate_stream([])) == []


def test_a_signer_in_a_mirror(translator):
    frames = signing(PLAN)
    for answer in finals(translator.translate_stream(at_25(frames), left_handed=True)):
        assert answer["translation_text"] == said(translator, frames, answer, left_handed=True)
        assert answer["left_handed"] is True


def test_a_model_with_a_prompt():
    translator, frames = make_prompted_pipeline(), signing(PLAN)
    answers = finals(translator.translate_stream(at_25(frames), spoken_language="de"))
    assert len(answers) == 3
    for answer in answers:
        assert answer["translation_text"] == said(translator, frames, answer, spoken_language="de")


@pytest.mark.slow
def test_poses():
    translator = pose_pipeline(frame_sampling_rate=0.5, smoothing_seconds=0.05)
    plan = [*PLAN, ("rest", 20.0), ("sign", 2.0), ("away", 1.0)]
    np.random.seed(11)  # with some other seeds, the shaking in the long rest is a sentence for the whole recording
    keypoints, scores = signing_poses(plan)
    frames = np.concatenate([keypoints, scores[..., None]], -1)
    segments = translator.processor.modality.split_at_rests(frames, rate=25)
    answers = finals(translator.translate_stream(at_25(frames)))
    assert len(answers) == len(segments) == 4
    # A stream forgets what a sentence before a long rest was like; the whole recording does not.
    tolerances = [0.13, 0.13, 0.13, 0.6]
    for answer, segment, tolerance in zip(answers, segments, tolerances, strict=True):
        assert answer["signing_start"] == pytest.approx(segment.start, abs=tolerance)
        assert answer["translation_text"] == said(translator, frames, answer)


# Frames alone


def test_nobody_is_there_yet():
    keypoints, scores = signing_poses([("rest", 1.0), ("sign", 2.0), ("rest", 1.0)])
    frames = np.concatenate([keypoints, scores[..., None]], -1)
    stream = itertools.chain(at_25(np.zeros_like(frames)), at_25(frames, start=len(frames) / FRAMES_PER_SECOND))
    assert finals(pose_pipeline().translate_stream(stream))[-1]["signing_end"] == pytest.approx(7.0, abs=0.3)


def every_model() -> dict[str, Any]:
    models = {name: tiny_model(vision=vision) for name, vision in VISUAL_ENCODERS.items()}
    return models | {"llava_slt": tiny_llava_slt(), "mmslt": tiny_mmslt(), "diffslt": tiny_diffslt()}


def test_frames_alone_and_then_over_time_are_the_features_of_a_clip():
    frames = torch.randn(24, 3, 32, 32)
    alone = {}
    for name, model in every_model().items():
        encoder = model.vision_model
        alone[name] = encoder.encodes_frames_alone
        if alone[name]:
            with torch.no_grad():
                expected = encoder.compute_features(pixel_values_videos=frames[None])
                parts = torch.cat([encoder.encode_frames(frames[:5]), encoder.encode_frames(frames[5:])])
                output = encoder.encode_over_time(parts[None])
            torch.testing.assert_close(output.last_hidden_state, expected.last_hidden_state, atol=1e-5, rtol=1e-5)
            assert torch.equal(output.attention_mask, expected.attention_mask)
    # The mean frame of a clip is known at its end.
    assert [name for name, is_so in alone.items() if not is_so] == ["layer norm, no padding"]


def test_frames_are_encoded_while_the_person_signs_and_only_once(translator, monkeypatch):
    encoded: list[int] = []
    encode_frames = SignLanguageTranslationPipeline.encode_frames

    def count(self, frames):
        encoded.append(len(frames))
        return encode_frames(self, frames)

    monkeypatch.setattr(SignLanguageTranslationPipeline, "encode_frames", count)
    frames = signing([("sign", 4.0), ("rest", 0.4)])
    with StreamingTranslator(translator) as stream:
        for seconds, frame in at_25(frames):
            stream.add(frame, seconds)
            time.sleep(0.005)
        wait_until_idle(stream)
        before_the_end = sum(encoded)
        (answer,) = finals(stream.finish())
    num_sampled = round((answer["signing_end"] - answer["signing_start"]) * FRAMES_PER_SECOND / 2)
    assert before_the_end >= num_sampled - 2
    assert sum(encoded) <= num_sampled + 2


# Uneven times


def uneven_times(num_frames: int) -> list[int]:
    """Milliseconds of a camera that gives about 25 frames per second, now and then none for a moment."""
    steps = np.random.randint(33, 48, num_frames - 1)
    steps[np.random.choice(len(steps), 3, replace=False)] += 150
    return [0, *np.cumsum(steps).tolist()]


def test_frames_of_uneven_times_are_sampled_as_those_of_a_file(tmp_path):
    milliseconds = uneven_times(80)
    frames = np.random.randint(0, 256, (80, 40, 40, 3), dtype=np.uint8)
    path = write_video(
        tmp_path / "camera.mkv", frames, times_in_milliseconds=milliseconds, codec="ffv1", pixel_format="bgr0"
    )
    processor = FLaLLMVideoProcessor(frame_sampling_rate=0.3, max_num_frames=14)
    live = processor.live()
    for millisecond, frame in zip(milliseconds, frames, strict=True):
        live.add(frame, millisecond / 1000)
    for start, end in ((0.0, 1.2), (0.7, 2.3), (1.0, milliseconds[-1] / 1000)):
        part = live.part(start, end)
        expected = decode_video(path, start, end, sample_frame_indices=processor.sample_frame_indices)
        assert part.metadata["frames_indices"] == expected.frame_indices
        assert part.metadata["fps"] == pytest.approx(expected.fps)
        assert torch.equal(torch.from_numpy(frames[part.numbers]).permute(0, 3, 1, 2), expected.frames)


# Updates


@pytest.mark.slow
def test_updates_grow_to_the_final_sentence(translator):
    updates = list(translator.translate_stream(slowly(at_25(signing(PLAN)))))
    for piece, of_piece in itertools.groupby(updates, lambda update: update["piece"]):
        of_piece = list(of_piece)
        assert [update["is_final"] for update in of_piece] == [False] * (len(of_piece) - 1) + [True]
        assert len(of_piece) > 2, f"sentence {piece} was not revised"
        ends = [update["signing_end"] for update in of_piece]
        assert ends == sorted(ends)
        assert len({update["signing_start"] for update in of_piece}) == 1
    assert sorted({update["piece"] for update in updates}) == [0, 1, 2]


def slowly(frames: Any) -> Iterator[Any]:
    for each in frames:
        yield each
        time.sleep(0.004)


def test_captions_of_a_stream_in_one_line(translator):
    updates = list(translator.translate_stream(at_25(signing(PLAN))))
    sentences = [update["translation_text"] for update in finals(updates)]
    assert format_captions(updates, "txt") == "".join(f"{text}\n" for text in sentences)
    for format_name in ("srt", "vtt"):
        captions = format_captions(updates, format_name)
        assert captions == format_captions(finals(updates), format_name) and captions.count("-->") >= 3


class SlowModel:
    """In place of `write_sentences`: waits at each sentence until it may go on, and knows which frames it saw."""

    def __init__(self, monkeypatch):
        self.gate = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)
        self.lengths: list[int] = []
        write = SignLanguageTranslationPipeline.write_sentences

        def wait(pipeline, encoded, **arguments):
            self.lengths.append(encoded.num_frames[0])
            self.begun.release()
            self.gate.acquire()
            return write(pipeline, encoded, **arguments)

        monkeypatch.setattr(SignLanguageTranslationPipeline, "write_sentences", wait)

    def open(self) -> None:
        self.gate.release(10_000)


def test_what_was_overtaken_is_never_translated(translator, monkeypatch):
    model, frames = SlowModel(monkeypatch), signing([("sign", 4.0), ("rest", 0.2)])
    with StreamingTranslator(translator) as stream:
        for seconds, frame in at_25(frames):
            stream.add(frame, seconds)
        model.begun.acquire()
        model.open()
        updates = list(stream.finish())
    # The first one began early; then came the whole sentence, perhaps before and after its end, and nothing in between.
    assert len(model.lengths) <= 3 and model.lengths[0] < min(model.lengths[1:])
    assert min(model.lengths[1:]) >= model.lengths[-1] - 2
    assert len(finals(updates)) == 1


@pytest.mark.slow
def test_frames_that_come_too_fast_have_to_wait_and_no_sentence_is_lost(translator, monkeypatch):
    model, frames = SlowModel(monkeypatch), signing([("rest", 0.4), ("sign", 2.0), ("rest", 0.8)] * 6)
    updates, num_added = [], 0
    with StreamingTranslator(translator) as stream:

        def feed() -> None:
            nonlocal num_added
            for seconds, frame in at_25(frames):
                updates.extend(stream.add(frame, seconds))
                num_added += 1

        thread = threading.Thread(target=feed)
        thread.start()
        thread.join(timeout=3)
        seconds_added = num_added / FRAMES_PER_SECOND
        assert thread.is_alive() and seconds_added < (MOST_SENTENCES_THAT_WAIT + 2) * 3.2 + 1
        model.open()
        thread.join()
        updates += stream.finish()
    assert [update["piece"] for update in finals(updates)] == list(range(6))


def test_an_interruption_ends_the_sentence(translator):
    frames = signing([("sign", 2.0)])
    answers = finals(translator.translate_stream(itertools.chain(at_25(frames), at_25(frames, start=60.0))))
    assert [answer["signing_end"] for answer in answers] == pytest.approx([2.0, 62.0], abs=0.15)
    assert answers[1]["start"] >= 59.9


def test_a_sentence_too_short_for_the_model_is_held_at_its_end():
    vision = {"temporal_blocks": ["K5", "P2", "K5", "P2"], "temporal_padding": "none"}
    translator = make_pipeline(vision=vision, settings={"frame_sampling_rate": 0.25})
    answers = finals(translator.translate_stream(at_25(signing([("sign", 1.4), ("rest", 0.8)]))))
    assert len(answers) == 1 and answers[0]["signing_end"] < 1.6


def test_a_sentence_too_long_for_the_model_is_translated_in_parts(translator):
    """The model takes 64 positions, here frames."""
    answers = finals(translator.translate_stream(at_25(signing([("sign", 8.0), ("rest", 1.0)]))))
    assert [answer["piece"] for answer in answers] == list(range(len(answers))) and len(answers) > 1
    for earlier, later in itertools.pairwise(answers):
        assert earlier["end"] == later["start"] and later["signing_start"] < earlier["signing_end"]


# Memory, threads, ends


def wait_until_idle(stream: StreamingTranslator) -> None:
    deadline = time.monotonic() + 20
    while stream._is_working and time.monotonic() < deadline:
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize(
    "plan",
    [PLAN, [("move", 20.0)], [("rest", 20.0)], [("move", 13.4), ("rest", 25.0)]],
    ids=["sentences", "no rest", "nobody", "a cut and then nobody"],
)
def test_what_is_held_does_not_grow(translator, plan):
    frames, most, after_two_turns = signing(plan), {}, {}
    with StreamingTranslator(translator) as stream:
        for turn in range(4):
            for seconds, frame in at_25(frames, start=turn * len(frames) / FRAMES_PER_SECOND):
                stream.add(frame, seconds)
                held = {
                    "frames": stream._clip.num_frames_held,
                    "changes": len(stream._clip._changes.times),
                    "features": len(stream._features),
                    "updates": len(stream._updates),
                    "waiting": len(stream._ended),
                    "texts": len(stream._standing),
                }
                most = {name: max(most.get(name, 0), number) for name, number in held.items()}
            if turn == 1:
                after_two_turns = most
    longest = (12.0 + 1.0 + 4.0) * FRAMES_PER_SECOND
    assert most["frames"] <= longest
    assert most["features"] <= 2 * longest  # of the sentence that is written, and of the one that is signed meanwhile
    assert most["changes"] <= longest + 15 * FRAMES_PER_SECOND
    assert most["waiting"] <= MOST_SENTENCES_THAT_WAIT and most["texts"] <= 10
    for name in ("frames", "changes"):
        assert most[name] <= 1.3 * after_two_turns[name]


@pytest.mark.slow
def test_streams_share_a_model(translator):
    """Each in its thread, as those of several users."""
    films = [signing(PLAN) for _ in range(3)]
    expected = [finals(translator.translate_stream(at_25(film), num_beams=2)) for film in films]
    found: list[Any] = [None] * len(films)

    def translate(index: int) -> None:
        found[index] = finals(translator.translate_stream(at_25(films[index]), num_beams=2))

    threads = [threading.Thread(target=translate, args=(index,)) for index in range(len(films))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_closing_stops_at_once(translator, monkeypatch):
    model = SlowModel(monkeypatch)
    with StreamingTranslator(translator) as stream:
        for seconds, frame in at_25(signing([("sign", 3.0)])):
            stream.add(frame, seconds)
        model.begun.acquire()
        model.open()
    assert stream.updates() == [] and len(model.lengths) == 1


def test_what_goes_wrong_in_the_other_thread_is_raised_here(translator, monkeypatch):
    def fail(self, encoded, **arguments):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(SignLanguageTranslationPipeline, "write_sentences", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(translator.translate_stream(at_25(signing(PLAN))))


# Mistakes


@pytest.mark.parametrize(
    ("seconds", "message"),
    [
        ([0.0, 0.04, 0.04], "Frames must come in order of time, got one of second 0.04 after one of 0.04."),
        ([1.0, 0.5], "Frames must come in order of time, got one of second 0.5 after one of 1."),
        ([-1.0], "The second of a frame must be a number of 0 or more, got -1.0."),
        ([float("nan")], "The second of a frame must be a number of 0 or more, got nan."),
    ],
)
def test_times_out_of_order(translator, seconds, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        list(translator.translate_stream((second, np.zeros((20, 20, 3), np.uint8)) for second in seconds))


def test_a_frame_that_is_none(translator):
    with pytest.raises(ValueError, match=re.escape("Frames must be pictures, picture paths or arrays of shape")):
        list(translator.translate_stream([(0.0, 5)]))


def test_arguments_for_whole_clips_are_refused(translator):
    message = "A stream has no use for ['batch_size', 'start'], which are for calls with whole videos. Leave them out."
    with pytest.raises(ValueError, match=re.escape(message)):
        list(translator.translate_stream([], start=1.0, batch_size=2))
    with pytest.raises(TypeError, match=re.escape("Unknown arguments ['beams'].")):
        list(translator.translate_stream([], beams=3))
    with pytest.raises(ValueError, match="`longest_seconds` must be at least twice"):
        list(translator.translate_stream([], {"longest_seconds": 1.0}))
