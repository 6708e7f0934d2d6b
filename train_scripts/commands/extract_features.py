"""
Compute the visual features of a data set with a sign encoder, once.

    flallm features --dataset phoenix14t/ --vision_model_name_or_path stage1

fills the feature cache: `flallm train llm-fine-tuning --cache_features True` with the same encoder and settings then
computes nothing. With `--output_dir` the features also become a data set that others can read and train on:

    flallm features --dataset phoenix14t/ --vision_model_name_or_path stage1 --output_dir phoenix14t_features
    flallm train llm-fine-tuning --dataset phoenix14t_features --visual_features_size 512 ...

Broken clips are skipped, listed at the end, and make the command exit with status 1. After an interruption, run the
same command again to resume. On several devices, start the module directly, and the processes share the clips:

    torchrun --nproc_per_node 4 -m train_scripts.commands.extract_features --dataset phoenix14t/ \
        --vision_model_name_or_path stage1
"""

import sys
import time
from collections.abc import Iterator, Sequence

from accelerate import PartialState

from modeling_flallm.own_processing import EncoderOfFeatures

from ..arguments.command_arguments import ExtractionArguments
from ..arguments.command_line import run_command
from ..arguments.commands import COMMANDS
from ..arguments.data_arguments import DatasetArguments, EncoderVideoArguments, FeatureStoreArguments
from ..arguments.model_arguments import NamedEncoderArguments
from ..clips.augmentation import MiddleFrames
from ..clips.data import ClipDataset
from ..clips.feature_cache import EncodingSettings, FeatureCache, KeptFeatures
from ..clips.feature_fingerprints import fingerprint_of_features, settings_of
from ..clips.feature_folder import FeatureFolder, OriginOfFeatures
from ..clips.splits import load_split, wanted_splits
from ..hub.hub_names import check_model_names
from ..machine.machine import num_loading_processes
from ..machine.processes import start_processes
from ..machine.ray_cluster import is_one_of_several, run_as_processes_on_ray
from ..runs.feature_encoders import FeatureEncoder, load_feature_encoder


def extract(
    arguments: ExtractionArguments,
    named: NamedEncoderArguments,
    video: EncoderVideoArguments,
    store: FeatureStoreArguments,
) -> tuple[list[KeptFeatures], list[str]]:
    """-> features of the clips of each split of each data set, and what is wrong with broken clips"""
    named.check_named_encoder()
    if not named.vision_model_name_or_path:
        raise ValueError("`--vision_model_name_or_path` must name the encoder whose features are computed.")
    check_model_names(named)
    splits = wanted_splits(arguments.dataset, arguments.splits)
    device, precision = start_processes(arguments.device, arguments.dtype, arguments.num_threads)
    num_workers = num_loading_processes(device) if arguments.num_workers is None else arguments.num_workers
    settings = EncodingSettings(device, precision, arguments.batch_size, num_workers, arguments.disable_tqdm)
    source = load_feature_encoder(named, video)
    source.encoder.frames_per_chunk = arguments.frames_per_chunk
    folder = None
    if arguments.output_dir is not None:
        folder = FeatureFolder(arguments.output_dir, _origin_of(source, settings, store), settings.is_silent)
    cache = FeatureCache(source.encoder, source.modality, store, settings)
    all_kept, problems = [], []
    for split, places in splits.items():
        parts = []
        for dataset, name in places:
            rows = load_split(DatasetArguments([dataset], arguments.text_column), name)
            # A training on the cache takes other frames than evaluation, also without augmentation.
            clips = ClipDataset(rows, source.modality, MiddleFrames() if split == "train" else None)
            kept = cache.compute(clips, split, skips_broken_clips=True)
            parts.append((clips, kept))
            problems += [f"{dataset} ({name}): {text}" for _, text in sorted(kept.errors.items())]
        if folder is not None:
            folder.write_split(split, parts, source.encoder)
        all_kept += [kept for _, kept in parts]
    if folder is not None:
        folder.finish(arguments.dataset)
    return all_kept, problems


def _origin_of(source: FeatureEncoder, settings: EncodingSettings, store: FeatureStoreArguments) -> OriginOfFeatures:
    return OriginOfFeatures(
        encoder=EncoderOfFeatures(source.name, fingerprint_of_features(source.encoder, source.modality)),
        revision=source.revision,
        license=source.license,
        hidden_size=source.encoder.features_size,
        features_dtype=store.features_dtype,
        precision=str(settings.precision).removeprefix("torch."),
        clip_settings=settings_of(source.modality),
    )


def _counts(all_kept: list[KeptFeatures]) -> Iterator[int]:
    """The number of features of each clip."""
    for kept in all_kept:
        yield from (kept.store.count(key) for key in kept.keys[0] if key is not None)


def run(argv: Sequence[str] | None = None) -> int:
    """Compute features from command-line arguments; returns 1 if a clip is broken."""
    arguments, named, video, store, sharing = COMMANDS["features"].parse(argv)
    cluster = sharing.cluster(uses_gpus=arguments.device != "cpu", threads=arguments.num_threads)
    if cluster is not None and not is_one_of_several():
        return run_as_processes_on_ray(cluster, "train_scripts.commands.extract_features", argv)
    started = time.monotonic()
    all_kept, problems = extract(arguments, named, video, store)
    if PartialState().is_main_process:
        counts = list(_counts(all_kept))
        place = all_kept[0].store.folder if arguments.output_dir is None else arguments.output_dir
        seconds = time.monotonic() - started
        if problems:
            print(f"Left out {len(problems)} broken clip(s):", *problems, sep="\n  ", file=sys.stderr)
        print(f"{len(counts):,} clips, {sum(counts):,} features, {seconds:.1f} seconds: {place}")
    return int(bool(problems))


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(run, argv)


if __name__ == "__main__":
    sys.exit(main())
