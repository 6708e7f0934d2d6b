"""Descriptions of rendered signers: true, varied, without a word of the sentences, and as the corpus writes them."""

import ast
import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from random_inputs import random_generator

from modeling_flallm.own_processing import read_poses
from train_scripts.commands.generate_corpus import SPLITS, CorpusArguments, generate_corpus
from train_scripts.rendered_corpus import rendered_descriptions
from train_scripts.rendered_corpus.rendered_descriptions import (
    CURVE_PHRASES,
    DIRECTION_PHRASES,
    LEVEL_PHRASES,
    OPENNESS_PHRASES,
    SHAPE_PHRASES,
    STILL_PHRASES,
    Description,
    describe_clip,
)
from train_scripts.rendered_corpus.rendered_poses import FACE, LEFT_HAND, RIGHT_HAND, Skeleton, pose_clip
from train_scripts.rendered_corpus.signers import Signer, create_signer
from train_scripts.rendered_corpus.signing_language import LEXICON, SentenceSampler, translate
from train_scripts.rendered_corpus.signing_renderer import find_signs

RESOLUTION = 256
FACTS_OF_CLIPS = 40
CORPUS_SIZES = {
    "num_train_clips": 8,
    "num_dev_clips": 3,
    "num_test_clips": 3,
    "num_text_only_sentences": 10,
    "num_workers": 1,
    "poses": True,
    "resolution": 32,
}


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def draw_signer(seed: int) -> Signer:
    """A signer before cameras that are level: heights in the picture are those of the body."""
    generator = np.random.default_rng(seed)
    signer = create_signer("signer", generator.random(), bool(seed % 2), generator)
    return replace(signer, recordings=tuple(replace(recording, roll=0.0) for recording in signer.recordings))


def draw_sentences(seed: int, count: int) -> list[tuple[str, ...]]:
    return SentenceSampler(LEXICON, np.random.default_rng(seed)).draw_distinct(count)


def describe(glosses: tuple[str, ...], signer: Signer, seed: int, wording_seed: int) -> list[Description]:
    return describe_clip(glosses, signer, RESOLUTION, np.random.default_rng(seed), np.random.default_rng(wording_seed))


# What it must not say


def test_no_word_of_any_sentence_or_gloss_is_in_the_phrases():
    """All strings of the module, but for its docstrings: nothing else can be in a description."""
    tree = ast.parse(Path(rendered_descriptions.__file__).read_text(encoding="utf-8"))
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and isinstance(node.body[0], ast.Expr)
    }
    strings = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    phrases = set().union(*(words_of(node.value) for node in strings if id(node) not in docstrings))
    of_signs = " ".join(f"{sign.gloss} {sign.word} {sign.past} {sign.preposition}" for sign in LEXICON)
    sentences = " ".join(translate(glosses) for glosses in draw_sentences(0, 3000))
    forbidden = words_of(f"{of_signs} {sentences} a an")
    assert len(forbidden) > 50 and {"the", "will", "did", "can", "near", "sold"} <= forbidden
    assert len(phrases) > 80 and not phrases & forbidden


def test_no_word_of_any_sentence_or_gloss_is_in_the_descriptions(seed: int):
    described = set()
    for number, glosses in enumerate(draw_sentences(seed, 60)):
        for description in describe(glosses, draw_signer(number), seed, number):
            described |= words_of(description.text)
    of_signs = " ".join(f"{sign.gloss} {sign.word} {sign.past} {sign.preposition}" for sign in LEXICON)
    sentences = " ".join(translate(glosses) for glosses in draw_sentences(seed, 3000))
    assert not described & words_of(f"{of_signs} {sentences} a an")


# What is true


class Shown:
    """What the keypoints of a clip without a detector's errors say; `left` and `right` are the signer's."""

    def __init__(self, glosses: tuple[str, ...], signer: Signer, seed: int):
        self.keypoints, _ = pose_clip(glosses, signer, RESOLUTION, np.random.default_rng(seed))
        self.skeleton = Skeleton(glosses, signer, RESOLUTION, np.random.default_rng(seed))
        self.size = self.skeleton.units[LEFT_HAND.start]  # of a hand, in pixels
        self.shoulders = self.keypoints[0, [5, 6]]

    def hand(self, side: str, frames: slice) -> np.ndarray:
        """The 21 points also where they are outside of the picture."""
        return self.skeleton.keypoints[frames, LEFT_HAND if side == "left" else RIGHT_HAND]

    def palm(self, side: str, frames: slice) -> np.ndarray:
        """The wrist, and a third of the hand's size from it towards the knuckles of the folded fist."""
        picture = self.skeleton.figure.palm_centres * self.skeleton.pixels_per_canvas_pixel
        is_left_handed = self.skeleton.signer.is_left_handed
        if is_left_handed:
            picture = picture * [-1, 1] + [RESOLUTION, 0]
        return picture[frames, 0 if (side == "left") == is_left_handed else 1]

    def openness(self, side: str, frames: slice) -> np.ndarray:
        tips = self.hand(side, frames)[:, 4::4]
        return np.linalg.norm(tips - self.palm(side, frames)[:, None], axis=-1).mean(axis=1) / self.size


def clauses_of(text: str) -> dict[str, str]:
    """The clause about each hand."""
    clauses = text.lower().rstrip(".").split("; ")
    found = {}
    for clause in clauses:
        hands = [side for side in ("left", "right") if clause.startswith(f"{side} hand")]
        if clause.startswith(("both hands", "two mirrored hands")) and "lifted" not in clause:
            hands = ["left", "right"]
        found |= dict.fromkeys(hands, clause)
    return found


@pytest.fixture(scope="module")
def shown() -> list[tuple[Shown, Description]]:
    seed = int(random_generator().integers(2**31))
    print(f"seed of the descriptions: {seed}")
    pairs = []
    for number, glosses in enumerate(draw_sentences(seed, FACTS_OF_CLIPS)):
        signer = draw_signer(seed + number)
        clip = Shown(glosses, signer, number)
        pairs += [(clip, description) for description in describe(glosses, signer, number, seed + number)]
    return pairs


def test_descriptions_follow_each_other_and_cover_the_clip(seed: int):
    (glosses,) = draw_sentences(seed, 1)
    signer = draw_signer(seed)
    descriptions = describe(glosses, signer, seed, seed)
    num_frames = len(Shown(glosses, signer, seed).keypoints)
    ends = [description.end for description in descriptions]
    assert [description.start for description in descriptions] == [0, *ends[:-1]] and ends[-1] == num_frames
    assert {description.end - description.start for description in descriptions[:-1]} == {4}


def test_each_hand_is_described_once_and_rests_where_it_says_so(shown: list[tuple[Shown, Description]]):
    for clip, description in shown:
        clauses, frames = clauses_of(description.text), slice(description.start, description.end)
        assert set(clauses) == {"left", "right"}, description.text
        for side, clause in clauses.items():
            away = np.linalg.norm(clip.palm(side, frames) - clip.palm(side, slice(0, 1)), axis=-1)
            if not 0.005 < away.max() / RESOLUTION < 0.02:
                assert ("resting" in clause) == (away.max() < 0.01 * RESOLUTION), description.text


def test_the_number_of_raised_hands_is_true(shown: list[tuple[Shown, Description]]):
    counted = 0
    for clip, description in shown:
        match = re.search(r"; (one|only one|two|both) hands? (?:raised|lifted)", description.text)
        if match:
            counted += 1
            middle = (description.start + description.end) // 2
            heights = [clip.palm(side, slice(middle, middle + 1))[0, 1] for side in ("left", "right")]
            at_rest = clip.palm("left", slice(0, 1))[0, 1]
            number = 2 if match[1] in ("two", "both") else 1
            sizes = [sum(height < at_rest - share * RESOLUTION for height in heights) for share in (0.04, 0.06)]
            assert sizes[0] >= number >= sizes[1], description.text
    assert counted > FACTS_OF_CLIPS / 2


def levels_of(clip: Shown) -> dict[str, tuple[float, float]]:
    """The heights, in pixels from the top, between which each part of the body is."""
    face = clip.keypoints[0, FACE, 1]
    chin, eyes = face[8], face[36:48].mean()
    shoulder, margin = clip.shoulders[0, 1], 0.02 * RESOLUTION
    radius = clip.skeleton.units[FACE.start] / 2
    bounds = {
        "crown": (-np.inf, eyes - 0.9 * radius),
        "forehead": (eyes - 1.4 * radius, eyes),
        "face": (eyes - 0.3 * radius, chin),
        "chin": (chin - 0.6 * radius, shoulder),
        "collar": (chin, shoulder + 0.1 * RESOLUTION),
        "chest": (shoulder + 0.05 * RESOLUTION, shoulder + 0.28 * RESOLUTION),
        "belly": (shoulder + 0.2 * RESOLUTION, shoulder + 0.43 * RESOLUTION),
        "hips": (shoulder + 0.37 * RESOLUTION, np.inf),
    }
    return {level: (low - margin, high + margin) for level, (low, high) in bounds.items()}


def test_heights_beside_the_body_are_true(shown: list[tuple[Shown, Description]]):
    names = {phrase: level for level, phrases in LEVEL_PHRASES.items() for phrase in phrases}
    either = "|".join(names)
    found = set()
    for clip, description in shown:
        middle = (description.start + description.end) // 2
        for side, clause in clauses_of(description.text).items():
            journey = re.search(rf"(?:travelling|passing) from ({either})(?: over)? to ({either})", clause)
            place = re.search(rf"(?:before|close to|beside|level with|sides of) ({either})", clause)
            moments = {}
            if journey:
                moments = {description.start: journey[1], description.end - 1: journey[2]}
            elif place:
                moments = {middle: place[1]}
            assert moments or "resting" in clause, description.text
            for frame, name in moments.items():
                low, high = levels_of(clip)[names[name]]
                assert low < clip.palm(side, slice(frame, frame + 1))[0, 1] < high, description.text
                found.add(names[name])
    assert found == set(LEVEL_PHRASES)


def test_sides_of_the_body_are_the_signers(shown: list[tuple[Shown, Description]]):
    found = set()
    for clip, description in shown:
        middle = (description.start + description.end) // 2
        centre = clip.shoulders[:, 0].mean()
        for side, clause in clauses_of(description.text).items():
            x = clip.palm(side, slice(middle, middle + 1))[0, 0] - centre
            own = x if side == "left" else -x  # the signer's left is on the right of the picture
            if re.search("out beside|own side|to both sides|apart, level", clause):
                assert own > 0.08 * RESOLUTION, description.text
                found.add((side, "own"))
            if re.search("across body|opposite side", clause):
                assert own < -0.03 * RESOLUTION, description.text
                found.add((side, "other"))
    assert found == {(side, where) for side in ("left", "right") for where in ("own", "other")}


def test_movements_are_true(shown: list[tuple[Shown, Description]]):
    verbs = {phrase.split(" {")[0] for phrase in (*DIRECTION_PHRASES, *CURVE_PHRASES)}
    found = set()
    for clip, description in shown:
        frames = slice(description.start, description.end)
        for side, clause in clauses_of(description.text).items():
            path = clip.palm(side, frames)
            across, down = path[-1] - path[0]
            if any(phrase in clause for phrase in STILL_PHRASES):
                assert np.ptp(path, axis=0).max() < 0.013 * RESOLUTION, description.text
                found.add("still")
            moving = re.search(rf"(?:{'|'.join(verbs)}) ((?:up|down|to left|to right|apart|together| and )+)", clause)
            if not moving:
                continue
            outward = across if side == "left" else -across
            signs = {
                "up": -down,
                "down": down,
                "to left": across,
                "to right": -across,
                "apart": outward,
                "together": -outward,
            }
            for direction in moving[1].split(" and "):
                assert signs[direction] > 0, (direction, description.text)
                found.add(direction)
    assert found == {"still", "up", "down", "to left", "to right", "apart", "together"}


def test_fingers_open_and_close_as_described(shown: list[tuple[Shown, Description]]):
    found = set()
    for clip, description in shown:
        frames = slice(description.start, description.end)
        for side, clause in clauses_of(description.text).items():
            openness = clip.openness(side, frames)
            change = openness[-1] - openness[0]
            opening, closing = (
                any(f", {phrase}," in f"{clause}," for phrase in OPENNESS_PHRASES[name])
                for name in ("opening", "closing")
            )
            if "resting" in clause:
                assert abs(change) < 0.06
            elif abs(change - 0.1) > 0.02 and abs(change + 0.1) > 0.02:
                assert (opening, closing) == (change > 0.1, change < -0.1), description.text
            found |= {opening - closing}
    assert found == {-1, 0, 1}


def test_fingers_point_as_described(shown: list[tuple[Shown, Description]]):
    found = set()
    for clip, description in shown:
        middle = (description.start + description.end) // 2
        for side, clause in clauses_of(description.text).items():
            wrist = clip.hand(side, slice(middle, middle + 1))[0, 0]
            across, down = clip.palm(side, slice(middle, middle + 1))[0] - wrist
            length = np.hypot(across, down)
            inward = -across if side == "left" else across
            if re.search("upward", clause):
                assert -down > 0.8 * length, description.text
                found.add("up")
            if re.search("towards", clause):
                assert inward > 0.3 * length, description.text
                other = "right" if side == "left" else "left"
                assert f"towards {other}" in clause or "towards each other" in clause, description.text
                found.add("sideways")
            if re.search("downward|drooping", clause):
                assert down > 0, description.text
                found.add("down")
    assert found == {"up", "sideways", "down"}


@pytest.mark.parametrize("sign", LEXICON, ids=lambda sign: sign.gloss)
def test_the_hand_of_each_sign_is_named(sign, seed: int):
    """While the sign is performed; the hand of a sign that opens or closes is a fist before or behind."""
    signer = draw_signer(seed)
    (place,) = find_signs([sign.gloss], signer, RESOLUTION, np.random.default_rng(seed))
    inside = [
        description
        for description in describe((sign.gloss,), signer, seed, seed)
        if place.start <= description.start and description.end <= place.stop
    ]
    dominant, other = ("left", "right") if signer.is_left_handed else ("right", "left")
    names = {sign.handshape, "fist"} if sign.movement in ("open", "close") else {sign.handshape}
    assert inside
    for description in inside:
        clauses = clauses_of(description.text)
        assert any(phrase.lower() in clauses[dominant] for name in names for phrase in SHAPE_PHRASES[name])
        assert ("resting" in clauses[other]) == (sign.hands == "one")
        assert (clauses[other] == clauses[dominant]) == (sign.hands == "both")
        if sign.hands == "base":
            assert any(phrase in clauses[other] for phrase in SHAPE_PHRASES["flat"])


def test_a_left_handed_signer_is_described_with_left_and_right_swapped(seed: int):
    (glosses,) = draw_sentences(seed, 1)
    signer = draw_signer(seed)
    swapped = {"left": "right", "right": "left"}
    ours, theirs = (
        [description.text.lower() for description in describe(glosses, each, seed, seed)]
        for each in (signer, replace(signer, is_left_handed=not signer.is_left_handed))
    )
    assert theirs == [re.sub("left|right", lambda match: swapped[match[0]], text) for text in ours]


def test_wording_varies_with_its_seed_alone(seed: int):
    (glosses,) = draw_sentences(seed, 1)
    signer = draw_signer(seed)
    texts = [[each.text for each in describe(glosses, signer, seed, number)] for number in (seed, seed, seed + 1)]
    assert texts[0] == texts[1] and texts[0] != texts[2]
    assert len(set(texts[0])) > 0.8 * len(texts[0])


# The corpus


def read_descriptions(corpus: Path, split: str) -> list[list[dict]]:
    with open(corpus / split / "metadata.csv", encoding="utf-8", newline="") as file:
        return [json.loads(row["descriptions"]) for row in csv.DictReader(file)]


def generate(folder: Path, **options) -> Path:
    return generate_corpus(CorpusArguments(str(folder), **CORPUS_SIZES, **options))


@pytest.fixture(scope="module")
def described_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("corpora") / "described", descriptions=True)


def test_all_else_of_a_corpus_is_the_same_with_and_without_descriptions(described_corpus: Path, tmp_path: Path):
    plain = generate(tmp_path / "plain")
    files = sorted(path.relative_to(plain) for path in plain.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(described_corpus) for path in described_corpus.rglob("*") if path.is_file())
    for file in files:
        ours, theirs = (folder / file for folder in (plain, described_corpus))
        if file.suffix == ".csv":
            with open(ours, encoding="utf-8", newline="") as one, open(theirs, encoding="utf-8", newline="") as other:
                rows, described = list(csv.DictReader(one)), list(csv.DictReader(other))
            assert list(described[0]) == [*rows[0], "descriptions"]
            assert rows == [{name: row[name] for name in rows[0]} for row in described]
        elif file.name == "README.md":
            assert "descriptions" not in ours.read_text()
            assert "`descriptions` says what hands and body do, for each 4 frames, as JSON" in theirs.read_text()
            assert "- `missing_descriptions`: 0.0\n" in theirs.read_text()
        elif file.suffix == ".safetensors":
            for name in ("keypoints", "scores"):
                np.testing.assert_array_equal(*(getattr(read_poses(path), name) for path in (ours, theirs)))
        else:
            assert ours.read_bytes() == theirs.read_bytes()


def test_descriptions_may_be_left_out_or_wrong(described_corpus: Path, tmp_path: Path):
    options = {"descriptions": True, "missing_descriptions": 0.25, "wrong_descriptions": 0.5}
    faulty = generate(tmp_path / "faulty", **options)
    for split in SPLITS:
        true = {
            (clip, each["start"]): each
            for clip, row in enumerate(read_descriptions(described_corpus, split))
            for each in row
        }
        kept = {
            (clip, each["start"]): each for clip, row in enumerate(read_descriptions(faulty, split)) for each in row
        }
        wrong = [place for place, each in kept.items() if each["text"] != true[place]["text"]]
        assert len(true) - len(kept) == round(0.25 * len(true)) and len(wrong) == round(0.5 * len(true))
        assert {each["text"] for each in kept.values()} <= {each["text"] for each in true.values()}
        assert all(each["end"] == true[place]["end"] for place, each in kept.items())
    assert "25% of them are left out, and 50% have the text of others" in (faulty / "README.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"descriptions": True, "missing_descriptions": 1.5},
            "`missing_descriptions` must be from 0 to 1, got 1.5.",
        ),
        (
            {"descriptions": True, "wrong_descriptions": float("nan")},
            "`wrong_descriptions` must be from 0 to 1, got nan.",
        ),
        (
            {"descriptions": True, "missing_descriptions": 0.5, "wrong_descriptions": 0.75},
            "missing_descriptions + wrong_descriptions must be at most 1, as both are shares of all descriptions, "
            "got 0.5 + 0.75.",
        ),
        ({"wrong_descriptions": 0.5}, "`wrong_descriptions` 0.5 needs `descriptions` True."),
    ],
)
def test_impossible_shares_are_refused(options: dict, message: str, tmp_path: Path):
    with pytest.raises(ValueError, match=re.escape(message)):
        generate(tmp_path / "corpus", **options)
    assert not list(tmp_path.iterdir())
