"""How flallm translate gets from its flags to a stream of translations: in this process, or in several."""

import dataclasses
import functools
import math
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from modeling_flallm import FLaLLMForTranslation
from modeling_flallm.own_processing import FLaLLMProcessor, spoken_language_name

from ..arguments.translation_arguments import TranslateArguments
from ..hub.training_run import longest_clip_of_training
from ..machine.cores import num_cores
from ..machine.machine import default_device, describe_machine, prepare_machine
from ..machine.process_pool import run_in_processes
from ..machine.ray_cluster import RayCluster, run_on_ray
from ..scores.candidates import utility_of_flag
from .clips_of_data_set import ClipOfDataSet
from .quantization import load_to_translate
from .translation_results import CAPTION_FORMATS, Journal, Translation
from .video_translation import (
    BATCHES_SORTED_BY_LENGTH,
    build_translator,
    translate_long_videos,
    translate_videos,
)

Task = tuple[tuple[int, Path | ClipOfDataSet], ...]
Translating = Callable[[Sequence[Path | ClipOfDataSet], Journal | None], Iterator[Translation]]


def translate_here(
    arguments: TranslateArguments,
    videos: Sequence[Path | ClipOfDataSet],
    journal: Journal | None,
    with_confidence: bool,
) -> Iterator[Translation]:
    """Load the model, and yield translations as `translate_videos` or `translate_long_videos` do."""
    return _load_translating(arguments, with_confidence)(videos, journal)


def translate_in_processes(
    arguments: TranslateArguments,
    videos: Sequence[Path | ClipOfDataSet],
    journal: Journal | None,
    with_confidence: bool,
    cluster: RayCluster | None = None,
) -> Iterator[Translation]:
    """
    Like `translate_here`, in `arguments.num_processes` processes with a model each, or in those of a cluster. The
    videos of a process that dies are tried again, each in a task of its own: one that ends its process again costs
    itself only. Sentences of a long video are not kept in the journal before the video is finished.
    """
    if cluster is None:
        num_processes = arguments.num_processes
        run = functools.partial(run_in_processes, num_workers=num_processes, lost=_lost)
        share = functools.partial(_share_of_this_machine, arguments)
    else:
        num_processes, _ = cluster.processes(cluster.connect())
        run = functools.partial(run_on_ray, cluster, lost=_lost)
        share = functools.partial(dataclasses.replace, arguments, num_threads=cluster.threads)
    function = functools.partial(_translate_task, share, with_confidence)
    numbered = list(enumerate(videos))
    most = 1 if arguments.long else arguments.batch_size * BATCHES_SORTED_BY_LENGTH
    size = max(1, min(most, math.ceil(len(numbered) / num_processes)))
    tasks: list[Task] = [tuple(numbered[first : first + size]) for first in range(0, len(numbered), size)]
    alone: list[Task] = []
    for task, result in run(function, tasks):
        if isinstance(result, str):
            alone += [(video,) for video in task]
        else:
            yield from result
    for ((position, video),), result in run(function, alone) if alone else ():
        failed = [Translation(str(video), error=f"Translating it failed: {result}.", position=position)]
        yield from failed if isinstance(result, str) else result


def _lost(task: Task, how: str) -> str:
    return how


def _translate_task(share: Callable[[], TranslateArguments], with_confidence: bool, task: Task) -> list[Translation]:
    """In a worker process, of which `share` makes the arguments."""
    positions, videos = zip(*task, strict=True)
    if not _LOADED:
        _LOADED.append(_load_translating(share(), with_confidence))
    translations = list(_LOADED[0](videos, None))
    for translation in translations:
        translation.position = positions[translation.position]
    return translations


_LOADED: list[Translating] = []  # of this process


def _share_of_this_machine(arguments: TranslateArguments) -> TranslateArguments:
    """One of the GPUs, or a part of the cores."""
    device = torch.device(arguments.device or default_device())
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", (_number_of_this_process() - 1) % torch.cuda.device_count())
    threads = arguments.num_threads or max(1, num_cores() // arguments.num_processes)
    return dataclasses.replace(arguments, device=str(device), num_threads=threads)


def _number_of_this_process() -> int:
    """1, 2, ... in worker processes; 0 in a process that nobody started."""
    return next(iter(multiprocessing.current_process()._identity), 0)


def _load(arguments: TranslateArguments) -> tuple[FLaLLMForTranslation, FLaLLMProcessor]:
    device = torch.device(arguments.device or default_device())
    prepare_machine(device, arguments.num_threads)
    model, processor = load_to_translate(arguments.model, device, arguments.dtype, arguments.quantization)
    if _number_of_this_process() <= 1:
        print(describe_machine(device, model.vision_model.dtype), file=sys.stderr)
    if arguments.spoken_language is not None:
        choose_language(model, processor, arguments.spoken_language)
    return model, processor


def _load_translating(arguments: TranslateArguments, with_confidence: bool) -> Translating:
    """Load the model with all that it needs -> from videos, and the journal of long ones, to their translations"""
    model, processor = _load(arguments)
    if arguments.long and not processor.modality.has_rests:
        clips = processor.modality.words.clips
        raise ValueError(f"--long splits videos, but this model reads {clips}. Leave it out.")
    shared = {
        "start": arguments.start,
        "end": arguments.end,
        "num_beams": arguments.num_beams,
        "caption_formats": [name for name in CAPTION_FORMATS if getattr(arguments, name)],
        "with_confidence": with_confidence,
        "choice": _choice(arguments, model),
        "left_handed": arguments.left_handed,
    }
    if arguments.left_handed is not False:
        model.vision_model.check_can_be_mirrored()
    if arguments.long:
        translate = functools.partial(translate_long_videos, build_translator(model, processor), **shared)
    else:
        amounts = {"batch_size": arguments.batch_size, "num_workers": arguments.num_workers}
        amounts["longest_clip"] = longest_clip_of_training(arguments.model)
        translate = functools.partial(translate_videos, model, processor, **amounts, **shared)

    def translate_alike(videos: Sequence[Path | ClipOfDataSet], journal: Journal | None) -> Iterator[Translation]:
        if shared["choice"]:
            torch.manual_seed(0)  # the same command draws the same samples
        return translate(videos, **({"journal": journal} if arguments.long else {}))

    return translate_alike


def _choice(arguments: TranslateArguments, model: FLaLLMForTranslation) -> dict[str, Any]:
    """Arguments of the pipeline that choose among candidates."""
    if arguments.num_candidates is None:
        return {}
    model.candidate_arguments(arguments.num_candidates, {"num_beams": arguments.num_beams})  # raises before the work
    utility = utility_of_flag(arguments.choose_by, model.device)
    return {"num_candidates": arguments.num_candidates, "choose_by": utility}


def choose_language(model: FLaLLMForTranslation, processor: FLaLLMProcessor, tag: str) -> None:
    """
    Make the prompt ask for the language of a tag, by its English name, as in training.

    Raises:
        ValueError: like the pipeline, for a model that reads no prompt.
    """
    if not model.prompt_input_names:
        raise ValueError(
            "`spoken_language` goes into a prompt, and this model reads none. Choose its language by the tokenizer's "
            "`tgt_lang` and `forced_bos_token_id`."
        )
    processor.spoken_language = spoken_language_name(tag)
