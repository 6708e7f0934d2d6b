"""`flallm translate` reads, encodes and writes at the same time, in batches of similar length."""

import itertools
import random
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from tiny_corpus import corpus, trained_model

from modeling_flallm import SignLanguageTranslationPipeline
from train_scripts.commands import translate
from train_scripts.machine.process_pool import most_workers
from train_scripts.runs import video_translation
from train_scripts.runs.trained_models import load_trained
from train_scripts.runs.translation_results import Translation

LONGEST_WAIT_IN_SECONDS = 60


def test_results_come_in_order_and_only_so_many_are_ahead():
    most = random.randint(1, 5)
    begun, ahead = itertools.count(), []

    def work(number: int) -> int:
        next(begun)
        time.sleep(random.random() / 1000)
        return number

    with ThreadPoolExecutor(3) as pool:
        for taken, number in enumerate(video_translation._ahead(pool, work, range(30), most), 1):
            assert number == taken - 1
            ahead.append(begun.__reduce__()[1][0] - taken)
    assert taken == 30 and max(ahead) <= most


def test_what_nobody_asks_for_any_more_is_not_done():
    done = []
    with ThreadPoolExecutor(1) as pool:
        results = video_translation._ahead(pool, lambda number: done.append(number) or time.sleep(0.01), range(100), 20)
        next(results)
        results.close()
    assert len(done) < 100


@pytest.fixture
def clips(tmp_path) -> list[Path]:
    """Twenty clips of random lengths, with a bad file among them."""
    sources = sorted((corpus() / "test").glob("*.mp4"))
    paths = [Path(shutil.copy(random.choice(sources), tmp_path / f"{number:02d}.mp4")) for number in range(20)]
    paths[7].write_text("no video", encoding="utf-8")
    return paths


def run(clips: list[Path], **options) -> list[Translation]:
    return list(video_translation.translate_videos(*load_trained(str(trained_model())), clips, **options))


def test_every_clip_gets_its_own_translation_whatever_the_batches_and_threads(clips):
    model, processor = load_trained(str(trained_model()))
    translations = run(clips, batch_size=3, num_workers=4)
    assert sorted(translation.position for translation in translations) == list(range(20))
    for translation in translations:
        path = clips[translation.position]
        assert translation.file == str(path)
        if path == clips[7]:
            assert translation.text == "" and "is not a video that can be read" in translation.error
            continue
        sentence = processor.batch_decode(model.generate(**processor(videos=str(path), return_tensors="pt")))[0]
        assert (translation.text, translation.error) == (sentence, "")


def test_batches_hold_clips_of_similar_length(clips, monkeypatch):
    lengths = []
    encode = SignLanguageTranslationPipeline.encode_clips

    def encode_and_count(self, clips, **more):
        lengths.append([len(clip["frames"]) for clip in clips])
        return encode(self, clips, **more)

    monkeypatch.setattr(SignLanguageTranslationPipeline, "encode_clips", encode_and_count)
    run(clips, batch_size=3)
    assert [len(batch) for batch in lengths] == [3, 3, 3, 2, 3, 3, 2]  # 12 of 20 clips, one of them bad, then 8
    for together in (lengths[:4], lengths[4:]):
        flat = list(itertools.chain(*together))
        assert flat == sorted(flat)


def test_the_next_batch_is_encoded_and_others_are_read_while_sentences_are_written(clips, monkeypatch):
    encode, read, write = (
        SignLanguageTranslationPipeline.encode_clips,
        video_translation._read_clip,
        video_translation._write,
    )
    encoded, all_read, writing = threading.Event(), threading.Event(), []
    num_encoded, num_read = itertools.count(1), itertools.count(1)

    def encode_and_tell(*arguments, **named):
        output = encode(*arguments, **named)
        if next(num_encoded) == 2:
            encoded.set()
        return output

    def read_and_tell(*arguments):
        clip = read(*arguments)
        if next(num_read) == 11:  # behind the two batches
            all_read.set()
        return clip

    def wait_and_write(*arguments):
        if not writing:
            writing.append((encoded.wait(LONGEST_WAIT_IN_SECONDS), all_read.wait(LONGEST_WAIT_IN_SECONDS)))
        return write(*arguments)

    monkeypatch.setattr(SignLanguageTranslationPipeline, "encode_clips", encode_and_tell)
    monkeypatch.setattr(video_translation, "_read_clip", read_and_tell)
    monkeypatch.setattr(video_translation, "_write", wait_and_write)
    run(clips, batch_size=2)
    assert writing == [(True, True)]


def test_little_is_read_ahead_of_the_model(clips, monkeypatch):
    """Frames of a whole folder would not fit the memory."""
    read, num_read = video_translation._read_clip, itertools.count()
    monkeypatch.setattr(video_translation, "_read_clip", lambda *a: (next(num_read), read(*a))[1])
    model, processor = load_trained(str(trained_model()))
    stream = video_translation.translate_videos(model, processor, clips * 3, batch_size=1, num_workers=2)
    next(stream)
    stream.close()
    # A sorted group in batches, and as many and one for each thread ahead of it: never the sixty.
    assert next(num_read) <= 2 * video_translation.BATCHES_SORTED_BY_LENGTH + 2 + 1


def test_no_thread_is_left_and_nothing_more_is_read_after_ctrl_c(clips, monkeypatch):
    read, num_read, threads = video_translation._read_clip, itertools.count(), set(threading.enumerate())
    monkeypatch.setattr(video_translation, "_read_clip", lambda *a: (next(num_read), read(*a))[1])

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(video_translation, "_write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(clips * 5, batch_size=2)
    assert set(threading.enumerate()) <= threads and next(num_read) < 100


def test_computing_in_bfloat16_gives_a_sentence_for_each_clip(capsys):
    paths = [str(path) for path in sorted((corpus() / "test").glob("*.mp4"))[:2]]
    argv = ["--model", str(trained_model()), "--device", "cpu", "--dtype", "bfloat16", *paths]
    assert translate.main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == paths and all(line.split("\t")[1] for line in lines)


def test_frames_of_another_dtype_do_not_matter_to_the_numbers():
    """Normalising before the encoder gives the same as the processor."""
    model, processor = load_trained(str(trained_model()))
    path = sorted((corpus() / "test").glob("*.mp4"))[0]
    translator = video_translation.build_translator(model, processor)
    clip = translator.read_clip(path)
    assert clip["frames"].dtype == torch.uint8
    output = translator.encode_clips([clip]).vision_output
    whole = processor(videos=str(path), return_tensors="pt")
    with torch.no_grad():
        expected = model.vision_model(whole["pixel_values_videos"], whole["pixel_attention_mask"])
    torch.testing.assert_close(output.last_hidden_state, expected.last_hidden_state)
    assert torch.equal(output.attention_mask, expected.attention_mask)


@pytest.mark.parametrize("name", ["batch_size", "num_beams", "num_workers"])
def test_numbers_below_one_are_refused(name, capsys):
    with pytest.raises(SystemExit):
        translate.main(["--model", "m", f"--{name}", "0", "clip.mp4"])
    allowed = {"num_beams": "from 1 to 100", "num_workers": f"from 1 to {most_workers()}"}.get(name, "1 or more")
    assert capsys.readouterr().err == f"error: --{name} must be {allowed}, got 0.\n"
