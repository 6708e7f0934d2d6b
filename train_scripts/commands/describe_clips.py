"""
Describe the clips of a data set: a vision-language model says what hands, face and body do, and a text encoder turns
each description into an embedding, which training can teach to a sign encoder (MMSLT, https://arxiv.org/abs/2411.16789).

    flallm describe --dataset phoenix14t --describer_name_or_path llava-hf/llava-onevision-qwen2-7b-ov-hf \
        --text_encoder_name_or_path google-bert/bert-base-cased --description_pooling cls --output_dir descriptions

Descriptions by people or other tools come in with `--description_column`. What the whole will cost is printed first.
Broken clips are skipped, listed at the end, and make the command exit with status 1. After an interruption, run the
same command again to resume. On several devices, start the module directly, and the processes share the clips:

    torchrun --nproc_per_node 4 -m train_scripts.commands.describe_clips --dataset phoenix14t ...
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm

from modeling_flallm.own_processing import MODALITIES
from modeling_flallm.pretrained_vision_slt import source_of

from ..arguments.command_line import run_command
from ..arguments.commands import COMMANDS
from ..arguments.data_arguments import DatasetArguments
from ..arguments.description_arguments import DescribeArguments, DescriberArguments, DescriptionEmbeddingArguments
from ..clips.description_folder import ClipToDescribe, DescriptionFolder
from ..clips.description_store import ClipDescriptions, OriginOfDescriptions
from ..clips.feature_cache import DIGESTS_FOLDER, default_cache_folder
from ..clips.feature_fingerprints import ContentDigests, FoundDigest, fingerprint_of_encoder, key_of
from ..clips.splits import load_split, wanted_splits
from ..hub.hub_names import check_model_names
from ..machine.processes import in_words, start_processes
from ..runs.describers import ColumnDescriber, Describer, ModelDescriber, origin_of_describer
from ..runs.sentence_encoder import SentenceEncoder, load_sentence_encoder

VIDEOS = next(modality for modality in MODALITIES if modality.has_space)


@dataclass
class PlannedClip:
    """
    A clip of this process.

    Args:
        name: of its split and itself, for people.
        row: with its video.
        content: digest of what is described.
        num_descriptions: expected; 0 for a clip that is described already, has no text or is broken.
        is_done: whether its file is complete.
        problem: why it cannot be described.
    """

    name: str
    clip: ClipToDescribe
    row: dict[str, Any]
    content: str
    num_descriptions: int = 0
    is_done: bool = False
    problem: str = ""


def describe(
    arguments: DescribeArguments, source: DescriberArguments, embedding: DescriptionEmbeddingArguments
) -> tuple[dict[str, int], list[str]]:
    """-> number of described clips of each split, and what is wrong with broken clips"""
    check_model_names(source)
    check_model_names(embedding)
    splits = wanted_splits([arguments.dataset], arguments.splits)
    device, precision = start_processes(arguments.device, source.dtype, arguments.num_threads)
    encoder = load_sentence_encoder(embedding.text_encoder_name_or_path, device, embedding.description_pooling)
    folder = DescriptionFolder(arguments.output_dir, _origin_of(source, embedding, encoder))
    describer = _describer_of(source)
    planned = {
        split: _plan_split(arguments, source, name, split, folder, describer) for split, [(_, name)] in splits.items()
    }
    todo = [clip for clips in planned.values() for clip in clips if clip.num_descriptions]
    _print_cost(todo, source)
    if todo:
        describer.load(device, precision)
        _describe_clips(todo, describer, encoder, folder, arguments.disable_tqdm)
    for split, clips in planned.items():
        folder.write_table(split, [each.clip for each in clips if each.is_done])
    folder.finish([arguments.dataset])
    problems = [f"{each.name}: {each.problem}" for clips in planned.values() for each in clips if each.problem]
    return folder.counts, gather_object(problems)


def _describer_of(source: DescriberArguments) -> Describer:
    if source.description_column is not None:
        return ColumnDescriber(VIDEOS, source.description_column)
    return ModelDescriber(VIDEOS, source)


def _origin_of(
    source: DescriberArguments, embedding: DescriptionEmbeddingArguments, encoder: SentenceEncoder
) -> OriginOfDescriptions:
    by_model = source.describer_name_or_path is not None
    describer = origin_of_describer(source.describer_name_or_path) if by_model else None
    text_encoder = source_of(embedding.text_encoder_name_or_path, {})
    return OriginOfDescriptions(
        describer=describer.name if by_model else None,
        describer_revision=describer.revision if by_model else None,
        describer_license=describer.license if by_model else None,
        describer_fingerprint=describer.fingerprint if by_model else None,
        column=source.description_column,
        prompt=source.description_prompt if by_model else None,
        stride=source.description_stride if by_model else None,
        segment_frames=source.segment_frames,
        max_new_tokens=source.max_new_tokens if by_model else None,
        quantization=source.quantization if by_model else None,
        text_encoder=text_encoder["name"],
        text_encoder_revision=text_encoder.get("revision"),
        text_encoder_license=text_encoder.get("license"),
        text_encoder_fingerprint=fingerprint_of_encoder(encoder.model),
        pooling=encoder.pooling,
        width=encoder([""]).shape[1],
        embeddings_dtype=embedding.embeddings_dtype,
    )


def _plan_split(
    arguments: DescribeArguments,
    source: DescriberArguments,
    name: str,
    split: str,
    folder: DescriptionFolder,
    describer: Describer,
) -> list[PlannedClip]:
    """The clips of this process in a split, which the data set calls `name`."""
    used = () if source.description_column is None else (source.description_column,)
    rows = load_split(DatasetArguments([arguments.dataset], arguments.text_column), name, also_used=used)
    for column in (VIDEOS.column, *used):
        if column not in rows.column_names:
            raise ValueError(
                f"`{column}` must be a column of {arguments.dataset} ({name}), got columns {rows.column_names}."
            )
    clips = folder.clips_of(split, rows, VIDEOS, name)
    digests = ContentDigests(default_cache_folder() / DIGESTS_FOLDER).find(rows, describer.modality)
    state = PartialState()
    mine = list(zip(clips, digests, strict=True))[state.process_index :: state.num_processes]
    return [_plan_clip(clip, found, rows[clip.index], name, folder, describer) for clip, found in mine]


def _plan_clip(
    clip: ClipToDescribe,
    found: FoundDigest,
    row: dict[str, Any],
    split: str,
    folder: DescriptionFolder,
    describer: Describer,
) -> PlannedClip:
    content = key_of(f"{found.digest} {describer.content(row)}", row.get("start"), row.get("end"), 0)
    planned = PlannedClip(f"{clip.key} ({split})", clip, row, content, problem=found.error)
    if not planned.problem and folder.holds(clip, content):
        planned.is_done = True
    elif not planned.problem:
        try:
            planned.num_descriptions = describer.count(row)
        except ValueError as error:
            planned.problem = str(error)
    return planned


def _print_cost(todo: Sequence[PlannedClip], source: DescriberArguments) -> None:
    """How much all processes together have to do."""
    counts = gather_object([each.num_descriptions for each in todo])
    if not PartialState().is_main_process:
        return
    work = f"To do: {len(counts):,} clips, {sum(counts):,} descriptions"
    if source.describer_name_or_path is not None:
        work += f", at most {sum(counts) * source.max_new_tokens:,} new tokens ({source.max_new_tokens} each)"
    print(f"{work}.", flush=True)


def _describe_clips(
    todo: Sequence[PlannedClip],
    describer: Describer,
    encoder: SentenceEncoder,
    folder: DescriptionFolder,
    disable_tqdm: bool,
) -> None:
    is_silent = disable_tqdm or not PartialState().is_main_process
    with tqdm(total=sum(each.num_descriptions for each in todo), desc="descriptions", disable=is_silent) as bar:
        began = time.monotonic()
        for planned in todo:
            try:
                clip = describer.read(planned.row)
            except ValueError as error:
                planned.problem = str(error)
                bar.update(planned.num_descriptions)
                continue
            texts: list[str] = []
            embeddings: list[torch.Tensor] = []
            for batch in describer.texts_of(clip):
                texts += batch
                embeddings.append(encoder(batch))
                bar.update(len(batch))
                if planned is todo[0] and len(texts) == len(batch):
                    _print_time(len(batch), time.monotonic() - began, todo)
            found = ClipDescriptions(torch.cat(embeddings), torch.tensor(clip.frames), texts, clip.num_frames)
            folder.write(planned.clip, planned.content, found)
            planned.is_done = True


def _print_time(num_described: int, seconds: float, todo: Sequence[PlannedClip]) -> None:
    """Of this process, whose share is as large as that of any other."""
    if PartialState().is_main_process:
        total = seconds / num_described * sum(each.num_descriptions for each in todo)
        tqdm.write(f"The first {num_described} took {in_words(seconds)}: all take about {in_words(total)}.", sys.stdout)


def run(argv: Sequence[str] | None = None) -> int:
    """Describe clips from command-line arguments; returns 1 if a clip is broken."""
    arguments, source, embedding = COMMANDS["describe"].parse(argv)
    began = time.monotonic()
    counts, problems = describe(arguments, source, embedding)
    if PartialState().is_main_process:
        if problems:
            print(f"Left out {len(problems)} broken clip(s):", *problems, sep="\n  ", file=sys.stderr)
        described = ", ".join(f"{count:,} {split} clips" for split, count in counts.items())
        print(f"Described: {described}, in {in_words(time.monotonic() - began)}: {arguments.output_dir}")
    return int(bool(problems))


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(run, argv)


if __name__ == "__main__":
    sys.exit(main())
