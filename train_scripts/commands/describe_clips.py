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

import datasets
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
from ..machine.ray_cluster import is_one_of_several, run_as_processes_on_ray
from ..runs.describers import ColumnDescriber, Describer, ModelDescriber, ReadClip, origin_of_describer
from ..runs.sentence_encoder import SentenceEncoder, load_sentence_encoder

VIDEOS = next(modality for modality in MODALITIES if modality.has_space)


@dataclass
class PlannedClip:
    """
    A clip of this process.

    Args:
        name: of its split and itself, for people.
        rows: of its split, on disk: the videos of a data set on the Hub are only read when their turn comes.
        content: digest of what is described.
        num_descriptions: expected; 0 for a clip that is described already, has no text or is broken.
        is_done: whether its file is complete.
        problem: why it cannot be described.
    """

    name: str
    clip: ClipToDescribe
    rows: datasets.Dataset
    content: str
    num_descriptions: int = 0
    is_done: bool = False
    problem: str = ""

    @property
    def row(self) -> dict[str, Any]:
        """With its video."""
        return self.rows[self.clip.index]


def describe(
    arguments: DescribeArguments, source: DescriberArguments, embedding: DescriptionEmbeddingArguments
) -> tuple[dict[str, int], list[str]]:
    """-> number of described clips of each split, and what is wrong with broken clips"""
    check_model_names(source)
    check_model_names(embedding)
    splits = wanted_splits([arguments.dataset], arguments.splits)
    device, precision = start_processes(arguments.device, source.dtype, arguments.num_threads)
    encoder = load_sentence_encoder(embedding.text_encoder_name_or_path, device, embedding.description_pooling)
    folder = DescriptionFolder(arguments.output_dir, _origin_of(source, embedding, encoder, precision))
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
    source: DescriberArguments,
    embedding: DescriptionEmbeddingArguments,
    encoder: SentenceEncoder,
    precision: torch.dtype,
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
        segment_frames=source.segment_frames if by_model else None,
        max_new_tokens=source.max_new_tokens if by_model else None,
        quantization=source.quantization if by_model else None,
        dtype=str(precision).removeprefix("torch.") if by_model else None,
        text_encoder=text_encoder["name"],
        text_encoder_revision=text_encoder.get("revision"),
        text_encoder_license=text_encoder.get("license"),
        text_encoder_fingerprint=fingerprint_of_encoder(encoder.model),
        pooling=encoder.pooling,
        is_normalized=encoder.is_normalized,
        width=encoder(["a hand"]).shape[1],
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
    return [_plan_clip(clip, found, rows, name, folder, describer) for clip, found in mine]


def _plan_clip(
    clip: ClipToDescribe,
    found: FoundDigest,
    rows: datasets.Dataset,
    split: str,
    folder: DescriptionFolder,
    describer: Describer,
) -> PlannedClip:
    row = rows[clip.index]
    content = key_of(f"{found.digest} {describer.content(row)}", row.get("start"), row.get("end"), 0)
    planned = PlannedClip(f"{clip.key} ({split})", clip, rows, content, problem=found.error)
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
        is_timed = False
        for planned in todo:
            finished = bar.n
            try:
                began = time.monotonic()
                clip = describer.read(planned.row)
                seconds_to_read = time.monotonic() - began
                texts: list[str] = []
                embeddings: list[torch.Tensor] = []
                for batch in describer.texts_of(clip):
                    texts += batch
                    embeddings += [encoder(said)] if (said := [text for text in batch if text]) else []
                    bar.update(len(batch))
                    if not is_timed:
                        seconds = time.monotonic() - began - seconds_to_read
                        _print_time(len(batch), seconds, len(clip.frames), seconds_to_read, todo)
                        is_timed = True
                folder.write(planned.clip, planned.content, _descriptions_of(clip, texts, embeddings))
                planned.is_done = True
            except ValueError as error:
                planned.problem = str(error)
            bar.update(finished + planned.num_descriptions - bar.n)


def _descriptions_of(clip: ReadClip, texts: list[str], embeddings: list[torch.Tensor]) -> ClipDescriptions:
    """Frames about which a describer said nothing are not described."""
    if not embeddings:
        raise ValueError("the describer said nothing about it")
    frames = [bounds for bounds, text in zip(clip.frames, texts, strict=True) if text]
    return ClipDescriptions(
        torch.cat(embeddings), torch.tensor(frames), [text for text in texts if text], clip.num_frames
    )


def _print_time(
    num_described: int, seconds: float, num_of_clip: int, seconds_to_read: float, todo: Sequence[PlannedClip]
) -> None:
    """
    From the first batch of a clip in the main process.

    Args:
        num_of_clip: descriptions of this clip, and the seconds in which it was read.
    """
    if PartialState().is_main_process:
        of_one = seconds / num_described + seconds_to_read / num_of_clip
        total = of_one * sum(each.num_descriptions for each in todo)
        tqdm.write(f"The first {num_described} took {in_words(seconds)}: all take about {in_words(total)}.", sys.stdout)


def run(argv: Sequence[str] | None = None) -> int:
    """Describe clips from command-line arguments; returns 1 if a clip is broken."""
    arguments, source, embedding, sharing = COMMANDS["describe"].parse(argv)
    cluster = sharing.cluster(uses_gpus=arguments.device != "cpu", threads=arguments.num_threads)
    if cluster is not None and not is_one_of_several():
        return run_as_processes_on_ray(cluster, "train_scripts.commands.describe_clips", argv)
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
