"""Arguments of the training commands: dataclasses, filled from a YAML file with command-line flags on top."""

import argparse
import dataclasses
import json
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
import yaml
from transformers import HfArgumentParser, Seq2SeqTrainingArguments

from ..languages.languages import SIGN_LANGUAGE_EXAMPLES, check_sign_language, check_spoken_language
from ..machine.atomic_files import holds_something
from ..machine.machine import computes_in_bfloat16, default_device, num_loading_processes
from .command_line import CommandParser, unknown_text
from .flag_values import check_flags
from .training_flags import check_training_flags, complete_flags
from .yaml_values import load_yaml

CONFIG_FOLDER = Path(__file__).parent.parent / "configs"
FEATURE_DTYPES = ("float16", "bfloat16", "float32")


@dataclass
class DataArguments:
    """Which videos and sentences."""

    dataset: list[str] = field(
        metadata={
            "help": "A video folder (train/, dev/, test/ with metadata.csv) or the id of a data set on the Hub. Of "
            "several all are trained on, and the first is the one that evaluation scores."
        }
    )
    dataset_weights: list[float] | None = field(
        default=None,
        metadata={
            "help": "One number for each data set: the shares of their clips in an epoch, which stays as long as all "
            "data sets together, or in a stream. Default: every clip once."
        },
    )
    text_column: str = field(default="text", metadata={"help": "Column that holds the spoken language sentence."})
    spoken_language: str | None = field(
        default=None,
        metadata={"help": "Language tag of the sentences. zh, ja, ko, th and the like are scored by character."},
    )
    sign_language: str | None = field(
        default=None,
        metadata={"help": f"ISO 639-3 code of the sign language for the model card: {SIGN_LANGUAGE_EXAMPLES}."},
    )
    dataset_name: str | None = field(
        default=None,
        metadata={"help": "Name of the data set in the model card. Default: its id on the Hub, or its folder's name."},
    )
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    evaluation_split: str = field(
        default="validation", metadata={"help": "Split that chooses the best checkpoint. 'dev' means the same."}
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read the training clips while training goes on, and do not download data sets on the Hub whole. "
            "Needs --max_steps, as a stream has no end; evaluate and save with --eval_strategy steps and "
            "--save_strategy steps, as it has no epochs. Several data sets are mixed with the probabilities of "
            "--dataset_weights, by default in proportion to their numbers of clips. The evaluation split is downloaded."
        },
    )
    shuffle_buffer_size: int = field(
        default=1000,
        metadata={
            "help": "With --streaming: clips of each data set that wait in main memory, in every process, of which the "
            "next one is drawn; 1 keeps the order in each file. They are not decoded: of a data set on the Hub the "
            "bytes of their files wait (1000 clips of 300 kB: 300 MB), of a video folder only the names."
        },
    )
    max_train_clips: int | None = field(default=None, metadata={"help": "Train on the first so many clips only."})
    max_evaluation_clips: int | None = field(default=None, metadata={"help": "Evaluate on the first so many only."})
    keep_decoded_videos: bool = field(
        default=False,
        metadata={
            "help": "Hold the decoded frames of all clips in main memory (in every worker process): for small corpora, "
            "where decoding anew in every epoch would cost more than the training."
        },
    )

    def __post_init__(self):
        if isinstance(self.dataset, str):
            self.dataset = [self.dataset]
        self._check_weights()
        check_flags(vars(self))
        check_spoken_language(self.spoken_language)
        check_sign_language(self.sign_language)
        if self.dataset_name is not None and not self.dataset_name.strip():
            raise ValueError("--dataset_name must be a name for readers of the model card, got an empty one.")

    def _check_weights(self) -> None:
        weights = self.dataset_weights
        if weights is None:
            return
        if len(weights) != len(self.dataset):
            raise ValueError(
                f"--dataset_weights must be one number for each data set, got {len(weights)} for {len(self.dataset)} "
                "data set(s)."
            )
        wrong = [weight for weight in weights if not 0 < weight < math.inf]
        if wrong:
            raise ValueError(f"--dataset_weights must be above 0, got {wrong[0]}. Leave out what is not to be used.")


@dataclass
class AugmentationArguments:
    """Changes to training clips; one draw for all frames of a clip. None is made at evaluation."""

    rotation_degrees: float = field(default=0.0, metadata={"help": "Rotate by up to this angle, with probability 0.5."})
    translation: float = field(
        default=0.0, metadata={"help": "Shift by up to this fraction of the frame size, with probability 0.5."}
    )
    random_crop: bool = field(
        default=True, metadata={"help": "Crop at a random place instead of the centre (resize 256, crop 224)."}
    )
    brightness: float = field(default=0.0, metadata={"help": "Largest relative change of brightness."})
    contrast: float = field(default=0.0, metadata={"help": "Largest relative change of contrast."})
    saturation: float = field(default=0.0, metadata={"help": "Largest relative change of saturation."})
    speed: float = field(default=0.0, metadata={"help": "Largest relative change of the signing speed."})
    frame_drop: float = field(default=0.0, metadata={"help": "Probability with which a sampled frame is left out."})
    frame_jitter: bool = field(
        default=True, metadata={"help": "Take a random frame of each sampling interval, not always its middle."}
    )
    horizontal_flip: float = field(
        default=0.0, metadata={"help": "Probability of a flip. It swaps the hands, which changes what is signed."}
    )

    def __post_init__(self):
        check_flags(vars(self))


@dataclass
class VideoArguments:
    """What the video processor does with pixels; saved with the model."""

    frame_sampling_rate: float = field(default=0.25, metadata={"help": "Fraction of the frames that is kept."})
    max_num_frames: int | None = field(default=None, metadata={"help": "Most frames of a clip after sampling."})
    frame_size: int = field(default=256, metadata={"help": "Height and width to which frames are resized, in pixels."})
    crop_size: int = field(
        default=224, metadata={"help": "Height and width of the crop that the model sees, in pixels."}
    )

    def __post_init__(self):
        check_flags(vars(self))
        if self.crop_size > self.frame_size:
            raise ValueError(
                f"--crop_size must be at most --frame_size, got {self.crop_size} of {self.frame_size} pixels."
            )


@dataclass
class FeatureCacheArguments:
    """Visual features of a frozen encoder, computed once and kept on disk for all later epochs and runs."""

    cache_features: bool = field(
        default=False,
        metadata={
            "help": "Compute the visual features of every clip once, keep them on disk and train from them. Training "
            "clips are then not augmented, or come in the few augmented forms of --feature_views."
        },
    )
    feature_views: int | None = field(
        default=None,
        metadata={
            "help": "With --cache_features: keep so many augmented forms of each training clip; epoch after epoch the "
            "next one is taken, and after the last the first again. Default: one form, without augmentation."
        },
    )
    features_dtype: str = field(
        default="float16", metadata={"help": "With --cache_features: float16, bfloat16 or float32, as they are kept."}
    )
    feature_cache_dir: str | None = field(
        default=None,
        metadata={
            "help": "With --cache_features: folder of the features, shared by all runs. Default: flallm/features in "
            "the folder of Hugging Face's caches, $HF_HOME or ~/.cache/huggingface."
        },
    )
    feature_cache_days: float | None = field(
        default=None,
        metadata={
            "help": "With --cache_features: remove features that no run has used for so many days. Default: none are."
        },
    )

    def __post_init__(self):
        if self.feature_cache_days is not None and not self.feature_cache_days >= 1:
            raise ValueError(f"--feature_cache_days must be 1 or more, got {self.feature_cache_days:g}.")
        if self.features_dtype not in FEATURE_DTYPES:
            raise ValueError(f"--features_dtype must be {', '.join(FEATURE_DTYPES)}, got {self.features_dtype!r}.")
        check_flags(vars(self))
        if self.feature_views is not None and not self.cache_features:
            raise ValueError("--feature_views needs --cache_features True: without it every epoch draws anew.")


@dataclass
class FLaLLMTrainingArguments(Seq2SeqTrainingArguments):
    """
    The Trainer's arguments, with defaults that suit translation: evaluation by generation once an epoch, the best
    checkpoint by BLEU-4 on the evaluation split, and columns kept as they are.
    """

    output_dir: str = field(default=None, metadata={"help": "New or empty folder for checkpoints, model and logs."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: no, steps, epoch or best."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep besides the best."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "End with the best checkpoint."})
    metric_for_best_model: str = field(default="bleu4", metadata={"help": "Score that chooses the best checkpoint."})
    predict_with_generate: bool = field(default=True, metadata={"help": "Evaluate what the model generates."})
    generation_num_beams: int | None = field(default=None, metadata={"help": "Beams in evaluation while training."})
    generation_max_length: int | None = field(default=150, metadata={"help": "Longest sentence, in tokens."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must be False: videos are no model inputs."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    report_to: list[str] = field(default_factory=lambda: ["tensorboard"], metadata={"help": "Where to log."})
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "See torch's DDP."})
    adapter_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Learning rate of the adapter, or LLaVA-SLT's connector. Default: `learning_rate`."},
    )
    bias_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the text model's biases. Default: `learning_rate`."}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after so many evaluations without a better score."}
    )
    hub_private_repo: bool | None = field(
        default=True, metadata={"help": "With --push_to_hub: only you and those you invite see the repository."}
    )
    hub_strategy: str = field(default="end", metadata={"help": "With --push_to_hub: the model is sent at the end."})
    max_frames_per_batch: int | None = field(
        default=None,
        metadata={
            "help": "Make batches of as many clips as fit into so many sampled frames per device, instead of "
            "`per_device_train_batch_size` clips."
        },
    )
    bf16: bool | None = field(
        default=None,
        metadata={
            "help": "Compute in bfloat16 where that is safe. Default: if the processor or GPU has instructions for it; "
            "without them it is very slow."
        },
    )
    dataloader_num_workers: int | None = field(
        default=None,
        metadata={
            "help": "Processes that read videos beside the training. Default: none on a CPU, which trains on all "
            "of its cores; up to eight with an accelerator, if there are cores for them."
        },
    )
    num_threads: int | None = field(
        default=None,
        metadata={"help": "Threads of a CPU to compute in. Default: one for each core that other programs leave free."},
    )
    preprocess_on_device: bool = field(
        default=False,
        metadata={"help": "Resize, augment and normalise frames on the accelerator, not in the loading processes."},
    )
    frames_per_chunk: int | None = field(
        default=None,
        metadata={
            "help": "To save memory: run the CNN over at most so many frames of a batch at a time, in training again "
            "in the backward pass. In training BatchNorm statistics are then those of a chunk, not of the batch (ghost "
            "batch norm); a frozen encoder and evaluation give the same as without."
        },
    )
    model_license: str | None = field(
        default=None,
        metadata={"help": "Licence of the trained model for its card, as the Hub writes it, such as cc-by-nc-4.0."},
    )

    # What evaluation scores, flags that this command gives one value, and the words of errors for where it does.
    needs_generation: ClassVar[bool] = True
    fixed_flags: ClassVar[dict[str, Any]] = {}
    fixed_where: ClassVar[str] = "for this command"
    sampling_strategies: ClassVar[tuple[str, ...]] = ("random", "sequential", "group_by_length")

    def __post_init__(self):
        if self.output_dir is None:
            raise ValueError("`--output_dir` must name a new or empty folder.")
        if self.hub_strategy != "end":
            raise ValueError(
                "--hub_strategy must be end: the others send all of --output_dir to the Hub while training, with its "
                "logs and the optimizer's state."
            )
        check_license("model_license", self.model_license, "apache-2.0, cc-by-nc-4.0 or other")
        if isinstance(self.generation_config, Path):
            self.generation_config = str(self.generation_config)  # a Path cannot be saved as JSON
        device = default_device(self.use_cpu)
        if self.bf16 is None:
            self.bf16 = not self.fp16 and computes_in_bfloat16(device)
        if self.dataloader_num_workers is None:
            self.dataloader_num_workers = num_loading_processes(device)
        if not torch.accelerator.is_available():
            self.dataloader_pin_memory = False  # else torch warns that there is nothing to pin it for
            self.use_cpu |= self.bf16  # else the Trainer takes bf16 for a wish that no GPU can fulfil
        check_flags(vars(self))
        check_training_flags(self)
        try:
            super().__post_init__()
        except (ImportError, KeyError, NotImplementedError, TypeError) as error:
            raise ValueError(f"transformers refuses a flag: {error}") from error
        complete_flags(self)


# Of every stage that learns from videos, behind its own.
TRAINING_ARGUMENTS = (DataArguments, VideoArguments, AugmentationArguments, FLaLLMTrainingArguments)


def check_license(argument: str, value: str | None, examples: str) -> None:
    """
    Raises:
        ValueError: for a licence that is not in the form in which the Hub writes one.
    """
    if value is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", value):
        raise ValueError(f"--{argument} must be a licence as the Hub writes it, such as {examples}, got {value!r}.")


class _DataclassParser(HfArgumentParser, CommandParser):
    """Says what is wrong with a command line without printing two hundred flags first."""

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        """As always; only `--no_private` would have the help of `--private`, which says the opposite."""
        if options.get("action") == "store_false":
            options |= {"help": f"The same as --{options['dest']} False.", "default": argparse.SUPPRESS}
        return super().add_argument(*names, **options)


def parse_arguments(dataclass_types: Sequence[type], argv: Sequence[str] | None, description: str) -> tuple[Any, ...]:
    """
    Instances of the dataclasses, from `--config FILE_OR_PRESET` (YAML, one `name: value` a line) and flags on top.

    Exits with status 2 and a message for an unknown flag, an unknown or mistyped YAML key, a missing or unreadable YAML
    file, or a value out of range.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = _DataclassParser(dataclass_types, description=description)
    parser.add_argument("--config", help=f"YAML file, or one of the presets: {', '.join(preset_names())}.")
    config_parser = CommandParser(add_help=False)
    config_parser.add_argument("--config")
    config = config_parser.parse_known_args(argv)[0].config
    fields = [field for dataclass_type in dataclass_types for field in dataclasses.fields(dataclass_type)]
    names = [field.name for field in fields]
    try:
        from_yaml = _flags_from_yaml(config, {field.name: str(field.type) for field in fields}) if config else []
        check_flags(vars(parser.parse_known_args(from_yaml + argv)[0]))
        *instances, _, unknown = parser.parse_args_into_dataclasses(
            args=from_yaml + argv, look_for_args_file=False, return_remaining_strings=True
        )
        if unknown:
            raise ValueError(unknown_text("flag", unknown[0].lstrip("-"), names))
    except ValueError as error:
        parser.error(str(error))
    return tuple(instances)


def flags(**values: Any) -> list[str]:
    """`flags(seed=1, lora=True)` -> `["--seed", "1", "--lora", "True"]`, for one command that calls another."""
    return [text for name, value in values.items() for text in (f"--{name}", str(value))]


def preset_names() -> list[str]:
    return sorted(path.stem for path in CONFIG_FOLDER.glob("*.yaml"))


def _flags_from_yaml(config: str, types: dict[str, str]) -> list[str]:
    values, texts = read_yaml(config), read_yaml(config, as_text=True)
    flags = []
    for (name, value), text in zip(values.items(), texts.values(), strict=True):
        if name not in types:
            raise ValueError(f"{config}: {unknown_text('key', str(name), [*types])}")
        if isinstance(value, list) and "list" not in types[name]:
            raise ValueError(f"{config}: {name} takes one value, got a list of {len(value)}.")
        if value is not None:
            value = text if "str" in types[name] and not isinstance(value, dict) else value
            flags += [f"--{name}", *map(_as_flag_value, value if isinstance(value, list) else [value])]
    return flags


def _as_flag_value(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict) else str(value)


def read_yaml(config: str, as_text: bool = False) -> dict[str, Any]:
    """
    Values of a YAML file or preset, or with `as_text` how each is written.

    Raises:
        ValueError: if there is none of that name, or it holds no `name: value` lines.
    """
    path = CONFIG_FOLDER / f"{config}.yaml" if config in preset_names() else Path(config)
    if not path.is_file():
        raise ValueError(
            f"--config must be a YAML file or one of the presets {', '.join(preset_names())}; there is no {config!r}."
        )
    try:
        values = load_yaml(path.read_text(encoding="utf-8-sig"), as_text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML file: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold one 'name: value' a line, got {type(values).__name__}.")
    return values


def check_output_folder(arguments: FLaLLMTrainingArguments) -> None:
    """
    Raises:
        ValueError: if the output folder holds files and the run does not resume from a checkpoint.
    """
    # Under several processes the first one looks, before it starts to fill the folder.
    if arguments.resume_from_checkpoint is None and arguments.process_index == 0:
        check_new_folder(
            Path(arguments.output_dir),
            " To go on with the run that wrote it, pass --resume_from_checkpoint last.",
        )


def check_new_folder(folder: Path, advice: str = "") -> None:
    """
    Raises:
        ValueError: if the folder is a file, or holds anything.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output_dir {folder} is a file. Name a new or empty folder.")
    if folder.is_dir() and holds_something(folder):
        raise ValueError(f"--output_dir {folder} is not empty. Name a new folder, or remove this one.{advice}")
