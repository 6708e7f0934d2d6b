"""
Is an untrained domain detected? Calibrated quickstart models on test clips, altered clips and unrelated videos.

    python benchmarks/confidence_on_untrained_videos.py --runs quickstart_output --videos my_video.mp4

Prints a table in Markdown, pooled over the runs: for each kind of video, how many translations were correct, how many
videos were flagged as unfamiliar, how the confidences were distributed, and what the score alone would have said.
Altered clips that still show the same signs keep their sentence; for the others no translation can be correct.
"""

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np

from modeling_flallm import SignLanguageTranslationPipeline
from modeling_flallm.own_processing import decode_video
from train_scripts.arguments.data_arguments import DataArguments
from train_scripts.clips.splits import load_split
from train_scripts.commands.generate_corpus import CorpusArguments, generate_corpus
from train_scripts.rendered_corpus import signing_language
from train_scripts.runs.trained_models import load_trained
from train_scripts.scores.metrics import sentence_chrf

LEAST_CHRF = 95.0
PIECES_IN_FRAMES = (40, 80)  # of unrelated videos, as long as the corpus's clips
STEP_IN_FRAMES = 10
FRAMES_PER_SECOND = 25
SAME_SENTENCE = ("test clips as they are", "mirrored", "half as bright", "grainy", "negative")

Clip = tuple[np.ndarray, str | None]


def read_frames(path: str | Path) -> np.ndarray:
    """-> uint8 `(frames, height, width, 3)`"""
    return decode_video(path).frames.permute(0, 2, 3, 1).numpy()


def altered(frames: np.ndarray, generator: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """Yield name and frames of each kind of video made of one clip `(frames, height, width, 3)`."""
    num_frames = len(frames)
    noise = generator.integers(0, 256, frames.shape, dtype=np.uint8)
    yield SAME_SENTENCE[0], frames
    yield "mirrored", frames[:, :, ::-1]
    yield "half as bright", frames // 2
    yield "grainy", np.clip(frames + generator.normal(0, 20, frames.shape), 0, 255).astype(np.uint8)
    yield "negative", 255 - frames
    yield "played backwards", frames[::-1]
    yield "frames in random order", frames[generator.permutation(num_frames)]
    yield "middle third", frames[num_frames // 3 : 2 * num_frames // 3]
    yield "upside down", frames[:, ::-1]
    yield "one frame, standing still", np.repeat(frames[num_frames // 2][None], num_frames, 0)
    yield "one even grey", np.full_like(frames, generator.integers(0, 256))
    yield "noise", noise
    yield "noise, standing still", np.repeat(noise[:1], num_frames, 0)


def unknown_signs(generator: np.random.Generator) -> dict[str, signing_language.Sign]:
    """The lexicon with new forms, which none of its signs has."""
    used = {_form(sign) for sign in signing_language.LEXICON}
    signs = {}
    for sign in signing_language.LEXICON:
        while True:
            choices = (
                signing_language.HANDSHAPES,
                signing_language.PLACES,
                signing_language.MOVEMENTS,
                ("one", "both"),
            )
            form = tuple(str(generator.choice(values)) for values in choices)
            if form not in used:
                break
        used.add(form)
        handshape, place, movement, hands = form
        signs[sign.gloss] = dataclasses.replace(sign, handshape=handshape, place=place, movement=movement, hands=hands)
    return signs


def _form(sign: signing_language.Sign) -> tuple[str, str, str, str]:
    return sign.handshape, sign.place, sign.movement, sign.hands


def render_unknown_signs(num_clips: int, resolution: int, seed: int) -> list[np.ndarray]:
    """Clips of the same renderer in which every sign has another form."""
    others = unknown_signs(np.random.default_rng(seed))
    sizes = {"num_train_clips": 1, "num_dev_clips": 1, "num_test_clips": num_clips, "num_text_only_sentences": 1}
    with TemporaryDirectory() as folder, patch.dict(signing_language.SIGNS_BY_GLOSS, others):
        arguments = CorpusArguments(f"{folder}/corpus", seed=seed, resolution=resolution, num_workers=1, **sizes)
        return [read_frames(path) for path in sorted((generate_corpus(arguments) / "test").glob("*.mp4"))]


def pieces(frames: np.ndarray) -> Iterator[np.ndarray]:
    """Parts of a video that are as long as the corpus's clips."""
    for length in PIECES_IN_FRAMES:
        for start in range(0, len(frames) - length + 1, STEP_IN_FRAMES):
            yield frames[start : start + length]


def collect(corpus: Path, videos: list[Path], num_clips: int, seed: int) -> dict[str, list[Clip]]:
    """Clips by kind, with their sentence if they still show it."""
    generator = np.random.default_rng(seed)
    split = load_split(DataArguments(dataset=str(corpus)), "test", num_clips)
    kinds: dict[str, list[Clip]] = {}
    for video, sentence in zip(split["video"], split["text"], strict=True):
        for kind, frames in altered(read_frames(video["path"]), generator):
            known = sentence if kind in SAME_SENTENCE else None
            kinds.setdefault(kind, []).append((np.ascontiguousarray(frames), known))
    resolution = kinds[SAME_SENTENCE[0]][0][0].shape[1]
    kinds["signs that it never saw"] = [(clip, None) for clip in render_unknown_signs(num_clips, resolution, seed)]
    if videos:
        kinds["real people"] = [(piece, None) for path in videos for piece in pieces(read_frames(path))]
    return kinds


def answer(translator: SignLanguageTranslationPipeline, clips: list[Clip]) -> list[dict]:
    """-> `confidence`, `is_familiar`, `is_right` and `by_score`, the confidence from the score alone, of each clip."""
    calibration = translator.model.config.confidence_calibration
    answers = translator([frames for frames, _ in clips], source_fps=FRAMES_PER_SECOND, return_scores=True)
    for result, (_, sentence) in zip(answers, clips, strict=True):
        text = result["translation_text"]
        logit = calibration["slope"] * result["score"] + calibration["intercept"]
        result["by_score"] = 1 / (1 + np.exp(-logit))
        result["is_right"] = sentence is not None and sentence_chrf(text, sentence) >= LEAST_CHRF
    return answers


def format_table(answers: dict[str, list[dict]]) -> str:
    lines = [
        "| video | clips | right | told as unfamiliar | confidence below 0.5 | 0.8 or more | by score: 0.5 or more |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, results in answers.items():
        shares = [
            np.mean([result["is_right"] for result in results]),
            np.mean([not result["is_familiar"] for result in results]),
            np.mean([result["confidence"] < 0.5 for result in results]),
            np.mean([result["confidence"] >= 0.8 for result in results]),
            np.mean([result["by_score"] >= 0.5 for result in results]),
        ]
        cells = " | ".join(f"{100 * share:.0f} %" for share in shares)
        lines.append(f"| {kind} | {len(results)} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Confidences of calibrated quickstart models on untrained videos.")
    parser.add_argument("--runs", nargs="+", type=Path, required=True, help="output folders of flallm quickstart")
    parser.add_argument("--videos", nargs="*", type=Path, default=[], help="recordings of people")
    parser.add_argument("--num_clips", type=int, default=60, help="test clips of each run")
    parser.add_argument("--seed", type=int, default=0, help="of noise, order and unknown signs")
    arguments = parser.parse_args()
    answers: dict[str, list[dict]] = {}
    for run in arguments.runs:
        model, processor = load_trained(str(run / "model"))
        if model.config.confidence_calibration is None:
            parser.error(f"{run / 'model'} is not calibrated: run flallm calibrate on it first")
        translator = SignLanguageTranslationPipeline(model=model, processor=processor)
        for kind, clips in collect(run / "corpus", arguments.videos, arguments.num_clips, arguments.seed).items():
            answers.setdefault(kind, []).extend(answer(translator, clips))
    print(format_table(answers))


if __name__ == "__main__":
    main()
