"""
Import a trained checkpoint of GFSLT-VLP or sltbaselines: from their file to a folder for `from_pretrained`.

    flallm import-checkpoint --checkpoint best_checkpoint.pth --source sltbaselines_stage2 \
        --text_model_name_or_path MBart_trimmed --target_language de_DE --output_dir imported

`--text_model_name_or_path` is the folder that their `config['model']['tokenizer']` names. The folder that is written
holds model, processor and `import_report.json`, which says for every key of the checkpoint where it went, or why it was
left out. A key that our model cannot express stops the import, and so does a weight of ours that nothing fills.

Where the mappings come from (both repositories call their model `gloss_free_model`):

- GFSLT-VLP, https://github.com/zhoubenjia/GFSLT-VLP, commit 91ba953cf26492cd085fc12d20dc952f2a727ee1: models.py (names
  and order of the layers), datasets.py (clip padding and pixels), train_slt.py (what a checkpoint holds),
  pretrain_models/mytran/config.json (heads and activation of its text model).
- sltbaselines, https://github.com/ozgemercanoglu/sltbaselines, commit 71e92970d1dc9b62ff9bdb57df710986e3be6029:
  models/models.py, dataloader/datasets.py, train_slt.py and configs/, in the same roles.

What differs after the import:

- GFSLT-VLP's adapter has a BatchNorm. It is folded into the linear layer in front of it, which is the same function in
  evaluation; training on from there goes without it.
- Clips of more than 300 frames lose random frames there, also in evaluation; here they are thinned evenly.
- PIL resizes there, torchvision here: of enlarged frames about one pixel value in 200 is up to two grey levels off.
- sltbaselines trains on CSL-Daily with a space between characters, so its models write one.
- A checkpoint does not say how `training.scale_embedding` was set. It is taken as False, as in all their configs.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, MBartConfig, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.image_utils import PILImageResampling

from modeling_flallm import FLaLLMConfig, FLaLLMForTranslation, FLaLLMVisionConfig
from modeling_flallm.encoder_frames_slt import RESNET_STAGES
from modeling_flallm.own_processing import FLaLLMProcessor, FLaLLMVideoProcessor

from ..arguments.command_arguments import ImportArguments
from ..arguments.command_line import run_command
from ..arguments.commands import COMMANDS
from ..arguments.flag_values import check_new_folder
from ..hub.hub_names import check_model_names
from ..machine.atomic_files import write_folder, write_json
from ..runs.damaged_models import reading_model
from ..runs.training import load_tokenizer, set_generation_defaults

# Their prefix -> ours. The numbers are places within their nn.Sequential of K5 P2 K5 P2: convolution, BatchNorm, ReLU,
# pooling, and the same again.
PREFIXES = {
    "backbone.conv_2d.resnet.": "vision_model.backbone.",
    "backbone.conv_1d.temporal_conv.0.": "vision_model.temporal_module.blocks.0.convolution.",
    "backbone.conv_1d.temporal_conv.1.": "vision_model.temporal_module.blocks.0.norm.",
    "backbone.conv_1d.temporal_conv.4.": "vision_model.temporal_module.blocks.2.convolution.",
    "backbone.conv_1d.temporal_conv.5.": "vision_model.temporal_module.blocks.2.norm.",
    "sign_emb.src_emb.": "adapter.first.",
    "sign_emb.bn_ac.0.": "adapter.norm.",
    "mbart.": "text_model.",
}
LEFT_OUT_PREFIXES = {
    "model_txt.": "text encoder of C2RL's contrastive loss, no part of translation",
    "logit_scale": "temperature of C2RL's contrastive loss, no part of translation",
}
TRAINING_STATE = ("optimizer", "lr_scheduler", "epoch", "args")

WORD_EMBEDDINGS = "text_model.model.shared.weight"
TIED_WEIGHTS = (
    "text_model.model.encoder.embed_tokens.weight",
    "text_model.model.decoder.embed_tokens.weight",
    "text_model.lm_head.weight",
)
MBART_POSITION_OFFSET = 2  # rows in front of mBART's learned positions
BATCH_NORM_EPSILON = 1e-5  # of torch, which neither repository changes

# Of a text model, what its weights do not show. The values: pretrain_models/mytran/config.json of GFSLT-VLP.
LIGHT_TRANSFORMER = {
    "encoder_attention_heads": 8,
    "decoder_attention_heads": 8,
    "activation_function": "relu",
    "scale_embedding": True,
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
}

# Both repositories, train_slt.py (--resize, --input-size), configs/ (data.max_length) and evaluate()
FRAME_SIZE, CROP_SIZE, MAX_NUM_FRAMES, NUM_BEAMS = 256, 224, 300, 4


@dataclass
class Checkpoint:
    """Weights by the names of `gloss_free_model`, its pixel sizes, and what else the file holds."""

    weights: dict[str, torch.Tensor]
    frame_size: int = FRAME_SIZE
    crop_size: int = CROP_SIZE
    training_state: list[str] = field(default_factory=list)


@dataclass
class Conversion:
    """Weights by our names, and for each key of the checkpoint its targets, or the reason why it has none."""

    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    targets: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def drop(self, name: str, reason: str) -> None:
        """Take out a weight of ours: the key that filled it is left out."""
        source = self._source_of(name)
        self.left_out[source] = reason
        del self.targets[source], self.weights[name]

    def redirect(self, name: str, targets: Sequence[str]) -> None:
        """The key that filled `name`, which is no weight of ours after all, has gone into `targets`."""
        self.targets[self._source_of(name)] = list(targets)
        del self.weights[name]

    def _source_of(self, name: str) -> str:
        return next(source for source, targets in self.targets.items() if targets == [name])


def read_checkpoint(path: Path) -> Checkpoint:
    """
    Raises:
        ValueError, OSError: if there is no such file, it is damaged, or it is no translation model's checkpoint.
    """
    content = _load(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a dictionary with the weights as 'model'.")
    entries = dict(content) if "model" in content else {"model": content}
    weights = entries.pop("model")
    if not _are_weights_by_name(weights):
        raise ValueError(f"{path} holds no weights by name: expected them as its entry 'model'.")
    if any("model_images." in name for name in weights):
        raise ValueError(
            f"{path} comes from the visual-language pre-training (train_vlp.py), which has no adapter and no trained "
            "decoder. Import a checkpoint that train_slt.py has written."
        )
    if unknown := sorted(map(str, set(entries) - set(TRAINING_STATE))):
        raise ValueError(f"{path} holds entries that are not known: {', '.join(unknown)}.")
    if all(name.startswith("module.") for name in weights):  # saved from within DistributedDataParallel
        weights = {name.removeprefix("module."): weight for name, weight in weights.items()}
    return Checkpoint(dict(weights), *_pixel_sizes(entries.get("args")), list(entries))


def _are_weights_by_name(weights: Any) -> bool:
    if not isinstance(weights, Mapping) or not weights:
        return False
    return all(isinstance(name, str) and torch.is_tensor(weight) for name, weight in weights.items())


def _load(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"--checkpoint {path} is no file.")
    try:
        # Both repositories save their arguments in the best checkpoint. A Namespace is safe to allow: it has no
        # __reduce__ or __setstate__ of its own, so making one only sets attributes, and these come from the same
        # restricted unpickler. No function is called, and nothing else is allowed beyond what torch allows.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch raises depends on where a file is damaged
        if asked_for := re.search(r"GLOBAL (\S+)", str(error)):
            raise ValueError(
                f"{path} is refused: loading it would call {asked_for[1]}, which is no part of a checkpoint of weights "
                "and may run code. Save its 'model' entry alone, where you trust the file."
            ) from error
        raise ValueError(
            f"{path} cannot be read as a checkpoint of torch.save: it is damaged, cut off or something else."
        ) from error


def _pixel_sizes(arguments: Any) -> tuple[int, int]:
    """-> frame size and crop size; the arguments that their best checkpoint holds may say others than the default."""
    sizes = getattr(arguments, "resize", FRAME_SIZE), getattr(arguments, "input_size", CROP_SIZE)
    if not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(f"The checkpoint's `args` must give resize and input_size in pixels, got {sizes}.")
    return sizes


def convert(checkpoint: Checkpoint) -> Conversion:
    """
    The checkpoint's weights under our names, in float32.

    Raises:
        ValueError: for keys that our model cannot express.
    """
    conversion = Conversion(left_out={name: "state of the training run" for name in checkpoint.training_state})
    unknown = []
    for source, weight in checkpoint.weights.items():
        prefix = next((prefix for prefix in PREFIXES if source.startswith(prefix)), None)
        reason = next((text for start, text in LEFT_OUT_PREFIXES.items() if source.startswith(start)), None)
        if prefix is not None:
            target = PREFIXES[prefix] + source.removeprefix(prefix)
            conversion.targets[source] = [target]
            # In memory of its own: weights that share theirs, as in a file of torch.save, would be saved but once.
            dtype = torch.float32 if weight.is_floating_point() else weight.dtype
            conversion.weights[target] = weight.to(dtype, copy=True, memory_format=torch.contiguous_format)
        elif reason is not None:
            conversion.left_out[source] = reason
        else:
            unknown.append(source)
    if unknown:
        raise ValueError(f"FLaLLM cannot express these keys of the checkpoint: {', '.join(sorted(unknown))}.")
    _drop_tied_weights(conversion)
    if "adapter.norm.running_mean" in conversion.weights:
        _fold_batch_norm(conversion)
    return conversion


def _drop_tied_weights(conversion: Conversion) -> None:
    """mBART uses one matrix in four places, and a checkpoint holds all four: keep one if they are equal, else all."""
    shared = conversion.weights.get(WORD_EMBEDDINGS)
    copies = [conversion.weights.get(name) for name in TIED_WEIGHTS]
    if shared is None or not all(copy is not None and torch.equal(copy, shared) for copy in copies):
        return
    for name in TIED_WEIGHTS:
        conversion.drop(name, "equal to mbart.model.shared.weight, with which it is tied")


def _fold_batch_norm(conversion: Conversion) -> None:
    """Linear layer and BatchNorm in evaluation are one affine map; in float64, so that nothing is lost twice."""
    first, norm = ("adapter.first.weight", "adapter.first.bias"), "adapter.norm."
    names = [*first, *(norm + name for name in ("weight", "bias", "running_mean", "running_var"))]
    weight, bias, gain, shift, mean, variance = (_get(conversion.weights, name).double() for name in names)
    scale = gain / torch.sqrt(variance + BATCH_NORM_EPSILON)
    conversion.weights[first[0]] = (scale[:, None] * weight).float()
    conversion.weights[first[1]] = (scale * (bias - mean) + shift).float()
    for name in ("weight", "running_var"):
        conversion.redirect(norm + name, first)
    for name in ("bias", "running_mean"):
        conversion.redirect(norm + name, first[1:])
    if norm + "num_batches_tracked" in conversion.weights:
        conversion.drop(norm + "num_batches_tracked", "the norm is folded into the adapter's linear layer")


def _get(weights: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    if name not in weights:
        raise ValueError(f"The checkpoint has no weight for {name}: it is no whole gloss_free_model with sign_proj.")
    return weights[name]


def read_vision_config(weights: Mapping[str, torch.Tensor]) -> FLaLLMVisionConfig:
    """The visual encoder with the ResNet and the widths that the weights show; the rest is fixed in their code."""
    blocks = {tuple(match.groups()) for name in weights if (match := re.search(r"\.layer(\d)\.(\d+)\.", name))}
    depths = tuple(sum(stage == str(index) for stage, _ in blocks) for index in range(1, 5))
    has_bottlenecks = "vision_model.backbone.layer1.0.conv3.weight" in weights
    for backbone, (block, known_depths) in RESNET_STAGES.items():
        if depths == known_depths and has_bottlenecks == (block.__name__ == "Bottleneck"):
            return FLaLLMVisionConfig(
                backbone=backbone,
                backbone_width=len(_get(weights, "vision_model.backbone.conv1.weight")),
                hidden_size=len(_get(weights, "vision_model.temporal_module.blocks.0.convolution.bias")),
                temporal_blocks=("K5", "P2", "K5", "P2"),
                temporal_padding="replicate",
            )
    raise ValueError(
        f"The checkpoint's ResNet has {depths} blocks in its four stages, which is none of {', '.join(RESNET_STAGES)}."
    )


def read_text_sizes(weights: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Those fields of an mBART configuration that the weights of the text model show."""
    vocabulary_size, hidden_size = _get(weights, WORD_EMBEDDINGS).shape
    sizes = {"vocab_size": vocabulary_size, "d_model": hidden_size}
    for side in ("encoder", "decoder"):
        start = f"text_model.model.{side}."
        layers = {name.removeprefix(start).split(".")[1] for name in weights if name.startswith(f"{start}layers.")}
        sizes[f"{side}_layers"] = len(layers)
        sizes[f"{side}_ffn_dim"] = len(_get(weights, f"{start}layers.0.fc1.bias"))
    positions = _get(weights, "text_model.model.encoder.embed_positions.weight")
    return {**sizes, "max_position_embeddings": len(positions) - MBART_POSITION_OFFSET}


def read_mbart_config(path: str) -> PreTrainedConfig:
    """
    Raises:
        ValueError: if the file, folder or Hub id has no configuration of an mBART.
    """
    try:
        with reading_model(path):
            config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} holds no configuration of a text model that can be read: {error}") from error
    if not isinstance(config, MBartConfig):
        raise ValueError(f"{path} must hold an mBART, as these checkpoints do, got model type {config.model_type!r}.")
    return config


def build_text_config(
    source: str,
    weights: Mapping[str, torch.Tensor],
    language_model: PreTrainedConfig,
    named_config: str | None,
    tokenizer: PreTrainedTokenizerBase,
) -> MBartConfig:
    """
    Sizes from the weights, the rest from `named_config`, the language model (stage 2) or Light-T as it is known.

    Raises:
        ValueError: if weights, tokenizer and configuration do not belong together.
    """
    sizes = read_text_sizes(weights)
    if not sizes["vocab_size"] == language_model.vocab_size == len(tokenizer):
        raise ValueError(
            f"The checkpoint has a vocabulary of {sizes['vocab_size']} tokens, the text model has "
            f"{language_model.vocab_size} and its tokenizer {len(tokenizer)}. Name the text model that the checkpoint "
            "was trained with."
        )
    if named_config is not None:
        settings = _settings_from(named_config, read_mbart_config(named_config), sizes)
    elif source == "sltbaselines_stage2":
        settings = _settings_from("the text model", language_model, sizes)
    else:
        _check_light_transformer(sizes, language_model)
        settings = LIGHT_TRANSFORMER
    special_tokens = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    is_tied = not any(name in weights for name in TIED_WEIGHTS)
    return MBartConfig(**settings, **sizes, **special_tokens, forced_eos_token_id=None, tie_word_embeddings=is_tied)


def _settings_from(name: str, config: PreTrainedConfig, sizes: Mapping[str, int]) -> dict[str, Any]:
    differences = [
        f"{field} is {size} in the checkpoint and {getattr(config, field)} in {name}"
        for field, size in sizes.items()
        if getattr(config, field) != size
    ]
    if differences:
        raise ValueError(
            f"{'; '.join(differences)}. Name the text model that the checkpoint was trained with, and the right "
            "--source."
        )
    return {field: getattr(config, field) for field in LIGHT_TRANSFORMER}


def _check_light_transformer(sizes: Mapping[str, int], language_model: PreTrainedConfig) -> None:
    """Heads and activation cannot be seen in weights: guess none for what may be another text model than Light-T."""
    layers = sizes["encoder_layers"], sizes["decoder_layers"]
    if layers[0] != layers[1] or layers[1] == language_model.decoder_layers:
        raise ValueError(
            f"The checkpoint's text model has {layers[0]} + {layers[1]} layers, so it may not be Light-T (mytran), "
            "whose attention heads and activation are known. If it is the language model itself, pass --source "
            "sltbaselines_stage2, else its configuration as --text_config_file (such as LLMD_config.json)."
        )


def build_config(
    arguments: ImportArguments, weights: Mapping[str, torch.Tensor], tokenizer: PreTrainedTokenizerBase
) -> FLaLLMConfig:
    """
    Raises:
        ValueError: as the functions do that it calls, or for a layer norm in the adapter of a GFSLT-VLP checkpoint.
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


def build_model(config: FLaLLMConfig, weights: dict[str, torch.Tensor]) -> FLaLLMForTranslation:
    """
    The model with exactly these weights.

    Raises:
        ValueError: if a weight or buffer of the model is missing, has another shape, or is unknown to it.
    """
    with torch.device("meta"):
        empty = FLaLLMForTranslation(config)
    # named_parameters tells a tied weight once, state_dict leaves out the buffers that are not saved.
    named = (*empty.named_parameters(), *empty.named_buffers())
    expected = {name: tuple(value.shape) for name, value in named if name in empty.state_dict()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    problems = [f"{name} is missing" for name in expected if name not in given]
    problems += [f"{name} is unknown to FLaLLM" for name in given if name not in expected]
    problems += [
        f"{name} is {given[name]} instead of {shape}"
        for name, shape in expected.items()
        if given.get(name, shape) != shape
    ]
    if problems:
        raise ValueError(f"The checkpoint does not fit FLaLLM: {'; '.join(problems)}.")
    return FLaLLMForTranslation.from_pretrained(None, config=config, state_dict=weights).eval()


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
    """Write a folder that is whole or not there."""

    def fill(folder: Path) -> None:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        write_json(folder / "import_report.json", report)

    write_folder(output_dir, fill)


def import_checkpoint(arguments: ImportArguments) -> None:
    """
    Raises:
        ValueError, OSError: for what the user has to mend; nothing has been written then.
    """
    check_new_folder(arguments.output_dir)
    check_model_names(arguments)
    tokenizer = load_tokenizer(arguments.text_model_name_or_path, arguments.target_language)
    checkpoint = read_checkpoint(arguments.checkpoint)
    conversion = convert(checkpoint)
    model = build_model(build_config(arguments, conversion.weights, tokenizer), conversion.weights)
    set_generation_defaults(model, tokenizer, NUM_BEAMS)
    report = {"source": arguments.source, "checkpoint": arguments.checkpoint.name}
    report |= {"targets": conversion.targets, "left_out": conversion.left_out}
    save(model, build_processor(checkpoint, tokenizer), report, arguments.output_dir)
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
