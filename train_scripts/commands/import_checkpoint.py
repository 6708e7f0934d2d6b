"""
Import a trained checkpoint of GFSLT-VLP, sltbaselines or Uni-Sign: from their file to a folder for `from_pretrained`.

    flallm import-checkpoint --checkpoint best_checkpoint.pth --source sltbaselines_stage2 \
        --text_model_name_or_path MBart_trimmed --target_language de_DE --output_dir imported

`--text_model_name_or_path` is the folder that their `config['model']['tokenizer']` names. Uni-Sign's published weights
(`ZechengLi19/Uni-Sign` on the Hub):

    flallm import-checkpoint --checkpoint csl_daily_pose_only_slt.pth --source uni_sign \
        --text_model_name_or_path google/mt5-base --spoken_language zh --output_dir imported

The output folder holds the model, its processor and `import_report.json`, which says for every key of the checkpoint
where it went, or why it was left out. The import stops at a key that our model cannot express, and at a weight of ours
that nothing fills.

Where the mappings come from (both repositories call their model `gloss_free_model`):

- GFSLT-VLP, https://github.com/zhoubenjia/GFSLT-VLP, commit 91ba953cf26492cd085fc12d20dc952f2a727ee1: models.py (names
  and order of the layers), datasets.py (clip padding and pixels), train_slt.py (what a checkpoint holds),
  pretrain_models/mytran/config.json (heads and activation of its text model).
- sltbaselines, https://github.com/ozgemercanoglu/sltbaselines, commit 71e92970d1dc9b62ff9bdb57df710986e3be6029:
  models/models.py, dataloader/datasets.py, train_slt.py and configs/, in the same roles.

Differences after the import:

- GFSLT-VLP's adapter has a BatchNorm. It is folded into the linear layer before it, which is the same function in
  evaluation; further training continues without it.
- Clips of more than 300 frames lose random frames there, even in evaluation; here they are thinned evenly.
- PIL resizes there, torchvision here: in enlarged frames about one pixel value in 200 is up to two grey levels off.
- sltbaselines trains on CSL-Daily with a space between characters, so its models write one.
- A checkpoint does not record `training.scale_embedding`. It is assumed to be False, as in all their configs.
- Uni-Sign: clips of more than 256 frames lose random frames there, even in evaluation; here they are thinned evenly.
  Padding repeats the last frame there, and changes what is near the end of the shorter clips of a batch. The branch
  that reads pictures of the hands is left out.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.image_utils import PILImageResampling

from modeling_flallm import FLaLLMConfig, FLaLLMForTranslation, UniSignForTranslation
from modeling_flallm.own_processing import FLaLLMProcessor, FLaLLMVideoProcessor, PoseFeatureExtractor

from ..arguments.command_arguments import ImportArguments
from ..arguments.command_line import run_command
from ..arguments.commands import COMMANDS
from ..arguments.flag_values import check_new_folder
from ..arguments.stage_arguments import POSE_PROMPT
from ..arguments.system_rows import systems
from ..hub.hub_names import check_model_names
from ..machine.atomic_files import write_folder, write_json
from ..runs.generation_defaults import set_generation_defaults
from ..runs.imported_configs import build_text_config, read_mbart_config, read_vision_config
from ..runs.imported_uni_sign import convert_uni_sign, read_uni_sign_checkpoint, read_uni_sign_config
from ..runs.imported_weights import (
    MAX_NUM_FRAMES,
    NUM_BEAMS,
    Checkpoint,
    Conversion,
    convert,
    read_checkpoint,
)
from ..runs.tokenizers import load_tokenizer

Imported = tuple[FLaLLMForTranslation, FLaLLMProcessor, Conversion]


def build_config(
    arguments: ImportArguments, weights: Mapping[str, torch.Tensor], tokenizer: PreTrainedTokenizerBase
) -> FLaLLMConfig:
    """
    Raises:
        ValueError: as in the functions it calls, or for a layer norm in the adapter of a GFSLT-VLP checkpoint.
    """
    has_layer_norm = "adapter.norm.weight" in weights
    if has_layer_norm and arguments.source == "gfslt_vlp":
        raise ValueError(
            "The checkpoint's adapter has a LayerNorm, which GFSLT-VLP never has. Pass --source sltbaselines_stage1 or "
            "sltbaselines_stage2."
        )
    language_model = read_mbart_config(arguments.text_model_name_or_path)
    return FLaLLMConfig(
        vision_config=read_vision_config(weights),
        text_config=build_text_config(arguments.source, weights, language_model, arguments.text_config_file, tokenizer),
        adapter_hidden_size=0,
        adapter_norm=has_layer_norm,
    )


def build_model(
    model_class: type[FLaLLMForTranslation], config: FLaLLMConfig, weights: dict[str, torch.Tensor]
) -> FLaLLMForTranslation:
    """
    The model with exactly these weights.

    Raises:
        ValueError: if a weight or buffer of the model is missing, has another shape, or is unknown to it.
    """
    with torch.device("meta"):
        empty = model_class(config)
    # named_parameters lists a tied weight once, which a checkpoint may hold untied; state_dict leaves out the buffers
    # that are not saved.
    known = {name: tuple(value.shape) for name, value in empty.state_dict().items()}
    needed = [name for name, _ in (*empty.named_parameters(), *empty.named_buffers()) if name in known]
    given = {name: tuple(value.shape) for name, value in weights.items()}
    problems = [f"{name} is missing" for name in needed if name not in given]
    problems += [f"{name} is unknown to FLaLLM" for name in given if name not in known]
    problems += [
        f"{name} is {given[name]} instead of {shape}"
        for name, shape in known.items()
        if given.get(name, shape) != shape
    ]
    if problems:
        raise ValueError(f"The checkpoint does not fit FLaLLM: {'; '.join(problems)}.")
    return model_class.from_pretrained(None, config=config, state_dict=weights).eval()


def build_processor(checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase) -> FLaLLMProcessor:
    """All frames up to 300, resized by the default filter of PIL's `Image.resize`, cropped in the centre."""
    video_processor = FLaLLMVideoProcessor(
        size={"height": checkpoint.frame_size, "width": checkpoint.frame_size},
        crop_size={"height": checkpoint.crop_size, "width": checkpoint.crop_size},
        resample=PILImageResampling.BICUBIC,
        frame_sampling_rate=1.0,
        max_num_frames=MAX_NUM_FRAMES,
    )
    return FLaLLMProcessor(video_processor=video_processor, tokenizer=tokenizer)


def save(model: FLaLLMForTranslation, processor: FLaLLMProcessor, report: Mapping[str, Any], output_dir: Path) -> None:
    """Write the folder atomically."""

    def fill(folder: Path) -> None:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        write_json(folder / "import_report.json", report)

    write_folder(output_dir, fill)


def import_gloss_free_model(arguments: ImportArguments) -> Imported:
    """
    Of GFSLT-VLP or sltbaselines.

    Raises:
        ValueError, OSError: as in the functions it calls.
    """
    tokenizer = load_tokenizer(arguments.text_model_name_or_path, arguments.target_language)
    checkpoint = read_checkpoint(arguments.checkpoint)
    conversion = convert(checkpoint)
    config = build_config(arguments, conversion.weights, tokenizer)
    model = build_model(FLaLLMForTranslation, config, conversion.weights)
    return model, build_processor(checkpoint, tokenizer), conversion


def import_uni_sign(arguments: ImportArguments) -> Imported:
    """
    Raises:
        ValueError, OSError: as in the functions it calls, and without a `spoken_language`.
    """
    if arguments.spoken_language is None:
        raise ValueError(
            "--spoken_language is required: the prompt of Uni-Sign names the language. Pass zh for its CSL weights, en "
            "for the others."
        )
    tokenizer = load_tokenizer(arguments.text_model_name_or_path, arguments.target_language)
    weights, others = read_uni_sign_checkpoint(arguments.checkpoint)
    conversion = convert_uni_sign(weights, others)
    config = read_uni_sign_config(conversion.weights, arguments.text_model_name_or_path)
    model = build_model(UniSignForTranslation, config, conversion.weights)
    processor = FLaLLMProcessor(
        feature_extractor=PoseFeatureExtractor(keep_aspect_ratio=False),
        tokenizer=tokenizer,
        prompt=POSE_PROMPT,
        spoken_language=arguments.spoken_language,
    )
    return model, processor, conversion


IMPORTERS = {systems.UNI_SIGN.model_type: import_uni_sign}


def import_checkpoint(arguments: ImportArguments) -> None:
    """
    Raises:
        ValueError, OSError: for mistakes that the user has to fix; nothing has been written in that case.
    """
    check_new_folder(arguments.output_dir)
    check_model_names(arguments)
    model, processor, conversion = IMPORTERS.get(arguments.source, import_gloss_free_model)(arguments)
    set_generation_defaults(model, processor.tokenizer, NUM_BEAMS)
    report = {"source": arguments.source, "checkpoint": arguments.checkpoint.name}
    report |= {"targets": conversion.targets, "left_out": conversion.left_out}
    save(model, processor, report, arguments.output_dir)
    print(
        f"{len(conversion.targets)} keys of {arguments.checkpoint} became {len(conversion.weights)} weights and "
        f"buffers, {len(conversion.left_out)} were left out (see import_report.json); saved in {arguments.output_dir}."
    )


def run(argv: Sequence[str] | None = None) -> None:
    (arguments,) = COMMANDS["import-checkpoint"].parse(argv)
    import_checkpoint(arguments)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(run, argv)


if __name__ == "__main__":
    sys.exit(main())
