"""
A second generator of signed clips, to see whether presets that were tuned on the rendered corpus also hold elsewhere:
another drawing, lexicon, grammar and frame rate, German sentences about the weather, and only six training signers, all
of them right-handed. Half of the test clips are by signers of the training split, a quarter by a new right-handed one,
a quarter by a new left-handed one. Nothing here is shared with `flallm generate-corpus` but the layout of the folder.

    python benchmarks/other_signing.py --output_dir outputs/other_corpus
"""

import csv
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

from train_scripts.arguments.command_line import run_command
from train_scripts.arguments.dataclass_parser import parse_arguments
from train_scripts.machine.cores import num_cores

DAYS = ["montag", "dienstag", "mittwoch", "donnerstag", "freitag", "samstag", "sonntag"]
TIMES = ["morgens", "mittags", "abends", "nachts"]
PLACES = {
    "norden": "im norden",
    "süden": "im süden",
    "westen": "im westen",
    "osten": "im osten",
    "alpen": "in den alpen",
    "küste": "an der küste",
    "rhein": "am rhein",
    "oder": "an der oder",
}
EVENTS = {
    "regen": "regnet es",
    "schnee": "schneit es",
    "sonne": "scheint die sonne",
    "wolken": "ziehen wolken auf",
    "wind": "weht ein wind",
    "gewitter": "gibt es gewitter",
    "nebel": "bildet sich nebel",
    "hagel": "fällt hagel",
    "frost": "herrscht frost",
    "sturm": "tobt ein sturm",
}
ADVERBS = ["stark", "leicht", "kaum", "häufig", "örtlich", "teilweise"]
TEMPERATURES = ["minus", "null", "fünf", "zehn", "fünfzehn", "zwanzig", "dreißig"]
ENDINGS = {"warm": "es wird warm", "kalt": "es wird kalt", "mild": "es bleibt mild"}
LEXICON = [*DAYS, *TIMES, *PLACES, *EVENTS, *ADVERBS, *TEMPERATURES, *ENDINGS]

# In units of the frame, from the signer's chest; x to the viewer's right, y down.
LOCATIONS = [(-0.30, 0.10), (0.05, -0.28), (0.0, 0.05), (-0.32, 0.38), (0.22, 0.12), (0.0, 0.36), (-0.25, -0.22)]
MOVEMENTS = ["still", "up", "down", "left", "right", "circle", "twice", "diagonal"]
STRETCHED_FINGERS = [
    (0,) * 5,
    (1,) * 5,
    (0, 1, 0, 0, 0),
    (0, 1, 1, 0, 0),
    (1, 0, 0, 0, 1),
    (1, 1, 0, 0, 0),
    (0, 1, 1, 1, 1),
]
REST = np.array([[-0.25, 0.52], [0.25, 0.52]])
FRAMES_PER_SECOND = 30
RESOLUTION = 80
SECONDS_OF_SIGN, SECONDS_BETWEEN_SIGNS = 0.4, 0.2
FRAMES_AT_REST = 3
NUM_TRAINING_SIGNERS = 6
Colour = tuple[int, ...]


@dataclass(frozen=True)
class Sign:
    location: tuple[float, float]
    movement: str
    fingers: tuple[int, ...]
    is_two_handed: bool


@dataclass(frozen=True)
class Signer:
    name: str
    is_left_handed: bool
    skin: Colour
    clothes: Colour
    num_stripes: int
    hair: Colour
    wall: Colour
    other_colour: Colour
    pattern: str
    size: float
    head: float
    hand: float
    speed: float
    height: float
    light: float


@dataclass(frozen=True)
class Task:
    file: Path
    signs: tuple[Sign, ...]
    signer: Signer
    seed: tuple[int, int]
    is_busy: bool


@dataclass
class OtherCorpusArguments:
    """How much, and where to."""

    output_dir: str = field(metadata={"help": "New folder for the corpus."})
    seed: int = field(default=0, metadata={"help": "Seed of lexicon, signers and sentences."})
    num_train_clips: int = field(default=1200, metadata={"help": "Clips of the training split."})
    num_dev_clips: int = field(default=100, metadata={"help": "Clips of the dev split, by training signers."})
    num_test_clips: int = field(default=150, metadata={"help": "Clips of the test split."})
    num_text_only_sentences: int = field(default=6000, metadata={"help": "Sentences without a clip."})
    busy: bool = field(default=False, metadata={"help": "Something moves behind every signer."})


def draw_sentence(generator: np.random.Generator) -> tuple[list[str], str]:
    """-> the signs in their order, and the sentence"""
    day, time, adverb, temperature = (str(generator.choice(words)) for words in (DAYS, TIMES, ADVERBS, TEMPERATURES))
    place, event, ending = (str(generator.choice(list(words))) for words in (PLACES, EVENTS, ENDINGS))
    patterns = [
        ([day, place, adverb, event], f"am {day} {EVENTS[event]} {PLACES[place]} {adverb}"),
        ([time, place, event, temperature], f"{time} {EVENTS[event]} {PLACES[place]} bei {temperature} grad"),
        ([day, time, event, ending], f"am {day} {time} {EVENTS[event]} und {ENDINGS[ending]}"),
        (
            [place, day, temperature, ending],
            f"{PLACES[place]} erreichen die werte am {day} {temperature} grad {ENDINGS[ending]}",
        ),
    ]
    return patterns[generator.integers(len(patterns))]


def draw_lexicon(generator: np.random.Generator) -> dict[str, Sign]:
    """No two signs have the same place and movement."""
    places = list(product(LOCATIONS, MOVEMENTS))
    chosen = generator.permutation(len(places))[: len(LEXICON)]
    return {
        word: Sign(
            *places[place],
            STRETCHED_FINGERS[generator.integers(len(STRETCHED_FINGERS))],
            bool(generator.random() < 0.5),
        )
        for word, place in zip(LEXICON, chosen, strict=True)
    }


def draw_signer(name: str, is_left_handed: bool, generator: np.random.Generator) -> Signer:
    skin = np.array([235, 190, 155]) * generator.uniform(0.3, 1.0)

    def colour(least_contrast: float = 0.0) -> Colour:
        while True:
            drawn = generator.integers(10, 250, 3)
            if abs(drawn.mean() - skin.mean()) >= least_contrast:
                return tuple(drawn.tolist())

    return Signer(
        name=name,
        is_left_handed=is_left_handed,
        skin=tuple(skin.astype(int).tolist()),
        clothes=colour(45),
        num_stripes=2 * int(generator.integers(3)),
        hair=colour(),
        wall=colour(45),
        other_colour=colour(),
        pattern=("plain", "bars", "window")[generator.integers(3)],
        size=generator.uniform(0.9, 1.1),
        head=generator.uniform(0.10, 0.13),
        hand=generator.uniform(0.09, 0.12),
        speed=generator.uniform(0.85, 1.2),
        height=generator.uniform(-0.03, 0.03),
        light=generator.uniform(0.8, 1.15),
    )


def path_of(sign: Sign, num_frames: int, extent: float) -> np.ndarray:
    """-> `(frames, 2)`, where the dominant hand is"""
    time = np.linspace(0, 1, num_frames)
    along = 0.15 * extent * (2 * time * time * (3 - 2 * time) - 1)
    still, turn = np.zeros(num_frames), 2 * np.pi * time
    x, y = {
        "still": (still, still),
        "up": (still, -along),
        "down": (still, along),
        "left": (-along, still),
        "right": (along, still),
        "circle": (0.1 * extent * np.cos(turn), 0.1 * extent * np.sin(turn)),
        "twice": (still, 0.1 * extent * np.sin(2 * turn)),
        "diagonal": (along, -along),
    }[sign.movement]
    return np.stack([sign.location[0] + x, sign.location[1] + y], axis=1)


def plan_clip(signs: Sequence[Sign], signer: Signer, generator: np.random.Generator) -> list[np.ndarray]:
    """-> for each frame `(2, 7)`: x and y of each hand, and how far its five fingers are stretched"""
    hands = np.concatenate([REST, np.zeros((2, 5))], axis=1)
    frames = [hands] * FRAMES_AT_REST

    def glide(target: np.ndarray, num_frames: int) -> None:
        start = frames[-1]
        for progress in np.arange(1, num_frames + 1) / (num_frames + 1):
            frames.append(start + (target - start) * progress * progress * (3 - 2 * progress))

    for sign in signs:
        seconds = SECONDS_OF_SIGN / signer.speed * generator.uniform(0.9, 1.1)
        path = path_of(sign, max(6, round(seconds * FRAMES_PER_SECOND)), generator.uniform(0.9, 1.1))
        path += generator.normal(0, 0.012, 2)
        stroke = np.repeat(hands[None], len(path), axis=0)
        stroke[:, 0] = np.concatenate([path, np.tile(sign.fingers, (len(path), 1))], axis=1)
        if sign.is_two_handed:
            stroke[:, 1] = stroke[:, 0] * [-1, *[1] * 6]
        glide(stroke[0], max(3, round(SECONDS_BETWEEN_SIGNS / signer.speed * FRAMES_PER_SECOND)))
        frames += list(stroke)
    glide(hands, 2 * FRAMES_AT_REST)
    return frames + [hands] * FRAMES_AT_REST


def render(task: Task) -> np.ndarray:
    """-> uint8 `(frames, height, width, 3)`"""
    generator = np.random.default_rng(task.seed)
    signer, size = task.signer, 2 * RESOLUTION
    shift = generator.uniform([-0.03, signer.height - 0.02], [0.03, signer.height + 0.02])
    zoom = signer.size * generator.uniform(0.97, 1.03)
    room = draw_room(signer, size)
    frames = []
    for number, hands in enumerate(plan_clip(task.signs, signer, generator)):
        picture = room.copy()
        draw = ImageDraw.Draw(picture)
        if task.is_busy:
            left = 2 * number % size
            draw.rectangle((left, 0, left + size // 6, size // 3), fill=_mixed(signer.wall, signer.other_colour))
        draw_signer_in(
            draw, hands, signer, lambda x, y: ((0.5 + shift[0] + zoom * x) * size, (0.48 + shift[1] + zoom * y) * size)
        )
        noise = generator.normal(0, 3, (RESOLUTION, RESOLUTION, 1))
        frames.append(np.clip(np.asarray(picture.reduce(2)) * signer.light + noise, 0, 255).astype(np.uint8))
    clip = np.stack(frames)
    return np.ascontiguousarray(clip[:, :, ::-1]) if signer.is_left_handed else clip


def _mixed(colour: Colour, other: Colour, share: float = 0.3) -> Colour:
    return tuple(int((1 - share) * first + share * second) for first, second in zip(colour, other, strict=True))


def draw_room(signer: Signer, size: int) -> Image.Image:
    room = Image.new("RGB", (size, size), signer.wall)
    draw, colour = ImageDraw.Draw(room), _mixed(signer.wall, signer.other_colour)
    if signer.pattern == "bars":
        for left in range(0, size, size // 5):
            draw.rectangle((left, 0, left + size // 12, size), fill=colour)
    if signer.pattern == "window":
        draw.rectangle((0, 0, size, 0.35 * size), fill=colour)
        draw.ellipse((0.7 * size, 0.05 * size, 0.95 * size, 0.3 * size), fill=signer.other_colour)
    return room


def draw_signer_in(draw: ImageDraw.ImageDraw, hands: np.ndarray, signer: Signer, place) -> None:
    """`place` maps x and y from the signer's chest to pixels."""
    pixels = place(1, 0)[0] - place(0, 0)[0]
    shade, dark = _mixed(signer.skin, (0, 0, 0), 0.2), _mixed(signer.clothes, (0, 0, 0), 0.25)
    draw.rounded_rectangle((*place(-0.19, 0), *place(0.19, 0.7)), radius=pixels / 16, fill=dark)
    for stripe in range(signer.num_stripes):
        height = 0.1 + 0.1 * stripe
        draw.line((*place(-0.19, height), *place(0.19, height)), fill=signer.clothes, width=round(pixels / 40))
    draw.line((*place(0, -0.15), *place(0, 0.02)), fill=shade, width=round(pixels / 12))
    head = signer.head
    draw.ellipse((*place(-1.1 * head, -0.2 - 1.5 * head), *place(1.1 * head, -0.2 + 0.7 * head)), fill=signer.hair)
    draw.ellipse((*place(-0.9 * head, -0.2 - head), *place(0.9 * head, -0.2 + 1.2 * head)), fill=shade)
    for side, hand in ((1, hands[1]), (-1, hands[0])):
        x, y = hand[:2]
        elbow = ((x + side * 0.17) / 2 + side * 0.1, (y + 0.06) / 2 + 0.1)
        arm = (*place(side * 0.17, 0.06), *place(*elbow), *place(x, y))
        draw.line(arm, fill=signer.clothes, width=round(pixels / 14), joint="curve")
        for finger, stretched in enumerate(hand[2:]):
            angle = -np.pi / 2 - side * (0.25 + 0.38 * (finger - 2))
            length = signer.hand * (0.3 + 0.85 * stretched)
            tip = place(x + length * np.cos(angle), y + length * np.sin(angle))
            draw.line((*place(x, y), *tip), fill=shade, width=round(pixels / 22))
            draw.line((*place(x, y), *tip), fill=signer.skin, width=round(pixels / 32))
        radius = signer.hand / 2
        draw.ellipse((*place(x - radius, y - radius), *place(x + radius, y + radius)), fill=signer.skin, outline=shade)


def write_clip(task: Task) -> None:
    with av.open(str(task.file), "w") as container:
        options = {"crf": "20", "preset": "ultrafast", "threads": "1"}
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options=options)
        stream.width = stream.height = RESOLUTION
        stream.pix_fmt = "yuv420p"
        for frame in render(task):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def make_other_corpus(arguments: OtherCorpusArguments) -> Path:
    """
    Write a video folder and `text_only.txt` -> the folder

    Raises:
        FileExistsError: if there is such a folder already.
    """
    folder = Path(arguments.output_dir)
    generator = np.random.default_rng(arguments.seed)
    lexicon = draw_lexicon(generator)
    training = [draw_signer(f"signer{number}", False, generator) for number in range(NUM_TRAINING_SIGNERS)]
    unseen = [draw_signer("unseen_right", False, generator), draw_signer("unseen_left", True, generator)]
    groups = {"train": training, "dev": training, "test": [*training[:2], *unseen]}
    known: set[str] = set()

    def new_sentence() -> tuple[list[str], str]:
        while True:
            words, text = draw_sentence(generator)
            if text not in known:
                known.add(text)
                return words, text

    tasks = []
    for split, group in groups.items():
        (folder / split).mkdir(parents=True)
        rows = []
        for index in range(getattr(arguments, f"num_{split}_clips")):
            words, text = new_sentence()
            signer, file = group[index % len(group)], folder / split / f"{split}_{index:04d}.mp4"
            signs = tuple(lexicon[word] for word in words)
            tasks.append(Task(file, signs, signer, (arguments.seed, len(tasks)), arguments.busy))
            handedness = "left" if signer.is_left_handed else "right"
            rows.append({"file_name": file.name, "text": text, "signer": signer.name, "handedness": handedness})
        with open(folder / split / "metadata.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    lines = "".join(f"{new_sentence()[1]}\n" for _ in range(arguments.num_text_only_sentences))
    (folder / "text_only.txt").write_text(lines, encoding="utf-8")
    with ProcessPoolExecutor(num_cores()) as pool:
        list(pool.map(write_clip, tasks, chunksize=8))
    return folder


def main(argv: Sequence[str] | None = None) -> int:
    def run(given: Sequence[str]) -> None:
        (arguments,) = parse_arguments((OtherCorpusArguments,), given, description=__doc__)
        print(f"Corpus written to {make_other_corpus(arguments)}.")

    return run_command(run, argv)


if __name__ == "__main__":
    sys.exit(main())
