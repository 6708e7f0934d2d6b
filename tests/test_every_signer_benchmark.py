"""Who is understood: the other generator, and the page from its figures."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmark_modules import load_benchmark, read_page

from processing import decode_video
from train_scripts.clips.clip_folders import read_metadata

benchmark = load_benchmark("every_signer")
other_signing = load_benchmark("other_signing")
SIZES = {"num_train_clips": 7, "num_dev_clips": 2, "num_test_clips": 5, "num_text_only_sentences": 30}


@pytest.fixture(scope="module")
def other_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other") / "corpus"
    return other_signing.make_other_corpus(other_signing.OtherCorpusArguments(str(folder), **SIZES))


def test_the_other_corpus_has_unseen_signers_of_both_hands_and_no_sentence_twice(other_corpus: Path):
    rows = {split: read_metadata(other_corpus / split, "text") for split in ("train", "dev", "test")}
    assert {split: len(each) for split, each in rows.items()} == {"train": 7, "dev": 2, "test": 5}
    assert {row["handedness"] for row in rows["train"]} == {"right"}
    hand_of = {row["signer"]: row["handedness"] for row in rows["test"]}
    assert hand_of["unseen_left"] == "left" and hand_of["unseen_right"] == "right"
    assert len(hand_of.keys() - {row["signer"] for row in rows["train"]}) == 2
    texts = [row["text"] for each in rows.values() for row in each]
    texts += (other_corpus / "text_only.txt").read_text(encoding="utf-8").splitlines()
    assert len(texts) == len(set(texts)) == 7 + 2 + 5 + 30
    clip = decode_video(other_corpus / "test" / rows["test"][0]["file_name"]).frames
    assert clip.shape[1:] == (3, 80, 80) and len(clip) > 40


def random_task(is_busy: bool = False) -> "other_signing.Task":
    generator = np.random.default_rng(random.randrange(2**31))
    lexicon = other_signing.draw_lexicon(generator)
    words, _ = other_signing.draw_sentence(generator)
    signer = other_signing.draw_signer("someone", False, generator)
    return other_signing.Task(Path("clip.mp4"), tuple(map(lexicon.get, words)), signer, (1, 2), is_busy)


def test_a_left_handed_signer_is_the_mirror_image_of_a_right_handed_one():
    task = random_task()
    left = other_signing.render(replace(task, signer=replace(task.signer, is_left_handed=True)))
    np.testing.assert_array_equal(left[:, :, ::-1], other_signing.render(task))


def test_in_a_busy_corpus_something_crosses_the_room():
    task = random_task()
    signer = replace(task.signer, wall=(200, 200, 200), other_colour=(0, 0, 0), pattern="plain", light=1.0)
    still, busy = (other_signing.render(replace(task, signer=signer, is_busy=is_busy)) for is_busy in (False, True))
    darker = (still.astype(int) - busy)[:, :20].mean(axis=(1, 3)) > 20  # of each frame and column
    assert not (still.astype(int) - busy)[:, 40:].any(), "only the upper third changes"
    places = [columns.nonzero()[0].mean() for columns in darker[:30] if columns.any()]
    assert len(places) > 20 and places[-1] > places[0] + 15


def test_every_sign_has_its_own_place_and_movement():
    lexicon = other_signing.draw_lexicon(np.random.default_rng(random.randrange(2**31)))
    assert len(lexicon) == len(set(other_signing.LEXICON)) == 45
    assert len({(sign.location, sign.movement) for sign in lexicon.values()}) == 45


def test_report_shows_the_worst_signer_of_each_seed():
    def run_of(*scores: float) -> dict:
        names = ("ann", "bo")
        signers = {
            name: {"bleu4": score, "handedness": "left" if name == "ann" else "right", "is_seen": name == "bo"}
            for name, score in zip(names, scores, strict=True)
        }
        return {"bleu4": sum(scores) / 2, "signers": signers, "processor_seconds": 90.0}

    seeds = {"0": {"own": run_of(90.0, 80.5)}, "3": {"own": run_of(70.25, 95.0), "other": run_of(50.0, 60.0)}}
    text = benchmark.format_report({"machine": "a CPU", "sizes": {"stage1_epochs": 1}, "seeds": seeds})
    assert "| 0 | 85.25 | bo (seen in training) 80.50 | ann (left-handed) 90.00 | 1.5 |" in text
    assert "| 3 | 82.62 | ann (left-handed) 70.25 | bo (seen in training) 95.00 | 1.5 |" in text
    assert "Mean of all seeds 83.94, worst signer of all seeds 70.25." in text
    assert "**Another generator**" in text and "moves behind" not in text
    seeds["0"]["whole frames"] = run_of(7.0, 6.0)
    text = benchmark.format_report({"machine": "a CPU", "sizes": {"stage1_epochs": 1}, "seeds": seeds})
    assert "| whole frames | 6.50 | bo (seen in training) 6.00 | ann (left-handed) 7.00 | 1.5 |" in text


def test_page_is_what_its_figures_say():
    block, figures = read_page(benchmark)
    assert block == benchmark.format_report(figures)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="--corpora takes own, other, busy, got hidden."):
        benchmark.BenchmarkArguments(corpora=["hidden"])
    with pytest.raises(ValueError, match="--variants takes as it is, whole frames, .*, got luck."):
        benchmark.BenchmarkArguments(variants=["luck"])
