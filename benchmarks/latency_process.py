"""
One process of `benchmarks/latency.py`: from its start to the first sentence, then sentences when all is warm, then a
stream at real time. It imports what a user's program would, and prints one line of JSON.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

FRAMES_PER_SECOND = 25
# The signer rests after the clip, for longer than it takes to find that out.
SECONDS_OF_REST = 2.0


def in_torch(folder: str) -> Any:
    """-> the pipeline of a saved model"""
    from transformers import pipeline

    import modeling_flallm  # noqa: F401, which makes the model known

    return pipeline("sign-language-translation", model=folder, device="cpu")


# By name; another runtime is one more function that gives a pipeline.
RUNTIMES: dict[str, Callable[[str], Any]] = {"torch": in_torch}


def main(argv: list[str]) -> int:
    settings = json.loads(argv[0])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: settings["cores"]])
    torch.set_num_threads(settings["cores"])
    translator = RUNTIMES[settings["runtime"]](settings["model"])
    loaded = time.time()
    translator(settings["video"])
    told = time.time()
    cold = {"load": loaded - settings["started"], "translate": told - loaded}
    warm = [translate_in_steps(translator, settings["video"]) for _ in range(settings["num_rounds"])]
    frames = frames_of(Path(settings["video"]))
    stream = [translate_live(translator, frames) for _ in range(settings["num_rounds"])]
    print(json.dumps({"cold": cold, "warm": warm, "stream": stream}))
    return 0


def translate_in_steps(translator: Any, video: str) -> dict[str, float]:
    """Seconds of each step of a call"""
    times = [time.perf_counter()]

    def done(value: Any) -> Any:
        times.append(time.perf_counter())
        return value

    clip = done(translator.read_clip(video))
    encoded = done(translator.encode_clips([clip]))
    written = done(translator.write_sentences(encoded))
    done(translator.answers_of(written[0]))
    decode, encode, write, answer = np.diff(times).tolist()
    return {"decode": decode, "encode": encode, "write": write + answer}


def frames_of(video: Path) -> list[np.ndarray]:
    """As a camera gives them, uint8 `(height, width, 3)`"""
    from processing import decode_video

    return list(decode_video(video).frames.permute(0, 2, 3, 1).numpy())


def translate_live(translator: Any, frames: list[np.ndarray]) -> dict[str, float]:
    """
    Feed frames at the pace of a camera, then the last one again, as of a signer who rests. Seconds from when the last
    frame of the clip was due: until the first word of a text that was made of all of the clip, until that text is
    whole, and until it is final; and by how much the feed was late at most.
    """
    from modeling_flallm import StreamingTranslator

    arrived: list[tuple[float, dict[str, Any]]] = []
    late = 0.0
    with StreamingTranslator(translator, return_scores=True) as stream:
        began = time.perf_counter()
        for index, frame in at_the_pace_of_a_camera(frames, began):
            seconds = index / FRAMES_PER_SECOND
            arrived += [(time.perf_counter(), update) for update in stream.add(frame, seconds)]
            late = max(late, time.perf_counter() - began - seconds)
        arrived += [(time.perf_counter(), update) for update in stream.finish()]
    last_frame = (len(frames) - 1) / FRAMES_PER_SECOND
    of_all = [(second - began - last_frame, update) for second, update in arrived if update["signing_end"] > last_frame]
    # An update has a score once its text is whole.
    whole = next(second for second, update in of_all if "score" in update)
    return {"first_word": of_all[0][0], "sentence": whole, "final": of_all[-1][0], "late": late}


def at_the_pace_of_a_camera(frames: list[np.ndarray], began: float) -> Iterator[tuple[int, np.ndarray]]:
    repeated = [frames[-1]] * round(SECONDS_OF_REST * FRAMES_PER_SECOND)
    for index, frame in enumerate([*frames, *repeated]):
        time.sleep(max(0.0, began + index / FRAMES_PER_SECOND - time.perf_counter()))
        yield index, frame


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
