"""
The model card of a training run: README.md, and beside it the facts it is written from, training_run.json.

Every fact comes from the run: its arguments beside those of the paper's preset, what the Trainer measured, and the
scores with their signatures. Of local paths only the last name is kept. What somebody wrote into README.md by hand
stays: then only the sections between two marks and the `model-index` of the front matter are written anew.
"""

import dataclasses
import hashlib
import json
import platform
import re
import resource
import sys
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData, hf_hub_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils import validate_repo_id
from peft import PeftModel
from transformers import PreTrainedConfig, PreTrainedModel, Seq2SeqTrainer

from .arguments import (
    CONFIG_FOLDER,
    AugmentationArguments,
    DataArguments,
    FLaLLMTrainingArguments,
    VideoArguments,
    read_yaml,
)
from .languages import LOCAL_USE, language_name, primary_language
from .metrics import TITLE_OF_SCORE, translation_scores

CARD_FILE = "README.md"
RUN_FILE = "training_run.json"
TEMPLATE = Path(__file__).parent / "model_card_template.md"
# The Hub knows no task "sign-language-translation". This is its only one with a video in and text out; "translation" is
# text to text, and "automatic-speech-recognition" takes audio.
HUB_TASK = "video-text-to-text"
METRIC_OF_SCORE = {name: re.match("[a-z]+", name)[0] for name in TITLE_OF_SCORE}  # as the Hub calls them
# Of the arguments that also say where files lie and how to log, those that change what is learned or chosen.
TRAINING_SETTINGS = (
    "num_train_epochs",
    "max_steps",
    "optim",
    "optim_args",
    "learning_rate",
    "adapter_learning_rate",
    "bias_learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "neftune_noise_alpha",
    "train_sampling_strategy",
    "max_frames_per_batch",
    "frames_per_chunk",
    "bf16",
    "fp16",
    "seed",
    "metric_for_best_model",
    "early_stopping_patience",
    "generation_max_length",
)
VISION_SETTINGS = (
    "backbone",
    "backbone_width",
    "temporal_blocks",
    "temporal_padding",
    "temporal_norm",
    "visual_hidden_size",
)
LLAVA_SLT_VISION_SETTINGS = (
    "word_window_size",
    "word_window_stride",
    "word_hidden_size",
    "word_layers",
    "word_attention_heads",
    "word_feed_forward_size",
)


@dataclass(frozen=True)
class Stage:
    """
    What a card says of every model that a stage leaves.

    Args:
        preset: the recipe that the settings are compared with; `other_preset`: one that a run may follow instead.
        vision_stage: the stage that made the visual encoder, if it was an earlier one.
        auto_class: with which transformers loads the model.
    """

    method: str
    number: int
    num_stages: int
    preset: str
    other_preset: str | None = None
    vision_stage: str | None = None
    auto_class: str = "AutoModelForSeq2SeqLM"


STAGES = {
    "visual_initialing": Stage("FLa-LLM", 1, 2, "paper_visual_initialing", "sltbaselines_visual_initialing"),
    "llm_fine_tuning": Stage(
        "FLa-LLM", 2, 2, "paper_llm_fine_tuning", "sltbaselines_llm_fine_tuning", "visual_initialing"
    ),
    "visual_contrastive_pretraining": Stage(
        "LLaVA-SLT", 2, 3, "llava_slt_visual_contrastive_pretraining", auto_class="AutoModel"
    ),
    "visual_language_tuning": Stage(
        "LLaVA-SLT",
        3,
        3,
        "llava_slt_visual_language_tuning",
        vision_stage="visual_contrastive_pretraining",
        auto_class="AutoModelForImageTextToText",
    ),
}
SECTION = re.compile(r"<!-- flallm:(\w+):begin[^>]*-->.*?<!-- flallm:\1:end -->", re.DOTALL)
MODEL_INDEX = re.compile(r"^model-index:[^\n]*\n(?:[ \t-][^\n]*\n|\n)*", re.MULTILINE)


@dataclass
class TrainingRun:
    """
    What a model card says about a run; all of it JSON.

    Args:
        stage: one of `STAGES`.
        model_name: what "How to use" loads: a repository on the Hub, or a folder's name.
        data: `name`, `source` (folder's name or Hub id), `hub_id` and `splits` with their numbers of clips and signers;
            of further data sets that were trained on, which count in the training split, the same as `other_sources`
            and `other_hub_ids`.
        base_models: public name of each pretrained part by its role; `base_model_ids` those that are on the Hub.
        settings: the recipe, each with `name`, `value`, `paper`, `source` and `meaning`.
        stage1: deviations and training of the stage that made the visual encoder, where it was an earlier one.
        training: time, hardware, versions, numbers of parameters.
        scores: one entry per data set and split, with signatures.
        retrieval: for a model that does not translate: its scores by split.
        confidence: what `flallm-calibrate` found: `least_chrf`, and `measures` by split.
        card_digest: of the README.md that was written from this, to notice changes by hand.
    """

    stage: str
    model_name: str
    spoken_language: str | None
    sign_language: str | None
    license: str | None
    data: dict[str, Any]
    base_models: dict[str, str]
    base_model_ids: list[str]
    settings: list[dict[str, Any]]
    follows_sltbaselines: bool
    stage1: dict[str, Any] | None = None
    training: dict[str, Any] = field(default_factory=dict)
    scores: list[dict[str, Any]] = field(default_factory=list)
    adapter_base: str | None = None
    confidence: dict[str, Any] | None = None
    retrieval: dict[str, dict[str, float]] = field(default_factory=dict)
    card_digest: str | None = None


# The facts of a run


def describe_run(
    stage: Any,
    data: DataArguments,
    video: VideoArguments,
    augmentation: AugmentationArguments,
    training: FLaLLMTrainingArguments,
    splits: dict[str, datasets.Dataset | None],
    model: PreTrainedModel,
) -> TrainingRun:
    """
    What is known before training.

    Args:
        stage: the stage's own arguments, such as `VisualInitialingArguments`.
        splits: the data by split; `None` for what is streamed, whose size nobody knows.
        model: as it will be trained, frozen parts and adapters included.
    """
    known = STAGES[stage.stage_name]
    values = {name: value for name, value in vars(stage).items() if name.endswith("_name_or_path")}
    paths = {name: value for name, value in values.items() if value is not None}
    settings = _settings((stage, data, video, augmentation, training), known.preset)
    record_of_vision_stage = None
    if known.vision_stage is not None:
        if known.method == "FLa-LLM":
            settings.insert(0, _text_model_setting(model.config.text_config))
        record_of_vision_stage = _record_of_vision_stage(
            stage.vision_model_name_or_path, model.config.vision_config, STAGES[known.vision_stage]
        )
    return TrainingRun(
        stage=stage.stage_name,
        model_name=training.hub_model_id or public_name(training.output_dir),
        spoken_language=data.spoken_language or stage.target_language,
        sign_language=data.sign_language,
        license=training.model_license,
        data=_describe_data(data, splits),
        base_models={name.removesuffix("_name_or_path"): public_name(path) for name, path in paths.items()},
        base_model_ids=[path for name, path in paths.items() if "model" in name and is_hub_id(path)],
        settings=settings,
        follows_sltbaselines=known.other_preset is not None
        and _share_kept(settings, known.other_preset) > _share_kept(settings, known.preset),
        stage1=record_of_vision_stage,
        training={
            "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
            "num_trained_parameters": sum(value.numel() for value in model.parameters() if value.requires_grad),
        },
    )


def is_hub_id(name_or_path: str) -> bool:
    """Whether a name that has been loaded is a repository on the Hub, and no folder or file here."""
    try:
        validate_repo_id(name_or_path)
    except HFValidationError:
        return False
    return not Path(name_or_path).exists()


def public_name(name_or_path: str) -> str:
    """A Hub id as it is; of a path only the last name, without what Markdown or HTML would take for its own."""
    return _inline(name_or_path if is_hub_id(name_or_path) else Path(name_or_path).absolute().name)


def _inline(text: str) -> str:
    return " ".join(re.sub(r"[`|<>{}\[\]*]", " ", text).split()) or "unnamed"


def _describe_data(data: DataArguments, splits: dict[str, datasets.Dataset | None]) -> dict[str, Any]:
    source = public_name(data.dataset[0])
    return {
        "name": _inline(data.dataset_name) if data.dataset_name else source,
        "source": source,
        "hub_id": data.dataset[0] if is_hub_id(data.dataset[0]) else None,
        "other_sources": [public_name(name) for name in data.dataset[1:]],
        "other_hub_ids": [name for name in data.dataset[1:] if is_hub_id(name)],
        "splits": {_split_name(name): _describe_split(split) for name, split in splits.items()},
    }


def _split_name(name: str) -> str:
    return "validation" if name == "dev" else name


def _describe_split(split: datasets.Dataset | None) -> dict[str, int | None]:
    if split is None:
        return {"num_clips": None, "num_signers": None}
    has_signers = "signer" in split.column_names
    return {"num_clips": len(split), "num_signers": len(set(split["signer"])) if has_signers else None}


def _settings(all_arguments: tuple[Any, ...], preset: str) -> list[dict[str, Any]]:
    """Every argument that shapes the model, beside the value that the paper's preset gives it."""
    paper, sources = read_yaml(preset), _sources(preset)
    settings = [
        _setting(
            argument.name,
            _plain(argument.name, getattr(arguments, argument.name)),
            _plain(argument.name, paper.get(argument.name, _default(argument))),
            sources.get(argument.name, "ours: the default, the recipe does not set it"),
            _first_sentence(argument.metadata.get("help", "")),
        )
        for arguments in all_arguments
        for argument in dataclasses.fields(arguments)
        if _is_setting(arguments, argument.name)
    ]
    return [*settings, _clips_per_step(all_arguments[-1], paper, sources)]


def _setting(name: str, value: Any, paper: Any, source: str, meaning: str = "") -> dict[str, Any]:
    return {"name": name, "value": value, "paper": paper, "source": source, "meaning": meaning}


def _clips_per_step(
    training: FLaLLMTrainingArguments, paper: dict[str, Any], sources: dict[str, str]
) -> dict[str, Any]:
    name = "per_device_train_batch_size"
    num_clips = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
    return _setting(
        "clips_per_step",
        num_clips if training.max_frames_per_batch is None else "a varying number of",
        paper[name],
        sources[name].partition(";")[0],
        "Clips of one step of the optimiser, over all devices.",
    )


def _is_setting(arguments: Any, name: str) -> bool:
    if isinstance(arguments, DataArguments):
        streamed = ("streaming", "shuffle_buffer_size") if arguments.streaming else ()
        return name in ("max_train_clips", "dataset_weights", *streamed)
    if isinstance(arguments, FLaLLMTrainingArguments):
        is_overridden = name == "num_train_epochs" and arguments.max_steps > 0
        return name in TRAINING_SETTINGS and not is_overridden
    if name.startswith("lora_"):
        return arguments.lora
    return name not in ("target_language", "also_measure_on") and not name.endswith("_name_or_path")


def _sources(preset: str) -> dict[str, str]:
    """Of each value of a preset, the comment behind it, which says where it comes from."""
    text = (CONFIG_FOLDER / f"{preset}.yaml").read_text(encoding="utf-8")
    return dict(re.findall(r"^(\w+): .*?  # (.*)$", text, re.MULTILINE))


def _default(argument: dataclasses.Field) -> Any:
    has_factory = argument.default_factory is not dataclasses.MISSING
    return argument.default_factory() if has_factory else argument.default


def _plain(name: str, value: Any) -> Any:
    """The value as JSON has it. A fused optimiser calculates what the one without that word does."""
    value = value.value if isinstance(value, Enum) else value
    return value.removesuffix("_fused") if name == "optim" else value


def _first_sentence(text: str) -> str:
    return text.split(". ")[0].removesuffix(".") + "." if text else ""


def _share_kept(settings: list[dict[str, Any]], preset: str) -> float:
    values = {setting["name"]: setting["value"] for setting in settings}
    wanted = {name: value for name, value in read_yaml(preset).items() if name in values}
    return sum(values[name] == value for name, value in wanted.items()) / len(wanted)


def _text_model_setting(config: PreTrainedConfig) -> dict[str, Any]:
    layers = "+".join(str(_num_layers(config, side)) for side in ("encoder", "decoder"))
    return _setting(
        "text_model",
        f"{config.model_type}, {layers} layers, width {config.hidden_size}",
        "mbart, 12+12 layers, width 1024",
        "paper, section 4.2: mBART-large-cc25, its vocabulary trimmed",
        "The pretrained language model.",
    )


def _num_layers(config: PreTrainedConfig, side: str) -> int | str:
    """T5 calls those of its encoder `num_layers`, and those of its decoder `num_decoder_layers`."""
    names = (f"{side}_layers", f"num_{side}_layers", "num_layers")
    return next((getattr(config, name) for name in names if hasattr(config, name)), "unknown")


def _record_of_vision_stage(name_or_path: str, vision_config: PreTrainedConfig, stage: Stage) -> dict[str, Any]:
    """From that model's own training_run.json; without one, what the visual encoder shows by itself."""
    run = _find_run(name_or_path)
    if run is not None:
        return run.stage1 or {"is_whole": True, "deviations": deviations(run.settings), "training": run.training}
    paper, sources = read_yaml(stage.preset), _sources(stage.preset)
    values = _vision_values(vision_config)
    settings = [_setting(name, value, paper[name], sources[name]) for name, value in values.items() if name in paper]
    return {"is_whole": False, "deviations": deviations(settings), "training": {}}


def _vision_values(vision_config: PreTrainedConfig) -> dict[str, Any]:
    """What the visual encoder's configuration says, by the names of the arguments that set it."""
    words = {name: getattr(vision_config, name) for name in LLAVA_SLT_VISION_SETTINGS if hasattr(vision_config, name)}
    frames = getattr(vision_config, "frame_config", vision_config)
    values = {name: getattr(frames, name.removeprefix("visual_")) for name in VISION_SETTINGS}
    return {**values, "temporal_blocks": list(values["temporal_blocks"]), **words}


def _find_run(name_or_path: str) -> TrainingRun | None:
    """The record of a local or a Hub model, or None where there is none that can be read."""
    try:
        if is_hub_id(name_or_path):
            return read_run(Path(hf_hub_download(name_or_path, RUN_FILE)).parent)
        return read_run(Path(name_or_path))
    except (OSError, ValueError):
        return None


def deviations(settings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Settings whose value is not that of the paper's preset; the seed is none."""
    return [setting for setting in settings if setting["value"] != setting["paper"] and setting["name"] != "seed"]


def complete_run(
    run: TrainingRun, trainer: Seq2SeqTrainer, data: DataArguments, metrics: dict[str, float], scores: dict[str, float]
) -> None:
    """
    Add what is known after training.

    Args:
        metrics: of `trainer.train()`.
        scores: of `trainer.evaluate()`, with the prefix `eval_`.
    """
    training = trainer.args
    run.training |= {
        "seconds": metrics["train_runtime"],
        "is_resumed": training.resume_from_checkpoint is not None,
        "num_epochs": None if data.streaming else trainer.state.epoch,
        "num_steps": trainer.state.global_step,
        "device": _device_name(training.device),
        "num_processes": training.world_size,
        "peak_memory_in_gib": round(_peak_memory_in_bytes(training.device) / 2**30, 2),
        "versions": {
            "Python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    named_scores = {name.removeprefix("eval_"): value for name, value in scores.items()}
    if TITLE_OF_SCORE.keys() <= named_scores.keys():
        # The Trainer reports numbers only. How they were computed does not depend on the sentences.
        example = translation_scores(["a"], ["a"], language=data.spoken_language, num_resamples=0)
        split = _split_name(data.evaluation_split)
        named_scores |= {
            "num_segments": run.data["splits"][split]["num_clips"],
            "signatures": example["signatures"],
            "confidence_intervals": {},
        }
        num_beams = training.generation_num_beams or trainer.model.generation_config.num_beams
        run.scores = [_score_entry(run, named_scores, split, num_beams)]
    if not _is_translator(run):
        add_retrieval(run, scores, "eval", data.evaluation_split)


def add_retrieval(run: TrainingRun, scores: dict[str, float], prefix: str, split: str) -> None:
    """
    Add how well videos find their sentences.

    Args:
        scores: as the Trainer gives them, with `prefix` in front of their names.
    """
    run.retrieval[_split_name(split)] = {
        name.removeprefix(f"{prefix}_"): value
        for name, value in scores.items()
        if name.startswith(f"{prefix}_") and isinstance(value, float)
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type.upper()}, {platform.machine()}, {torch.get_num_threads()} threads"


def _peak_memory_in_bytes(device: torch.device) -> int:
    """Of the accelerator, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit_in_bytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_in_bytes


def _score_entry(
    run: TrainingRun, scores: dict[str, Any], split: str, num_beams: int, dataset: str | None = None
) -> dict[str, Any]:
    return {
        "dataset": run.data["name"] if dataset in (None, run.data["source"], run.data["name"]) else dataset,
        "split": _split_name(split),
        "num_clips": scores["num_segments"],
        "num_beams": num_beams,
        "values": {name: scores[name] for name in TITLE_OF_SCORE},
        "signatures": scores["signatures"],
        "confidence_intervals": {
            name: [interval["low"], interval["high"]] for name, interval in scores["confidence_intervals"].items()
        },
    }


# The card and its record in a folder


def write_model_card(folder: Path, run: TrainingRun) -> None:
    """
    Write README.md and training_run.json. A README.md changed by hand keeps all but its marked sections and its
    `model-index`; one that is not from a training run is left as it is.
    """
    path, previous = folder / CARD_FILE, read_run(folder) if (folder / RUN_FILE).is_file() else None
    fresh = render(run)
    old = path.read_text(encoding="utf-8") if path.is_file() else None
    if old is None or (previous is not None and previous.card_digest == _digest(old)):
        path.write_text(fresh, encoding="utf-8")
        run.card_digest = _digest(fresh)
    elif previous is None:
        print(f"{path} is not from a training run, so it is left as it is.", file=sys.stderr)
    else:
        # Scores of earlier weights go, those that somebody added by hand stay.
        _write_like(path, _updated(old, fresh, run, outdated=_eval_results(previous)))
        run.card_digest = previous.card_digest
    (folder / RUN_FILE).write_text(_as_json(run), encoding="utf-8")


def save_adapter(model: PeftModel, folder: Path, run: TrainingRun, base_model: str | None = None) -> None:
    """
    Save low-rank adapters alone, with a card of ours instead of the form to be filled in that PEFT leaves.

    Args:
        base_model: folder or Hub id of the model that the adapters change.
    """
    path = folder / CARD_FILE
    kept = path.read_bytes() if path.is_file() else None
    model.save_pretrained(str(folder))
    path.unlink(missing_ok=True) if kept is None else path.write_bytes(kept)
    ids = [base_model] if base_model is not None and is_hub_id(base_model) else run.base_model_ids
    base = public_name(base_model) if base_model is not None else "the model it was trained on"
    write_model_card(
        folder, dataclasses.replace(run, model_name=public_name(str(folder)), adapter_base=base, base_model_ids=ids)
    )


def add_scores(folder: Path, scores: dict[str, Any], data: DataArguments, split: str, num_beams: int) -> None:
    """
    Add scores to the card of a folder that training has left; those of the same data and split are replaced.

    Args:
        scores: as `translation_scores` gives them.

    Raises:
        ValueError: as `read_run`, or if the front matter of README.md cannot be read.
    """
    run = read_run(folder)
    entry = _score_entry(run, scores, split, num_beams, _inline(data.dataset_name or public_name(data.dataset[0])))
    key = (entry["dataset"], entry["split"])
    run.scores = [other for other in run.scores if (other["dataset"], other["split"]) != key] + [entry]
    write_model_card(folder, run)


def add_confidence(folder: Path, confidence: dict[str, Any]) -> None:
    """
    Write into the card of a folder that training has left how sure its model is.

    Args:
        confidence: as `TrainingRun` has it.

    Raises:
        ValueError: as `add_scores`.
    """
    run = read_run(folder)
    run.confidence = confidence
    write_model_card(folder, run)
    if "flallm:confidence:begin" not in (folder / CARD_FILE).read_text(encoding="utf-8"):
        print(f"{folder / CARD_FILE} has no section for confidence, so it was not changed.", file=sys.stderr)


def named_card(folder: Path, repo_id: str, base_model_id: str | None = None) -> dict[str, bytes]:
    """
    README.md and training_run.json of a folder as they are to read in the repository `repo_id`, which "How to use" then
    loads.

    Args:
        base_model_id: for an adapter, where on the Hub its base model is.
    """
    run, path = read_run(folder), folder / CARD_FILE
    old = path.read_text(encoding="utf-8") if path.is_file() else None
    is_unchanged = old is None or run.card_digest == _digest(old)
    run.model_name = repo_id
    if base_model_id is not None:
        run.adapter_base, run.base_model_ids = base_model_id, [base_model_id]
    card = render(run)
    if is_unchanged:
        run.card_digest = _digest(card)
    else:
        card = _updated(old, card, run, outdated=_eval_results(run))
    return {CARD_FILE: card.encode(), RUN_FILE: _as_json(run).encode()}


def read_run(folder: Path) -> TrainingRun:
    """
    Raises:
        ValueError: if the folder holds no record of a training run.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        raise ValueError(
            f"{folder} must be the folder of a model as training leaves it, with {RUN_FILE} in it, which the model "
            "card is written from. There is none."
        )
    try:
        return TrainingRun(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is no record of a training run: {error}") from error


def _as_json(run: TrainingRun) -> str:
    return json.dumps(dataclasses.asdict(run), indent=2, ensure_ascii=False) + "\n"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _write_like(path: Path, text: str) -> None:
    """With the line ends that the file has."""
    line_end = "\r\n" if b"\r\n" in path.read_bytes() else "\n"
    path.write_text(text, encoding="utf-8", newline=line_end)


def _updated(old: str, fresh: str, run: TrainingRun, outdated: list[EvalResult]) -> str:
    """`old` with the marked sections of `fresh`, and with the run's scores among those of the front matter."""
    sections = {match[1]: match[0] for match in SECTION.finditer(fresh)}
    text = SECTION.sub(lambda match: sections.get(match[1], match[0]), old)
    front_matter = REGEX_YAML_BLOCK.search(text)
    if front_matter is None:
        return text
    results = _eval_results(run)
    replaced = {result.unique_identifier for result in [*outdated, *results]}
    known = [result for result in _known_results(old) if result.unique_identifier not in replaced]
    start, end = front_matter.span(2)
    return text[:start] + _with_results(front_matter[2], run.model_name, known + results) + text[end:]


def _known_results(card: str) -> list[EvalResult]:
    try:
        return ModelCard(card).data.eval_results or []
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"The front matter of {CARD_FILE} cannot be read: {error} Mend or remove it.") from error


def _with_results(front_matter: str, model_name: str, results: list[EvalResult]) -> str:
    """The YAML text in which nothing but `model-index` has changed."""
    text = MODEL_INDEX.sub("", front_matter + "\n")
    if results:
        text += ModelCardData(model_name=model_name.split("/")[-1], eval_results=results).to_yaml()
    return text.removesuffix("\n")


# From the facts to the text


def render(run: TrainingRun) -> str:
    """The whole of README.md."""
    card = ModelCard.from_template(
        _card_data(run),
        template_path=str(TEMPLATE),
        run=run,
        stage=STAGES[run.stage],
        is_translator=_is_translator(run),
        spoken=_language_text(run.spoken_language, "a written language that was not named"),
        sign=_language_text(run.sign_language, "a sign language that was not named"),
        is_local_use=bool(LOCAL_USE.fullmatch(run.sign_language or "")),
        deviations=deviations(run.settings),
        value_of={setting["name"]: setting["value"] for setting in run.settings},
        value_text=_value_text,
        duration_text=_duration_text,
        title_of_score=TITLE_OF_SCORE,
    )
    return re.sub(r"\n{3,}", "\n\n", str(card))


def _is_translator(run: TrainingRun) -> bool:
    return STAGES[run.stage].auto_class != "AutoModel"


def _card_data(run: TrainingRun) -> ModelCardData:
    results = _eval_results(run)
    return ModelCardData(
        language=[primary_language(run.spoken_language)] if run.spoken_language else None,
        license=run.license,
        library_name="transformers" if run.adapter_base is None else "peft",
        pipeline_tag=HUB_TASK if _is_translator(run) else None,
        tags=["sign-language", "sign-language-translation", "gloss-free", "flallm"]
        + ([run.sign_language] if run.sign_language else []),
        datasets=[name for name in (run.data["hub_id"], *run.data.get("other_hub_ids", [])) if name] or None,
        base_model=run.base_model_ids or None,
        metrics=list(dict.fromkeys(METRIC_OF_SCORE.values())) if results else None,
        model_name=run.model_name.split("/")[-1] if results else None,
        eval_results=results or None,
    )


def _eval_results(run: TrainingRun) -> list[EvalResult]:
    return [
        EvalResult(
            task_type=HUB_TASK,
            task_name="Sign language translation",
            dataset_type=_dataset_type(run, entry["dataset"]),
            dataset_name=entry["dataset"],
            dataset_split=entry["split"],
            dataset_args={"num_clips": entry["num_clips"]},
            metric_type=METRIC_OF_SCORE[name],
            metric_name=title,
            metric_value=round(entry["values"][name], 2),
            metric_args={
                "signature": entry["signatures"][name],
                "num_beams": entry["num_beams"],
                "confidence_interval_95": [round(end, 2) for end in entry["confidence_intervals"].get(name, [])]
                or None,
            },
        )
        for entry in run.scores
        for name, title in TITLE_OF_SCORE.items()
    ]


def _dataset_type(run: TrainingRun, dataset: str) -> str:
    """The id on the Hub, or a name in the form of one: scores are told apart by it."""
    if dataset == run.data["name"] and run.data["hub_id"]:
        return run.data["hub_id"]
    return dataset if is_hub_id(dataset) else re.sub(r"[^a-z0-9]+", "-", dataset.lower()).strip("-") or "unnamed"


def _language_text(tag: str | None, unnamed: str) -> str:
    if tag is None:
        return unnamed
    if LOCAL_USE.fullmatch(tag):
        return f"a sign language without a registered code (`{tag}`)"
    name = language_name(tag)
    return f"{name} (`{tag}`)" if name else f"`{tag}`"


def _value_text(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return " ".join(str(value).split()).replace("|", "\\|")  # a prompt may be of several lines


def _duration_text(seconds: float) -> str:
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"
