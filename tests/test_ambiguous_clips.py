"""Ambiguous clips of the embedded corpus: signs that stand for two words, the right readings, and their scores."""

import csv
import itertools
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from modeling_flallm.own_processing import read_poses
from train_scripts.commands.generate_corpus import SPLITS, CorpusArguments, _draw_sentences, generate_corpus
from train_scripts.rendered_corpus.ambiguous_clips import list_readings, sign_ambiguously
from train_scripts.rendered_corpus.rendered_poses import pose_clip
from train_scripts.rendered_corpus.signers import create_signer
from train_scripts.rendered_corpus.signing_language import (
    HOMONYMS,
    HOMONYMS_BY_GLOSS,
    LEXICON,
    MIN_NUM_SIGNS,
    SIGNS_BY_GLOSS,
    SentenceSampler,
    select_signs,
    translate,
)
from train_scripts.rendered_corpus.signing_renderer import render_clip
from train_scripts.scores.readings import score_readings

SIZES = {
    "num_train_clips": 20,
    "num_dev_clips": 5,
    "num_test_clips": 10,
    "num_text_only_sentences": 40,
    "resolution": 32,
    "num_workers": 1,
    "poses": True,
    "videos": False,
    "pose_errors": 0.0,
}
SHARE = 0.3


def generate(folder: Path, **options) -> Path:
    return generate_corpus(CorpusArguments(str(folder), **{**SIZES, **options}))


def read_rows(corpus_dir: Path) -> dict[str, dict[str, str]]:
    """The rows of all splits by the name of their clip."""
    rows = {}
    for split in SPLITS:
        with open(corpus_dir / split / "metadata.csv", encoding="utf-8", newline="") as file:
            rows |= {Path(row["poses"]).stem: row for row in csv.DictReader(file)}
    return rows


def keypoints_of(corpus_dir: Path, clip: str) -> np.ndarray:
    return read_poses(corpus_dir / clip.split("_")[0] / "poses" / f"{clip}.safetensors").keypoints


def meant(row: dict[str, str]) -> list[str]:
    return json.loads(row["readings"])


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("plain") / "corpus")


@pytest.fixture(scope="module")
def ambiguous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("ambiguous") / "corpus", ambiguous_clips=SHARE)


# The language


def test_homonyms_stand_for_two_words_of_one_category_and_have_forms_of_their_own():
    assert len(HOMONYMS) == len(HOMONYMS_BY_GLOSS) and not HOMONYMS_BY_GLOSS.keys() & SIGNS_BY_GLOSS.keys()
    meanings = [meaning for homonym in HOMONYMS for meaning in homonym.meanings]
    assert len(set(meanings)) == len(meanings) == 2 * len(HOMONYMS)
    for homonym in HOMONYMS:
        assert {SIGNS_BY_GLOSS[meaning].category for meaning in homonym.meanings} == {homonym.category}
    forms = [(sign.handshape, sign.place, sign.movement, sign.hands) for sign in (*LEXICON, *HOMONYMS)]
    assert len(set(forms)) == len(forms)


def test_homonyms_look_like_no_other_sign(seed: int):
    generator = np.random.default_rng(seed)
    signer = replace(create_signer("signer", generator.random(), False, generator), speed=1.0)
    middles = {}
    for sign in (*LEXICON, *HOMONYMS):
        frames = render_clip((sign.gloss,), signer, 48, np.random.default_rng(0)).astype(float)
        middles[sign.gloss] = frames[(np.linspace(0.3, 0.7, 5) * len(frames)).astype(int)]
    for first, second in itertools.product(HOMONYMS_BY_GLOSS, middles):
        if first != second:
            difference = np.abs(middles[first] - middles[second])
            in_hand_region = difference[difference.max(axis=-1) > 16]
            assert len(in_hand_region) > 5 * 20 and in_hand_region.mean() > 20, f"{first} and {second} look alike"


def test_both_readings_are_signed_the_same_and_differ_in_one_word(seed: int):
    generator = np.random.default_rng(seed)
    signer = create_signer("signer", generator.random(), bool(seed % 2), generator)
    sentences = SentenceSampler(LEXICON, generator).draw_distinct(300)
    num_ambiguous = 0
    for glosses in sentences:
        for signed in sign_ambiguously(glosses, LEXICON):
            readings = list_readings(signed)
            assert len(readings) == 2 and glosses in readings
            assert all(signed in sign_ambiguously(reading, LEXICON) for reading in readings)
            words = [translate(reading).replace(" an ", " a ").split() for reading in readings]
            assert len(words[0]) == len(words[1]) and sum(a != b for a, b in zip(*words, strict=True)) == 1
            num_ambiguous += 1
    assert num_ambiguous > 200
    clips = [
        (
            render_clip(way, signer, 32, np.random.default_rng(seed)),
            pose_clip(way, signer, 32, np.random.default_rng(seed)),
        )
        for reading in list_readings(("FATHER", "APPLE/BOOK", "SEE"))
        for way in sign_ambiguously(reading, LEXICON)
    ]
    (frames, poses), (other_frames, other_poses) = clips
    np.testing.assert_array_equal(frames, other_frames)
    np.testing.assert_array_equal(poses[0], other_poses[0])


@pytest.mark.parametrize(
    ("glosses", "num_signs", "signed"),
    [
        ("FATHER HAT SEE", len(LEXICON), []),
        ("FATHER APPLE SEE", MIN_NUM_SIGNS, ["FATHER APPLE/BOOK SEE"]),
        ("MOTHER HAT SEE", MIN_NUM_SIGNS, []),  # "farmer" is not in the small vocabulary
        ("TEACHER APPLE SEE", len(LEXICON), ["TEACHER/DOCTOR APPLE SEE", "TEACHER APPLE/BOOK SEE"]),
        ("IF TEACHER HAT SEE DOCTOR CHAIR WASH", len(LEXICON), []),  # both meanings are in it
        ("IF TEACHER HAT SEE FATHER CHAIR WASH", len(LEXICON), ["IF TEACHER/DOCTOR HAT SEE FATHER CHAIR WASH"]),
    ],
)
def test_what_can_be_signed_ambiguously(glosses: str, num_signs: int, signed: list[str]):
    assert sign_ambiguously(glosses.split(), select_signs(num_signs)) == [tuple(way.split()) for way in signed]


def test_without_a_homonym_there_is_one_reading():
    assert list_readings(("FATHER", "HAT", "SEE")) == [("FATHER", "HAT", "SEE")]


# The corpus


def test_the_share_of_the_clips_of_every_split_is_ambiguous(ambiguous: Path):
    rows = read_rows(ambiguous)
    counts = Counter(clip.split("_")[0] for clip, row in rows.items() if len(meant(row)) == 2)
    assert counts == {"train": 6, "dev": 2, "test": 3}
    for row in rows.values():
        assert row["text"] in meant(row) and len(set(meant(row))) == len(meant(row)) <= 2
        assert (len(meant(row)) == 2) == any(gloss in HOMONYMS_BY_GLOSS for gloss in row["gloss"].split())
        assert meant(row) == [translate(reading) for reading in list_readings(row["gloss"].split())]


def test_all_else_is_as_without_the_flag(plain: Path, ambiguous: Path):
    plain_rows, rows = read_rows(plain), read_rows(ambiguous)
    assert "readings" not in plain_rows["test_00000"] and "ambiguous" not in (plain / "README.md").read_text()
    for clip, row in rows.items():
        is_ambiguous = len(meant(row)) == 2
        del row["readings"]
        without_gloss = {**row, "gloss": plain_rows[clip]["gloss"]}
        assert without_gloss == plain_rows[clip] and (row != plain_rows[clip]) == is_ambiguous
        same = np.array_equal(keypoints_of(plain, clip), keypoints_of(ambiguous, clip))
        assert same != is_ambiguous


def test_the_words_meant_are_equally_frequent_and_no_reading_belongs_to_two_clips(tmp_path: Path):
    """The sentences alone, of a corpus large enough to count; the poses are not written."""
    sizes = {"num_train_clips": 3000, "num_dev_clips": 50, "num_test_clips": 50, "num_signs": len(LEXICON)}
    sentences, signed, text_only = _draw_sentences(CorpusArguments(str(tmp_path), ambiguous_clips=0.5, **sizes))
    readings = [reading for split in SPLITS for glosses in signed[split] for reading in list_readings(glosses)]
    assert len(readings) == len(set(readings)) == 3100 + 1550
    assert len(text_only) == 6000 and not set(text_only) & set(readings)
    pairs = list(zip(sentences["train"], signed["train"], strict=True))
    places = [list_readings(way).index(sentence) for sentence, way in pairs if sentence != way]
    assert len(places) == 1500 and 0.45 < np.mean(places) < 0.55
    used = Counter(gloss for _, way in pairs for gloss in way if gloss in HOMONYMS_BY_GLOSS)
    assert used.keys() == HOMONYMS_BY_GLOSS.keys() and min(used.values()) > 150


def test_a_higher_share_makes_further_clips_ambiguous(ambiguous: Path, tmp_path: Path):
    few, many = read_rows(ambiguous), read_rows(generate(tmp_path / "many", ambiguous_clips=0.6))
    names = [{clip for clip, row in rows.items() if len(meant(row)) == 2} for rows in (few, many)]
    assert names[0] < names[1] and len(names[1]) == 12 + 3 + 6
    assert all(few[clip] == many[clip] for clip in names[0])


def test_a_small_share_makes_at_least_one_clip_of_each_split_ambiguous(tmp_path: Path):
    rows = read_rows(generate(tmp_path / "corpus", ambiguous_clips=0.001))
    assert sorted(clip.split("_")[0] for clip, row in rows.items() if len(meant(row)) == 2) == ["dev", "test", "train"]


def test_the_card_says_what_is_ambiguous(ambiguous: Path):
    card = (ambiguous / "README.md").read_text()
    assert (
        "30% of the clips of each split are ambiguous: one sign, such as TEACHER/DOCTOR, stands for two words" in card
    )
    assert "- `ambiguous_clips`: 0.3\n" in card


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ambiguous_clips": 1.5}, "`ambiguous_clips` must be from 0 to 1, got 1.5."),
        ({"ambiguous_clips": float("nan")}, "`ambiguous_clips` must be from 0 to 1, got nan."),
        (
            {"ambiguous_clips": 1.0, "num_train_clips": 1500, "num_signs": MIN_NUM_SIGNS},
            "`ambiguous_clips` 1.0 needs 1500 sentences of train with a second reading that no other clip has, but ",
        ),
    ],
)
def test_impossible_shares_are_refused_before_anything_is_written(options: dict, message: str, tmp_path: Path):
    with pytest.raises(ValueError, match=re.escape(message)):
        generate(tmp_path / "corpus", **options)
    assert not list(tmp_path.iterdir())


# The scores


def test_scores_of_readings_by_hand():
    scores = score_readings(
        [["a b", "a  b", "c", "d"], ["e"], ["f", "f"], ["g", "h", "x", "y"]],
        [["a b", "c"], ["e"], ["z"], ["g", "h"]],
    )
    assert scores == {
        "ambiguous": {"precision": 100 * 5 / 8, "coverage": 100.0, "num_clips": 2},
        "others": {"precision": 100 / 3, "coverage": 50.0, "num_clips": 2},
    }


def test_one_candidate_covers_half_of_two_readings():
    assert score_readings([["a"]], [["a", "b"]]) == {
        "ambiguous": {"precision": 100.0, "coverage": 50.0, "num_clips": 1}
    }


@pytest.mark.parametrize(
    ("candidates", "readings", "message"),
    [
        ([["a"]], [], "Each clip needs candidates and readings, got 1 and 0."),
        ([["a"], []], [["a"], ["b"]], "needs at least one candidate and one reading, but clip 1 has 0 and 1."),
        ([["a"]], [[]], "needs at least one candidate and one reading, but clip 0 has 1 and 0."),
    ],
)
def test_scores_of_readings_refuse_missing_texts(candidates: list, readings: list, message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        score_readings(candidates, readings)
