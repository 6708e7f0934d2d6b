"""Generates the embedded corpus: signers rendered while they perform sentences of an invented sign language.

    flallm generate-corpus --output_dir corpus

A small one, in a few seconds:

    flallm generate-corpus --output_dir small_corpus --num_train_clips 24 --num_dev_clips 6 \
        --num_test_clips 6 --num_text_only_sentences 100

Poses in place of videos, in seconds:

    flallm generate-corpus --output_dir pose_corpus --poses True --videos False

With descriptions of what the hands do, a fifth of which are wrong:

    flallm generate-corpus --output_dir described_corpus --descriptions True --wrong_descriptions 0.2

With two right sentences for three clips in ten, and all right sentences of every clip in the column `readings`:

    flallm generate-corpus --output_dir ambiguous_corpus --ambiguous_clips 0.3

The result is a Hugging Face video folder (`train/`, `dev/`, `test/`, each with mp4 files and a `metadata.csv`),
further sentences of the spoken language in `text_only.txt`, and a dataset card. The poses are in `poses/` of each
split. Everything is determined by the seed and the options.
"""

import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..arguments.command_line import run_command
from ..arguments.commands import COMMANDS
from ..arguments.corpus_arguments import CorpusArguments
from ..machine.atomic_files import holds_something, write_csv, write_folder, write_text
from ..machine.process_pool import check_num_workers, run_in_processes
from ..rendered_corpus.ambiguous_clips import list_readings, make_ambiguous
from ..rendered_corpus.rendered_descriptions import FRAMES_OF_DESCRIPTION, Description, describe_clip
from ..rendered_corpus.rendered_poses import pose_clip
from ..rendered_corpus.signers import FRAME_RATES, Signer, create_signer
from ..rendered_corpus.signing_language import HOMONYMS, LEXICON, SentenceSampler, select_signs, translate
from ..rendered_corpus.signing_renderer import MIN_RESOLUTION_IN_PIXELS, encode_mp4, render_clip

SPLITS = ("train", "dev", "test")
# First part of the seed of each random stream, after the corpus's own seed.
STREAMS = {
    name: number
    for number, name in enumerate((*SPLITS, "signers", "skin tones", "sentences", "faults", "ambiguous clips"))
}
CARD_FIELDS_LEFT_OUT = ("output_dir", "num_workers")
FIELDS_OF_DESCRIPTIONS = ("descriptions", "missing_descriptions", "wrong_descriptions")
# Behind the seed of a clip, for the random streams of its detector's errors and of the wording of its descriptions.
ERROR_STREAM, WORDING_STREAM = 1, 2
POSES_FOLDER = "poses"
EXTRACTOR = "rendered"


@dataclass(frozen=True)
class ClipTask:
    """One clip to render: what is signed, the sentence it is meant as, and who signs, in which recording; `seed` is
    (corpus seed, stream, index)."""

    split_folder: Path
    name: str
    glosses: tuple[str, ...]
    text: str
    signer: Signer
    resolution: int
    seed: tuple[int, int, int]
    videos: bool
    poses: bool
    pose_errors: float

    @property
    def files(self) -> dict[str, str]:
        """The clip's files in the folder of the split, by the column of the metadata that names them."""
        files = {"file_name": f"{self.name}.mp4"} if self.videos else {}
        return files | ({"poses": f"{POSES_FOLDER}/{self.name}.safetensors"} if self.poses else {})


def generate_corpus(arguments: CorpusArguments) -> Path:
    """Writes the corpus and returns its folder. Raises ValueError for arguments that cannot be met, and
    FileExistsError for an output folder that is not empty; nothing has been written in that case."""
    if arguments.num_signs is None:
        arguments = replace(arguments, num_signs=len(LEXICON))
    _validate(arguments)
    output_dir = Path(arguments.output_dir)
    write_folder(output_dir, lambda folder: _fill(replace(arguments, output_dir=str(folder))))
    return output_dir


def _fill(arguments: CorpusArguments) -> None:
    output_dir = Path(arguments.output_dir)
    sentences, signed, text_only_sentences = _draw_sentences(arguments)
    signers = create_signers(arguments)
    tasks = [
        task for split in SPLITS for task in _plan_split(split, sentences[split], signed[split], signers, arguments)
    ]

    for split in SPLITS:
        split_folder = output_dir / split
        (split_folder / POSES_FOLDER if arguments.poses else split_folder).mkdir(parents=True)
        _write_metadata(split_folder, [task for task in tasks if task.split_folder == split_folder], arguments)
    lines = "".join(f"{translate(glosses)}\n" for glosses in text_only_sentences)
    write_text(output_dir / "text_only.txt", lines)
    write_text(output_dir / "README.md", _dataset_card(arguments, signers, len(text_only_sentences)))
    for _ in tqdm(_render_all(tasks, arguments.num_workers), total=len(tasks), desc="rendering", unit="clip"):
        pass


def _validate(arguments: CorpusArguments) -> None:
    problems = []
    for name in ("num_train_clips", "num_dev_clips", "num_test_clips"):
        problems += _problem_if_below(arguments, name, 1)
    for name in ("num_training_signers", "num_dev_signers", "num_test_signers"):
        problems += _problem_if_below(arguments, name, 1)
    for name in ("seed", "num_text_only_sentences"):
        problems += _problem_if_below(arguments, name, 0)
    try:
        check_num_workers("`num_workers`", arguments.num_workers)
    except ValueError as error:
        problems.append(str(error))
    if arguments.resolution < MIN_RESOLUTION_IN_PIXELS or arguments.resolution % 2:
        problems.append(
            f"`resolution` must be an even number of at least {MIN_RESOLUTION_IN_PIXELS} pixels (yuv420p does not "
            f"support odd sizes, and smaller ones lose the hands), got {arguments.resolution}."
        )
    if not 0 <= arguments.left_handed_fraction <= 1:
        problems.append(f"`left_handed_fraction` must be from 0 to 1, got {arguments.left_handed_fraction}.")
    if not (arguments.videos or arguments.poses):
        problems.append("`videos` or `poses` must be True: a corpus of neither has no clips.")
    if not 0 <= arguments.pose_errors < math.inf:
        problems.append(f"`pose_errors` must be a number of at least 0, got {arguments.pose_errors}.")
    if not 0 <= arguments.ambiguous_clips <= 1:
        problems.append(f"`ambiguous_clips` must be from 0 to 1, got {arguments.ambiguous_clips}.")
    problems += _problems_of_descriptions(arguments)
    try:
        select_signs(arguments.num_signs)
    except ValueError as error:
        problems.append(str(error))
    if problems:
        raise ValueError("\n".join(problems))
    output_dir = Path(arguments.output_dir)
    if output_dir.exists() and not (output_dir.is_dir() and not holds_something(output_dir)):
        raise FileExistsError(
            f"`output_dir` must be a new or empty folder, but '{output_dir}' is not empty. Choose another "
            "folder, or remove this one first."
        )


def _problems_of_descriptions(arguments: CorpusArguments) -> list[str]:
    shares = {name: getattr(arguments, name) for name in FIELDS_OF_DESCRIPTIONS[1:]}
    problems = [f"`{name}` must be from 0 to 1, got {share}." for name, share in shares.items() if not 0 <= share <= 1]
    if not problems and sum(shares.values()) > 1:
        names, values = (" + ".join(map(str, each)) for each in (shares, shares.values()))
        problems.append(f"{names} must be at most 1, as both are shares of all descriptions, got {values}.")
    if not arguments.descriptions:
        problems += [f"`{name}` {share} needs `descriptions` True." for name, share in shares.items() if share]
    return problems


def _problem_if_below(arguments: CorpusArguments, name: str, minimum: int) -> list[str]:
    value = getattr(arguments, name)
    return [] if value >= minimum else [f"`{name}` must be at least {minimum}, got {value}."]


def _draw_sentences(
    arguments: CorpusArguments,
) -> tuple[dict[str, list[tuple[str, ...]]], dict[str, list[tuple[str, ...]]], list[tuple[str, ...]]]:
    """Returns the glosses of each split's sentences, what is signed for each of them, and the glosses of the text-only
    sentences. All sentences differ, and no text-only one is a reading of a clip."""
    random_generator = np.random.default_rng([arguments.seed, STREAMS["sentences"]])
    sampler = SentenceSampler(select_signs(arguments.num_signs), random_generator)
    sizes = [arguments.num_train_clips, arguments.num_dev_clips, arguments.num_test_clips]
    drawn = sampler.draw_distinct(sum(sizes))
    if len(drawn) < sum(sizes):
        raise ValueError(
            f"{sum(sizes)} different sentences are needed for the clips, but {arguments.num_signs} signs gave only "
            f"{len(drawn)}. Ask for fewer clips or raise `num_signs`."
        )
    ends = np.cumsum(sizes)
    parts = [drawn[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    sentences = dict(zip(SPLITS, parts, strict=True))
    signed = sentences
    if arguments.ambiguous_clips:
        streams = {split: [arguments.seed, STREAMS["ambiguous clips"], STREAMS[split]] for split in SPLITS}
        generators = {split: np.random.default_rng(stream) for split, stream in streams.items()}
        signed = make_ambiguous(sentences, select_signs(arguments.num_signs), arguments.ambiguous_clips, generators)
    readings = [reading for split in SPLITS for glosses in signed[split] for reading in list_readings(glosses)]
    return sentences, signed, sampler.draw_distinct(arguments.num_text_only_sentences, known=readings)


def create_signers(arguments: CorpusArguments) -> dict[str, list[Signer]]:
    """Returns the signers who belong to each split. Skin tones of a group are spread over the whole range."""
    sizes = [arguments.num_training_signers, arguments.num_dev_signers, arguments.num_test_signers]
    tone_generator = np.random.default_rng([arguments.seed, STREAMS["skin tones"]])
    signers: dict[str, list[Signer]] = {}
    num_created = 0
    for split, size in zip(SPLITS, sizes, strict=True):
        skin_tones = (tone_generator.permutation(size) + tone_generator.random(size)) / size
        signers[split] = []
        for skin_tone in skin_tones.tolist():
            random_generator = np.random.default_rng([arguments.seed, STREAMS["signers"], num_created])
            is_left_handed = _is_left_handed(num_created, arguments.left_handed_fraction)
            num_created += 1
            name = f"signer{num_created:02d}"
            signers[split].append(create_signer(name, skin_tone, is_left_handed, random_generator))
    return signers


def _is_left_handed(index: int, fraction: float) -> bool:
    """Spreads left-handed signers evenly: with 0.2 the 4th, 9th, 14th and 19th."""
    return int((index + 2) * fraction + 1e-9) > int((index + 1) * fraction + 1e-9)


def signer_of_clip(split: str, index: int, signers: dict[str, list[Signer]]) -> Signer:
    """Returns who performs this clip of a split, in the recording that it belongs to; `signers` as `create_signers`
    returns them. Half of the dev split is by training signers."""
    group = signers["train"] if split == "dev" and index % 2 else signers[split]
    turn = index // 2 if split == "dev" else index
    return group[turn % len(group)].in_recording(turn // len(group))


def _plan_split(
    split: str,
    sentences: list[tuple[str, ...]],
    signed: list[tuple[str, ...]],
    signers: dict[str, list[Signer]],
    arguments: CorpusArguments,
) -> Iterator[ClipTask]:
    for index, (sentence, glosses) in enumerate(zip(sentences, signed, strict=True)):
        yield ClipTask(
            split_folder=Path(arguments.output_dir) / split,
            name=f"{split}_{index:05d}",
            glosses=glosses,
            text=translate(sentence),
            signer=signer_of_clip(split, index, signers),
            resolution=arguments.resolution,
            seed=(arguments.seed, STREAMS[split], index),
            videos=arguments.videos,
            poses=arguments.poses,
            pose_errors=arguments.pose_errors,
        )


def _write_metadata(split_folder: Path, tasks: list[ClipTask], arguments: CorpusArguments) -> None:
    rows = [
        {
            **task.files,
            "text": task.text,
            "gloss": " ".join(task.glosses),
            "signer": task.signer.name,
            "handedness": task.signer.handedness,
        }
        for task in tasks
    ]
    if arguments.ambiguous_clips:
        for row, task in zip(rows, tasks, strict=True):
            row["readings"] = json.dumps([translate(reading) for reading in list_readings(task.glosses)])
    if arguments.descriptions:
        described = _describe_clips(tasks, arguments.missing_descriptions, arguments.wrong_descriptions)
        for row, descriptions in zip(rows, described, strict=True):
            row["descriptions"] = json.dumps([asdict(description) for description in descriptions])
    write_csv(split_folder / "metadata.csv", list(rows[0]), rows)


def _describe_clips(tasks: Sequence[ClipTask], missing: float, wrong: float) -> list[list[Description]]:
    """
    Returns the descriptions of each clip of a split, of which the share `missing` is left out and the share `wrong` has
    the text of another one. A higher share leaves out, or makes wrong, further descriptions beside those of a lower.
    """
    described = [_describe(task) for task in tasks]
    places = [(clip, number) for clip, descriptions in enumerate(described) for number in range(len(descriptions))]
    texts = [described[clip][number].text for clip, number in places]
    corpus_seed, stream, _ = tasks[0].seed
    generator = np.random.default_rng([corpus_seed, STREAMS["faults"], stream])
    order = generator.permutation(len(places)).tolist()
    for place in order[len(order) - round(wrong * len(order)) :]:
        clip, number = places[place]
        described[clip][number] = replace(described[clip][number], text=_draw_other(texts[place], texts, generator))
    left_out = {places[place] for place in order[: round(missing * len(order))]}
    return [
        [each for number, each in enumerate(descriptions) if (clip, number) not in left_out]
        for clip, descriptions in enumerate(described)
    ]


def _draw_other(text: str, texts: Sequence[str], generator: np.random.Generator) -> str:
    """Returns one of `texts`, of which not all are `text`."""
    while True:
        drawn = texts[generator.integers(len(texts))]
        if drawn != text:
            return drawn


def _describe(task: ClipTask) -> list[Description]:
    generators = np.random.default_rng(task.seed), np.random.default_rng([*task.seed, WORDING_STREAM])
    return describe_clip(task.glosses, task.signer, task.resolution, *generators)


def _render_all(tasks: list[ClipTask], num_workers: int) -> Iterable[None]:
    if num_workers == 1:
        yield from map(_render_task, tasks)
        return
    for _ in run_in_processes(_render_task, tasks, num_workers, _lost):
        yield


def _lost(task: ClipTask, why: str) -> None:
    raise OSError(f"{task.split_folder / task.name} could not be rendered: {why}.")


def _render_task(task: ClipTask) -> None:
    if task.videos:
        frames = render_clip(task.glosses, task.signer, task.resolution, np.random.default_rng(task.seed))
        encode_mp4(frames, task.split_folder / task.files["file_name"], task.signer.frames_per_second)
    if task.poses:
        _write_poses(task)


def _write_poses(task: ClipTask) -> None:
    from modeling_flallm.own_processing import Poses, write_poses  # slow to import, and not needed for videos

    keypoints, scores = pose_clip(
        task.glosses,
        task.signer,
        task.resolution,
        np.random.default_rng(task.seed),
        task.pose_errors,
        np.random.default_rng([*task.seed, ERROR_STREAM]),
    )
    size = float(task.resolution)
    poses = Poses(keypoints, scores, float(task.signer.frames_per_second), size, size, extractor=EXTRACTOR)
    write_poses(task.split_folder / task.files["poses"], poses)


def _dataset_card(arguments: CorpusArguments, signers: dict[str, list[Signer]], num_text_only: int) -> str:
    left_out = [*CARD_FIELDS_LEFT_OUT]
    left_out += [] if arguments.descriptions else FIELDS_OF_DESCRIPTIONS
    left_out += [] if arguments.ambiguous_clips else ["ambiguous_clips"]
    options = [f"- `{name}`: {value}" for name, value in asdict(arguments).items() if name not in left_out]
    signer_rows = [
        f"| {signer.name} | {split} | {signer.handedness} |" for split in SPLITS for signer in signers[split]
    ]
    return CARD.format(
        num_train_clips=arguments.num_train_clips,
        num_dev_clips=arguments.num_dev_clips,
        num_test_clips=arguments.num_test_clips,
        num_text_only=num_text_only,
        files="\n".join(_descriptions_of_files(arguments)),
        options="\n".join(options),
        signer_rows="\n".join(signer_rows),
    )


def _descriptions_of_files(arguments: CorpusArguments) -> list[str]:
    size, errors = arguments.resolution, arguments.pose_errors
    frame_rates = ", ".join(map(str, sorted(set(FRAME_RATES))))
    descriptions = []
    if arguments.videos:
        descriptions.append(f"`file_name` names clips in H.264, {size}x{size} pixels, {frame_rates} frames per second.")
    if arguments.poses:
        made_by = f"as an imagined pose detector finds them (size of its errors: {errors:g})" if errors else "exact"
        descriptions.append(
            f"`poses` names keypoints in the layout COCO-WholeBody, {made_by}: pixels of a picture of {size}x{size}, "
            f"{frame_rates} frames per second, a score for each point."
        )
    if arguments.descriptions:
        descriptions.append(
            f"`descriptions` says what hands and body do, for each {FRAMES_OF_DESCRIPTION} frames, as JSON: a list of "
            f"`start`, `end` (exclusive) and `text`; {arguments.missing_descriptions:.0%} of them are left out, and "
            f"{arguments.wrong_descriptions:.0%} have the text of others. They share no word with the sentences."
        )
    if arguments.ambiguous_clips:
        descriptions.append(
            f"{arguments.ambiguous_clips:.0%} of the clips of each split are ambiguous: one sign, such as "
            f"{HOMONYMS[0].gloss}, stands for two words. `readings` lists the right sentences of every clip, as JSON: "
            "two for an ambiguous one, of which `text` is either with equal chance."
        )
    return descriptions


CARD = """---
license: cc0-1.0
pretty_name: Invented sign language, rendered
tags:
- sign-language-translation
- synthetic
---

# Invented sign language, rendered

An animated signer performs sentences of a small sign language that nobody uses: it was invented for trying out sign
language translation. Every frame is generated; no person was recorded. Scores on it say nothing about any real sign
language.
Licence: CC0-1.0 (the generator is Apache-2.0).

## Content
| split | clips | signers |
|---|---|---|
| train | {num_train_clips} | training signers |
| dev | {num_dev_clips} | half by dev signers, half by training signers |
| test | {num_test_clips} | test signers, who occur nowhere else |

No sentence occurs in two splits. Each split has a `metadata.csv` with its files, `text` (spoken sentence), `gloss`
(signs in signed order), `signer` and `handedness` (the dominant hand, left or right).
{files}
`text_only.txt` holds {num_text_only} further spoken sentences, none of which has a clip.

## Signers
| signer | belongs to | dominant hand |
|---|---|---|
{signer_rows}

## Options
{options}
"""


def run(argv: Sequence[str] | None = None) -> None:
    """Generate a corpus from command-line arguments."""
    (arguments,) = COMMANDS["generate-corpus"].parse(argv)
    output_dir = generate_corpus(arguments)
    print(f"Corpus with {arguments.num_train_clips} training clips written to {output_dir}")


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(run, argv)


if __name__ == "__main__":
    sys.exit(main())
