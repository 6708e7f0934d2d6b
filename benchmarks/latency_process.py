"""
One process of `benchmarks/latency.py`: from its start to the first sentence, then sentences when all is warm, then a
stream at real time. It imports what a user's program would, and prints one line of JSON.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FRAMES_PER_SECOND = 25
SECONDS_OF_REST_BEFORE = 1.0
# After the clip, for longer than it takes to find that out.
SECONDS_OF_REST = 2.0
GREY_LEVELS_OF_NOISE = 2.0


def in_torch(settings: dict[str, Any]) -> Any:
    """-> the pipeline of a saved model"""
    import torch
    from transformers import pipeline

    import modeling_flallm  # noqa: F401, which makes the model known

    return pipeline(
        "sign-language-translation",
        model=settings["model"],
        device=settings["device"],
        dtype=getattr(torch, settings["dtype"]),
    )


def exported(settings: dict[str, Any]) -> Any:
    """-> what translates with an exported model"""
    sys.path.insert(0, settings["model"])
    from flallm_runner import load

    return load(num_threads=settings["cores"])


def main(argv: list[str]) -> int:
    settings = json.loads(argv[0])
    cores, video, num_rounds = settings["cores"], settings["video"], settings["num_rounds"]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    runtime = RUNTIMES[settings["runtime"]]
    translator = runtime.load(settings)
    loaded = time.time()
    translator(video)
    told = time.time()
    cold = {"load": loaded - settings["started"], "translate": told - loaded}
    warm = [runtime.translate_in_steps(translator, video) for _ in range(num_rounds)]
    stream = []
    if runtime.streams:
        frames = frames_of(Path(video))
        stream = [translate_live(translator, frames) for _ in range(num_rounds)]
    print(json.dumps({"cold": cold, "warm": warm, "stream": stream}))
    return 0


def pipeline_in_steps(translator: Any, video: str) -> dict[str, float]:
    """Seconds of each step of a call"""
    import torch

    times = [time.perf_counter()]

    def done(value: Any) -> Any:
        if translator.device.type == "cuda":  # which computes on after a call has returned
            torch.cuda.synchronize()
        times.append(time.perf_counter())
        return value

    clip = done(translator.read_clip(video))
    encoded = done(translator.encode_clips([clip]))
    written = done(translator.write_sentences(encoded))
    done(translator.answers_of(written[0]))
    decode, encode, write, answer = np.diff(times).tolist()
    return {"decode": decode, "encode": encode, "write": write + answer}


def exported_in_steps(translator: Any, video: str) -> dict[str, float]:
    """Seconds of each step of a call"""
    began = time.perf_counter()
    times = []
    reader, encoder = translator.reader, translator.graphs["sign_encoder"]

    def timed(function: Callable) -> Callable:
        def call(*arguments: Any) -> Any:
            value = function(*arguments)
            times.append(time.perf_counter())
            return value

        return call

    translator.reader, translator.graphs["sign_encoder"] = timed(reader), timed(encoder)
    translator(video)
    translator.reader, translator.graphs["sign_encoder"] = reader, encoder
    decode, encode, write = np.diff([began, *times, time.perf_counter()]).tolist()
    return {"decode": decode, "encode": encode, "write": write}


def frames_of(video: Path) -> list[np.ndarray]:
    """As a camera gives them, uint8 `(height, width, 3)`"""
    from processing import decode_video

    return list(decode_video(video).frames.permute(0, 2, 3, 1).numpy())


def translate_live(translator: Any, frames: list[np.ndarray]) -> dict[str, float]:
    """
    Feed a clip at the pace of a camera, with the signer at rest before and after it. Seconds from when its last frame
    was due: until the first word of the final translation, until its text is whole, and until it is final; and by how
    much the feed was late at most.

    Raises:
        RuntimeError: unless the stream finds one sentence in the clip.
    """
    from modeling_flallm import StreamingTranslator

    arrived: list[tuple[float, dict[str, Any]]] = []
    late = 0.0
    shown = [*at_rest(frames[0], SECONDS_OF_REST_BEFORE), *frames, *at_rest(frames[-1], SECONDS_OF_REST)]
    with StreamingTranslator(translator, return_scores=True) as stream:
        began = time.perf_counter()
        for index, frame in at_the_pace_of_a_camera(shown, began):
            seconds = index / FRAMES_PER_SECOND
            arrived += [(time.perf_counter(), update) for update in stream.add(frame, seconds)]
            late = max(late, time.perf_counter() - began - seconds)
        arrived += [(time.perf_counter(), update) for update in stream.finish()]
    last_frame = began + (len(shown) - 1) / FRAMES_PER_SECOND - SECONDS_OF_REST
    return seconds_until_final(arrived, last_frame) | {"late": late}


def seconds_until_final(arrived: list[tuple[float, dict[str, Any]]], last_frame: float) -> dict[str, float]:
    """Of updates and the seconds in which they came; see `translate_live`."""
    pieces = sorted({update["piece"] for _, update in arrived})
    if pieces != [0]:
        raise RuntimeError(f"The stream must find one sentence in the clip, got {len(pieces)}.")
    final = arrived[-1][1]
    ends = ("signing_start", "signing_end")
    of_all = [(second, update) for second, update in arrived if all(update[end] == final[end] for end in ends)]
    moments = {
        "first_word": next(second for second, update in of_all if update["translation_text"]),
        # An update has a score once its text is whole.
        "sentence": next(second for second, update in of_all if "score" in update),
        "final": arrived[-1][0],
    }
    return {name: moment - last_frame for name, moment in moments.items()}


def at_rest(frame: np.ndarray, seconds: float) -> list[np.ndarray]:
    """A signer who does not move, in front of a camera, which always has some noise"""
    generator = np.random.default_rng(0)
    noise = generator.normal(0, GREY_LEVELS_OF_NOISE, (round(seconds * FRAMES_PER_SECOND), *frame.shape))
    return list(np.clip(frame + noise, 0, 255).astype(np.uint8))


def at_the_pace_of_a_camera(frames: list[np.ndarray], began: float) -> Iterator[tuple[int, np.ndarray]]:
    for index, frame in enumerate(frames):
        time.sleep(max(0.0, began + index / FRAMES_PER_SECOND - time.perf_counter()))
        yield index, frame


@dataclass(frozen=True)
class Runtime:
    """`load` takes the settings of the process, and gives what `translate_in_steps` calls with a video."""

    load: Callable[[dict[str, Any]], Any]
    translate_in_steps: Callable[[Any, str], dict[str, float]]
    streams: bool


RUNTIMES = {
    "torch": Runtime(in_torch, pipeline_in_steps, True),
    "exported": Runtime(exported, exported_in_steps, False),
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
