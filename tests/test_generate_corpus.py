"""The embedded corpus: its language, its pictures, its folder, and its errors."""

import csv
import itertools
import re
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from datasets import Video, load_dataset
from random_inputs import random_generator

from modeling_flallm.own_processing import read_poses
from train_scripts.commands.generate_corpus import (
    SPLITS,
    CorpusArguments,
    create_signers,
    generate_corpus,
    signer_of_clip,
)
from train_scripts.rendered_corpus.signers import FRAME_RATES, create_signer
from train_scripts.rendered_corpus.signing_language import (
    HAND_USES,
    HANDSHAPES,
    LEXICON,
    MIN_NUM_SIGNS,
    MOVEMENTS,
    PLACES,
    SIGNS_BY_GLOSS,
    SentenceSampler,
    select_signs,
    translate,
)
from train_scripts.rendered_corpus.signing_renderer import encode_mp4, plan_hands, render_clip

SMALL_SIZES = {
    "num_train_clips": 14,
    "num_dev_clips": 6,
    "num_test_clips": 6,
    "num_text_only_sentences": 40,
    "num_training_signers": 4,
    "resolution": 32,
}


def decode(path: Path) -> tuple[np.ndarray, float]:
    """Returns the frames (frames, height, width, 3) and the frames per second of a file."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
        return frames, float(stream.average_rate)


def read_metadata(corpus_dir: Path, split: str) -> list[dict[str, str]]:
    with open(corpus_dir / split / "metadata.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def draw_signer(seed: int, is_left_handed: bool = False):
    random_generator = np.random.default_rng(seed)
    return create_signer("signer", random_generator.random(), is_left_handed, random_generator)


@pytest.fixture(scope="module")
def sentences() -> list[tuple[str, ...]]:
    seed = int(random_generator().integers(2**31))
    print(f"seed of the sentences: {seed}")
    return SentenceSampler(LEXICON, np.random.default_rng(seed)).draw_distinct(3000)


@pytest.fixture(scope="module")
def corpus_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate_corpus(
        CorpusArguments(str(tmp_path_factory.mktemp("corpora") / "corpus"), num_workers=1, **SMALL_SIZES)
    )


# The language


def test_lexicon_has_the_promised_sizes():
    assert len(LEXICON) == len(SIGNS_BY_GLOSS) == 42
    assert len(HANDSHAPES) >= 8 and len(PLACES) >= 7 and len(MOVEMENTS) >= 6
    for attribute, values in (
        ("handshape", HANDSHAPES),
        ("place", PLACES),
        ("movement", MOVEMENTS),
        ("hands", HAND_USES),
    ):
        assert {getattr(sign, attribute) for sign in LEXICON} == set(values)


def test_every_pair_of_signs_differs_and_minimal_pairs_exist():
    attributes = ("handshape", "place", "movement", "hands")
    minimal_pairs = set()
    for first, second in itertools.combinations(LEXICON, 2):
        differences = [name for name in attributes if getattr(first, name) != getattr(second, name)]
        assert differences, f"{first.gloss} and {second.gloss} are the same sign"
        if len(differences) == 1:
            minimal_pairs.update(differences)
    assert minimal_pairs >= {"handshape", "place", "movement"}


@pytest.mark.parametrize(
    ("gloss", "text"),
    [
        (
            "TOMORROW MARKET TEACHER APPLE BUY NOT",
            "tomorrow the teacher will not buy an apple at the market .",
        ),
        ("YESTERDAY FARMER OLD BOAT RED SELL", "yesterday the old farmer sold a red boat ."),
        ("YESTERDAY CHILD HAT FIND NOT", "yesterday the child did not find a hat ."),
        ("SOON RIVER MOTHER HORSE WASH QUESTION", "will the mother wash a horse near the river soon ?"),
        ("YESTERDAY FATHER BOOK OLD SEE WHERE", "where did the father see an old book yesterday ?"),
        ("GARDEN DOCTOR CHAIR CARRY WHY", "why will the doctor carry a chair in the garden ?"),
        (
            "IF FARMER FISH SELL CHILD FLOWER BUY",
            "the child will buy a flower if the farmer can sell a fish .",
        ),
    ],
)
def test_translation_of_each_sentence_pattern(gloss: str, text: str):
    assert translate(gloss.split()) == text


def test_translate_refuses_an_unknown_gloss():
    message = "`glosses` must be glosses of the lexicon, got ['DRAGON']. Choose from ['APPLE', "
    with pytest.raises(ValueError, match=re.escape(message)):
        translate(["TEACHER", "DRAGON", "BUY"])


def test_sentences_have_the_promised_lengths_and_are_unambiguous(sentences: list[tuple[str, ...]]):
    assert {len(glosses) for glosses in sentences} == {4, 5, 6, 7, 8}
    texts = [translate(glosses) for glosses in sentences]
    assert len(set(texts)) == len(sentences) == 3000
    assert all(7 <= len(text.split()) <= 14 and text == text.lower() for text in texts)
    assert {text[-2:] for text in texts} == {" .", " ?"}


def test_spoken_order_differs_from_signed_order(sentences: list[tuple[str, ...]]):
    reordered = 0
    for glosses in sentences:
        words = translate(glosses).split()
        spoken = [{SIGNS_BY_GLOSS[gloss].word, SIGNS_BY_GLOSS[gloss].past} - {""} for gloss in glosses]
        positions = [words.index((candidates & set(words)).pop()) for candidates in spoken if candidates]
        reordered += positions != sorted(positions)
    assert reordered > 0.95 * len(sentences)


def test_more_than_a_hundred_thousand_sentences_are_possible():
    content_choices = [
        sum(sign.category == category for sign in LEXICON)
        for category in ("time", "place", "person", "object", "adjective", "verb")
    ]
    # All of these in one sentence: as a statement, a negation, a question or a why-question.
    assert np.prod(content_choices) * 4 > 100_000


@pytest.mark.parametrize("num_signs", [MIN_NUM_SIGNS, 23, 30, 41])
def test_fewer_signs_still_make_sentences_of_those_signs_only(num_signs: int):
    signs = select_signs(num_signs)
    assert len(signs) == num_signs
    used = {
        gloss for glosses in SentenceSampler(signs, np.random.default_rng(0)).draw_distinct(300) for gloss in glosses
    }
    assert used == {sign.gloss for sign in signs}


# The pictures


def test_frames_have_type_shape_and_follow_from_the_random_generator():
    signer, glosses = draw_signer(1), ("CHILD", "FISH", "SELL", "NOT")
    frames = render_clip(glosses, signer, 48, np.random.default_rng(5))
    assert frames.dtype == np.uint8 and frames.shape[1:] == (48, 48, 3) and 35 < len(frames) < 90
    np.testing.assert_array_equal(frames, render_clip(glosses, signer, 48, np.random.default_rng(5)))
    assert not np.array_equal(frames[10], render_clip(glosses, signer, 48, np.random.default_rng(6))[10])


def test_left_handed_signing_is_the_mirror_image():
    signer, glosses = draw_signer(2), ("TEACHER", "APPLE", "BUY", "NOT")
    right_handed = render_clip(glosses, signer, 64, np.random.default_rng(0))
    left_handed = render_clip(glosses, replace(signer, is_left_handed=True), 64, np.random.default_rng(0))
    np.testing.assert_array_equal(left_handed, right_handed[:, :, ::-1])
    moving = np.abs(np.diff(right_handed.astype(float), axis=0)).sum(axis=(0, 1, 3))
    assert moving[:32].sum() > 1.5 * moving[32:].sum(), "a right hand moves on the viewer's left"


def test_one_and_two_handed_signs_use_the_other_hand_as_they_say():
    def other_hand_path(gloss: str) -> np.ndarray:
        return plan_hands([gloss], draw_signer(3), np.random.default_rng(0))[:, 1, :2]

    assert np.ptp(other_hand_path("MOTHER"), axis=0).max() == 0
    hands = plan_hands(["GARDEN"], draw_signer(3), np.random.default_rng(0))
    np.testing.assert_allclose(hands[:, 1, 0], -hands[:, 0, 0])
    np.testing.assert_allclose(hands[:, 1, 1], hands[:, 0, 1])
    base = other_hand_path("BUY")
    assert np.unique(base, axis=0).shape[0] < len(base) and np.ptp(base, axis=0).max() > 0.1


def test_hands_start_and_end_at_rest_and_glide_from_sign_to_sign():
    hands = plan_hands(("DOCTOR", "HORSE", "RED", "SEE", "WHY"), draw_signer(4), np.random.default_rng(0))
    np.testing.assert_array_equal(hands[0], hands[-1])
    distance_from_rest = np.hypot(*(hands[:, 0, :2] - hands[0, 0, :2]).T)
    away = np.flatnonzero(distance_from_rest > 0.2)
    np.testing.assert_array_equal(away, np.arange(away[0], away[-1] + 1), err_msg="a hand went to rest between signs")
    assert np.abs(np.diff(hands[:, :, :2], axis=0)).max() < 0.16, "a hand jumped"


def test_every_two_signs_look_different_where_the_hands_are():
    signer = replace(draw_signer(5), speed=1.0)
    middles = {}
    for sign in LEXICON:
        frames = render_clip((sign.gloss,), signer, 64, np.random.default_rng(0)).astype(float)
        middles[sign.gloss] = frames[(np.linspace(0.3, 0.7, 5) * len(frames)).astype(int)]
    for first, second in itertools.combinations(middles, 2):
        difference = np.abs(middles[first] - middles[second])
        in_hand_region = difference[difference.max(axis=-1) > 16]
        assert len(in_hand_region) > 5 * 40, f"{first} and {second} look alike"
        assert in_hand_region.mean() > 20, f"{first} and {second} look alike"


def test_skin_stands_out_from_clothing_and_background():
    weights = np.array([0.299, 0.587, 0.114])
    for seed in range(50):
        signer = draw_signer(seed)
        for recording in signer.recordings:
            for colour in (recording.clothing_colour, recording.background_colour):
                assert abs(weights @ np.subtract(signer.skin_colour, colour)) > 55


def sides_of_frames(seed: int, **changes) -> np.ndarray:
    """The upper left and right of each frame, beside the head, in a recording with these values and no noise. The signs
    are made in front of chest and belly."""
    signer = draw_signer(seed)
    recording = replace(signer.recording, noise=0.0, **changes)
    glosses = [sign.gloss for sign in LEXICON if sign.place in ("chest", "belly")][:5]
    frames = render_clip(glosses, replace(signer, recordings=(recording,)), 64, np.random.default_rng(seed))
    return np.concatenate([frames[:, :20, :16], frames[:, :20, -16:]], axis=2).astype(float)


@pytest.mark.parametrize(("moving_thing", "moves"), [(None, False), ("passer-by", True), ("curtain", True)])
def test_only_a_recording_with_something_that_moves_has_a_moving_background(moving_thing: str | None, moves: bool):
    seed = int(random_generator().integers(1000))
    brightest = {"background_colour": (200, 200, 200), "room": "wall"}
    sides = sides_of_frames(seed, moving_thing=moving_thing, roll=0.0, zoom=0.95, **brightest)
    assert (np.ptp(sides, axis=0).max() > 5) == moves


def test_light_shade_and_noise_are_those_of_the_recording():
    still = {"moving_thing": None, "shade": 0.0, "room": "wall", "decoration": (0.0, 0.0, 0.0, 0.0)}
    for factor in (0.8, 1.0):
        sides = sides_of_frames(0, light=(factor,) * 3, **still)
        expected = factor * np.array(draw_signer(0).recording.background_colour)
        np.testing.assert_allclose(sides, np.broadcast_to(expected, sides.shape), atol=1)
    shaded = sides_of_frames(0, light=(1.0,) * 3, **(still | {"shade": 0.3, "shade_direction": 0.0}))
    assert shaded[:, :, :16].mean() > 1.15 * shaded[:, :, 16:].mean()


def test_clips_of_a_signer_come_from_all_of_their_recordings():
    signers = create_signers(CorpusArguments("unused"))
    for split, index, group in (("train", 0, "train"), ("test", 1, "test"), ("dev", 3, "train")):
        step = len(signers[group]) * (2 if split == "dev" else 1)
        clips = [signer_of_clip(split, index + step * turn, signers) for turn in range(4)]
        assert {clip.name for clip in clips} == {clips[0].name}
        assert len({clip.recording for clip in clips}) == 3 and clips[0] == clips[3]


def test_encoding_keeps_size_rate_and_picture(tmp_path: Path):
    frames = render_clip(("BOOK", "BIG"), draw_signer(6), 64, np.random.default_rng(0))
    encode_mp4(frames, tmp_path / "clip.mp4", 10)
    decoded, frames_per_second = decode(tmp_path / "clip.mp4")
    assert decoded.shape == frames.shape and frames_per_second == 10
    assert np.abs(decoded.astype(float) - frames).mean() < 8


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((2, 8, 8, 3)), "`frames` must be a uint8 array (frames, height, width, 3) with at least one frame"),
        (np.zeros((0, 8, 8, 3), np.uint8), "with at least one frame, got uint8 (0, 8, 8, 3)."),
        (np.zeros((2, 8, 7, 3), np.uint8), "`frames` must have an even height and width for yuv420p, got 8x7."),
    ],
)
def test_encoding_refuses_what_is_no_clip(frames: np.ndarray, message: str, tmp_path: Path):
    with pytest.raises(ValueError, match=re.escape(message)):
        encode_mp4(frames, tmp_path / "clip.mp4", 25)
    assert not list(tmp_path.iterdir())


# The corpus


def test_corpus_is_a_video_folder(corpus_dir: Path, tmp_path: Path):
    dataset = load_dataset("videofolder", data_dir=str(corpus_dir), cache_dir=str(tmp_path))
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 14, "validation": 6, "test": 6}
    row = dataset["test"].cast_column("video", Video(decode=False))[0]
    assert set(row) == {"video", "text", "gloss", "signer", "handedness"}
    assert Path(row["video"]["path"]).name == "test_00000.mp4"
    assert row["text"] == translate(row["gloss"].split())


def test_metadata_describes_exactly_the_files(corpus_dir: Path):
    for split in SPLITS:
        lines = (corpus_dir / split / "metadata.csv").read_text(encoding="utf-8").splitlines()
        assert lines[0] == "file_name,text,gloss,signer,handedness"
        file_names = [row["file_name"] for row in read_metadata(corpus_dir, split)]
        assert file_names == sorted(path.name for path in (corpus_dir / split).glob("*.mp4"))
        assert len(file_names) == SMALL_SIZES[f"num_{split}_clips"]


def test_clips_decode_to_the_resolution_at_several_frame_rates(corpus_dir: Path):
    rates = set()
    for path in corpus_dir.glob("*/*.mp4"):
        frames, frames_per_second = decode(path)
        assert frames.shape[1:] == (32, 32, 3) and len(frames) > 35
        rates.add(frames_per_second)
    assert rates <= set(FRAME_RATES) and len(rates) > 1


def test_no_sentence_in_two_places_and_test_signers_are_unseen(corpus_dir: Path):
    rows = {split: read_metadata(corpus_dir, split) for split in SPLITS}
    for column in ("text", "gloss"):
        values = [row[column] for split in SPLITS for row in rows[split]]
        assert len(set(values)) == len(values)
    signers = {split: {row["signer"] for row in rows[split]} for split in SPLITS}
    assert not signers["test"] & (signers["train"] | signers["dev"])
    assert signers["dev"] - signers["train"] and signers["dev"] & signers["train"]
    assert [len(signers[split] - signers["train"]) for split in ("dev", "test")] == [2, 3]

    text_only = (corpus_dir / "text_only.txt").read_text(encoding="utf-8").splitlines()
    assert len(set(text_only)) == len(text_only) == 40
    assert not set(text_only) & {row["text"] for split in SPLITS for row in rows[split]}


def test_card_names_licence_seed_and_signers(corpus_dir: Path):
    card = (corpus_dir / "README.md").read_text(encoding="utf-8")
    for part in ("license: cc0-1.0", "- `seed`: 0\n", "| signer04 | train | left |", "| signer09 | test | left |"):
        assert part in card
    assert str(corpus_dir.parent) not in card


@pytest.mark.slow
def test_corpus_depends_on_the_seed_and_not_on_the_number_of_workers(corpus_dir: Path, tmp_path: Path):
    again = generate_corpus(CorpusArguments(str(tmp_path / "again"), num_workers=2, **SMALL_SIZES))
    other = generate_corpus(CorpusArguments(str(tmp_path / "other"), num_workers=1, seed=1, **SMALL_SIZES))
    names = sorted(path.relative_to(corpus_dir) for path in corpus_dir.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    for name in names:
        if name.suffix == ".mp4":
            np.testing.assert_array_equal(decode(corpus_dir / name)[0], decode(again / name)[0])
        else:
            assert (corpus_dir / name).read_text() == (again / name).read_text()
            assert (corpus_dir / name).read_text() != (other / name).read_text()


def test_default_signers_include_left_handed_ones_in_training():
    signers = create_signers(CorpusArguments("unused"))
    assert [len(signers[split]) for split in SPLITS] == [14, 2, 3]
    assert sum(signer.is_left_handed for signer in signers["train"]) >= 2
    everybody = [signer for split in SPLITS for signer in signers[split]]
    assert 0.15 <= np.mean([signer.is_left_handed for signer in everybody]) <= 0.25
    for name in ("head_radius", "arm_length", "speed", "skin_colour"):
        assert len({getattr(signer, name) for signer in everybody}) == len(everybody)
    recordings = [recording for signer in everybody for recording in signer.recordings]
    for name in ("clothing_colour", "background_colour", "light", "zoom"):
        assert len({getattr(recording, name) for recording in recordings}) == len(recordings) == 3 * len(everybody)


# Poses


@pytest.fixture(scope="module")
def pose_corpus_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The poses of `corpus_dir`, without its videos."""
    folder = str(tmp_path_factory.mktemp("corpora") / "poses")
    options = {**SMALL_SIZES, "num_workers": 1, "poses": True, "videos": False}
    return generate_corpus(CorpusArguments(folder, **options))


def test_poses_in_place_of_videos_have_the_same_rows(corpus_dir: Path, pose_corpus_dir: Path):
    assert not list(pose_corpus_dir.rglob("*.mp4"))
    for split in SPLITS:
        videos, poses = read_metadata(corpus_dir, split), read_metadata(pose_corpus_dir, split)
        assert list(poses[0]) == ["poses", "text", "gloss", "signer", "handedness"]
        for video, row in zip(videos, poses, strict=True):
            name = Path(video.pop("file_name")).stem
            assert row.pop("poses") == f"poses/{name}.safetensors"
            assert row == video
        files = sorted(path.name for path in (pose_corpus_dir / split / "poses").iterdir())
        assert len(files) == len(poses)
    assert (corpus_dir / "text_only.txt").read_text() == (pose_corpus_dir / "text_only.txt").read_text()


def test_poses_are_read_as_the_library_reads_them_and_match_the_video(corpus_dir: Path, pose_corpus_dir: Path):
    for split in SPLITS:
        frames, rate = decode(corpus_dir / split / f"{split}_00000.mp4")
        poses = read_poses(pose_corpus_dir / split / "poses" / f"{split}_00000.safetensors")
        assert poses.keypoints.shape == (len(frames), 133, 2) and poses.scores.shape == (len(frames), 133)
        assert (poses.width, poses.height, poses.frames_per_second) == (32, 32, rate)
        assert poses.extractor == "rendered" and 0 < poses.scores[:, :11].mean() < 1


@pytest.mark.slow
def test_poses_and_videos_together_are_those_of_each_alone(corpus_dir: Path, pose_corpus_dir: Path, tmp_path: Path):
    sizes = {**SMALL_SIZES, "num_workers": 2, "poses": True}
    both = generate_corpus(CorpusArguments(str(tmp_path / "both"), **sizes))
    for split in SPLITS:
        assert list(read_metadata(both, split)[0]) == ["file_name", "poses", "text", "gloss", "signer", "handedness"]
    for alone in (corpus_dir, pose_corpus_dir):
        for path in alone.glob("*/**/*"):
            same = both / path.relative_to(alone)
            if path.suffix == ".mp4":
                assert path.read_bytes() == same.read_bytes()
            elif path.suffix == ".safetensors":
                ours, theirs = read_poses(path), read_poses(same)
                np.testing.assert_array_equal(ours.keypoints, theirs.keypoints)
                np.testing.assert_array_equal(ours.scores, theirs.scores)


def test_poses_without_errors_are_exact_and_the_card_says_which(pose_corpus_dir: Path, tmp_path: Path):
    sizes = {**SMALL_SIZES, "num_workers": 1, "poses": True, "videos": False, "pose_errors": 0.0}
    exact = generate_corpus(CorpusArguments(str(tmp_path / "exact"), **sizes))
    poses = read_poses(exact / "test" / "poses" / "test_00000.safetensors")
    assert set(np.unique(poses.scores)) == {0.0, 1.0}
    assert "COCO-WholeBody, exact: pixels of a picture of 32x32" in (exact / "README.md").read_text()
    card = (pose_corpus_dir / "README.md").read_text()
    assert "as an imagined pose detector finds them (size of its errors: 1)" in card and "H.264" not in card


def test_handedness_is_that_of_the_card(corpus_dir: Path):
    card = (corpus_dir / "README.md").read_text(encoding="utf-8")
    rows = [row for split in SPLITS for row in read_metadata(corpus_dir, split)]
    assert {row["handedness"] for row in rows} == {"left", "right"}
    for row in rows:
        assert re.search(rf"^\| {row['signer']} \| \w+ \| {row['handedness']} \|$", card, re.MULTILINE)
    assert {row["handedness"] for row in read_metadata(corpus_dir, "test")} == {"left", "right"}


# What it refuses


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"resolution": 65},
            "`resolution` must be an even number of at least 32 pixels (yuv420p does not support odd",
        ),
        ({"resolution": 16}, "and smaller ones lose the hands), got 16."),
        ({"num_signs": 15}, "`num_signs` must be from 16 (fewer cannot fill the sentence patterns) to 42"),
        ({"num_signs": 43}, "(the whole lexicon), got 43."),
        ({"num_training_signers": 0}, "`num_training_signers` must be at least 1, got 0."),
        ({"num_dev_signers": 0}, "`num_dev_signers` must be at least 1, got 0."),
        ({"num_test_signers": -1}, "`num_test_signers` must be at least 1, got -1."),
        ({"num_test_clips": 0}, "`num_test_clips` must be at least 1, got 0."),
        ({"num_workers": 0}, "`num_workers` must be from 1 to "),
        ({"num_workers": 10**9}, f", got {10**9}."),
        ({"seed": -1}, "`seed` must be at least 0, got -1."),
        ({"videos": False}, "`videos` or `poses` must be True: a corpus of neither has no clips."),
        ({"poses": True, "pose_errors": -0.5}, "`pose_errors` must be a number of at least 0, got -0.5."),
        ({"poses": True, "pose_errors": float("nan")}, "`pose_errors` must be a number of at least 0, got nan."),
        ({"left_handed_fraction": 1.5}, "`left_handed_fraction` must be from 0 to 1, got 1.5."),
        (
            {"num_signs": 16, "num_train_clips": 4_000, "num_text_only_sentences": 0},
            "4250 different sentences are needed for the clips, but 16 signs gave only ",
        ),
        (
            {"resolution": 31, "num_dev_signers": 0},
            "`num_dev_signers` must be at least 1, got 0.\n`resolution` must be an even",
        ),
    ],
)
def test_impossible_arguments_are_refused_before_anything_is_written(
    options: dict[str, int], message: str, tmp_path: Path
):
    with pytest.raises(ValueError, match=re.escape(message)):
        generate_corpus(CorpusArguments(str(tmp_path / "corpus"), **options))
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_not_touched(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("years of work")
    message = f"`output_dir` must be a new or empty folder, but '{tmp_path}' is not empty. Choose another folder"
    with pytest.raises(FileExistsError, match=re.escape(message)):
        generate_corpus(CorpusArguments(str(tmp_path), **SMALL_SIZES))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.slow
def test_text_only_sentences_are_as_many_as_the_signs_give(tmp_path: Path):
    options = {**SMALL_SIZES, "num_signs": MIN_NUM_SIGNS, "num_text_only_sentences": 6_000}
    corpus_dir = generate_corpus(CorpusArguments(str(tmp_path / "corpus"), num_workers=1, **options))
    text_only = (corpus_dir / "text_only.txt").read_text(encoding="utf-8").splitlines()
    assert 1_000 < len(set(text_only)) == len(text_only) < 6_000
