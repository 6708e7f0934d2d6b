"""
The facts of a training run, from which its model card is written: training_run.json.

All facts come from the run: its arguments next to those of the paper's preset, what the Trainer measured, and the
scores with their signatures. Of local paths only the last part is kept.
"""

import hashlib
import json
import platform
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import psutil
import torch
import transformers
import yaml
from huggingface_hub import ModelCard, hf_hub_download
from transformers import PreTrainedConfig, PreTrainedModel, Seq2SeqTrainer

from modeling_flallm import SignEncoder
from modeling_flallm.encoder_registry_slt import known_model_types
from modeling_flallm.own_processing import MODALITIES, modality_of_input
from modeling_flallm.systems import SYSTEMS, TRANSLATOR, find_stage, system_of_pretrained, system_of_visual_encoder

from ..arguments.data_arguments import AugmentationArguments, DataArguments, VideoArguments
from ..arguments.training_arguments import FLaLLMTrainingArguments
from ..corpora.data_set_columns import usual_split_name
from ..machine.machine import computing_dtype
from ..scores.metrics import TITLE_OF_SCORE, translation_scores
from ..scores.report import REPORTED
from .hub_names import is_hub_id
from .run_settings import (
    deviations,
    recipe_followed,
    settings_beside_recipe,
    settings_of_encoder,
    text_model_setting,
)

try:
    import resource
except ImportError:  # Windows does not have it
    resource = None

RUN_FILE = "training_run.json"


def digest_of_card(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class TrainingRun:
    """
    What a model card says about a run; all of it JSON-serializable.

    Args:
        stage: name of a stage in `modeling_flallm/systems.py`.
        model_name: what "How to use" loads: a repository on the Hub, or the name of a folder.
        data: `name`, `source` (name of a folder, or Hub id), `hub_id` and `splits` with their numbers of clips and
            signers; further data sets that were trained on, which count towards the training split, are in
            `other_sources` and `other_hub_ids`; `made_with` is what made the clips, if it is known.
        base_models: public name of each pretrained part by its role; `base_model_ids` those that are on the Hub.
        settings: the recipe, each with `name`, `value`, `paper` (the recipe's value), `source` (where that one is from)
            and `meaning`.
        recipe: prefix of the recipe of which most settings are.
        stage1: deviations and training of the stage that made the visual encoder, if that was an earlier one.
        training: time, hardware, versions, numbers of parameters.
        scores: one entry per data set and split, with signatures.
        retrieval: for a model that does not translate: its scores by split.
        confidence: what `flallm calibrate` found: `least_chrf`, and `measures` by split.
        modality: our name of the column of its clips.
        encoders: image and video models of transformers in the sign encoder: `name`, `revision` and `license`, if
            known, and `training`, how the run trained them.
        descriptions: of a model that learned from descriptions of the clips, in this or an earlier stage: who or what
            wrote and encoded them, and which share of the clips and frames has some, see `describe_descriptions`.
        adapted: of a model that `flallm adapt` made from another one: the `base`, the clips and how they were used.
        card_digest: of the README.md that was written from this, to notice changes by hand.
        next_card_digest: of the one that is written next: after a kill, README.md is either of the two.
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
    recipe: str
    stage1: dict[str, Any] | None = None
    training: dict[str, Any] = field(default_factory=dict)
    scores: list[dict[str, Any]] = field(default_factory=list)
    adapter_base: str | None = None
    confidence: dict[str, Any] | None = None
    retrieval: dict[str, dict[str, float]] = field(default_factory=dict)
    modality: str = MODALITIES[0].column
    encoders: list[dict[str, str]] = field(default_factory=list)
    descriptions: dict[str, Any] | None = None
    adapted: dict[str, Any] | None = None
    card_digest: str | None = None
    next_card_digest: str | None = None

    def wrote(self, card: str) -> bool:
        """Whether a README.md is from this record, and nobody has changed it since."""
        return digest_of_card(card) in (self.card_digest, self.next_card_digest)

    @property
    def is_translator(self) -> bool:
        return find_stage(self.stage)[1].leaves == TRANSLATOR


# Before training


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
    Record what is known before training.

    Args:
        stage: the stage's own arguments, such as `VisualInitialingArguments`.
        splits: the data by split; `None` for a stream, whose size is unknown.
        model: as it will be trained, including frozen parts and adapters.
    """
    system, known = find_stage(stage.stage_name)
    all_arguments = (stage, data, video, augmentation, training)
    paths = _names_by_role(stage)
    settings = settings_beside_recipe(all_arguments, f"{system.recipe.prefix}_{known.name}")
    recipe = recipe_followed(system, known, settings)
    if recipe.is_compared:
        settings = settings_beside_recipe(all_arguments, f"{recipe.prefix}_{known.name}")
    record_of_vision_stage = descriptions = None
    if known.text_model_of_paper is not None:
        settings.insert(0, text_model_setting(model.config.text_config, *known.text_model_of_paper))
    if known.vision_stage is not None and _is_of_ours(stage.vision_model_name_or_path):
        earlier = find_run(stage.vision_model_name_or_path[0])
        descriptions = None if earlier is None else earlier.descriptions
        record_of_vision_stage = _record_of_vision_stage(
            earlier, model.config.vision_config, f"{system.recipe.prefix}_{known.vision_stage}"
        )
    return TrainingRun(
        stage=stage.stage_name,
        model_name=training.hub_model_id or public_name(training.output_dir),
        spoken_language=data.spoken_language or stage.target_language,
        sign_language=data.sign_language,
        license=training.model_license,
        data=_describe_data(data, splits),
        base_models={role: " and ".join(map(_name_with_bases, names)) for role, names in paths.items()},
        base_model_ids=[
            base for role, names in paths.items() if "model" in role for name in names for base in base_ids(name)
        ],
        settings=settings,
        recipe=recipe.prefix,
        stage1=record_of_vision_stage,
        modality=modality_of_input(model.vision_model.main_input_name).column,
        encoders=_pretrained_encoders(model),
        descriptions=descriptions,
        training={
            "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
            "num_trained_parameters": sum(value.numel() for value in model.parameters() if value.requires_grad),
        },
    )


def _names_by_role(stage: Any) -> dict[str, list[str]]:
    """Folders and Hub ids of the pretrained parts, by what they are."""
    given = {name: value for name, value in vars(stage).items() if name.endswith("_name_or_path") and value is not None}
    return {
        name.removesuffix("_name_or_path"): [value] if isinstance(value, str) else value
        for name, value in given.items()
    }


def _pretrained_encoders(model: PreTrainedModel) -> list[dict[str, str]]:
    parts = [part for part in model.vision_model.modules() if isinstance(part, SignEncoder)]
    return [
        {**part.pretrained_source, "name": plain_name(part.pretrained_source["name"]), "training": _how_trained(part)}
        for part in parts
        if part.pretrained_source is not None
    ]


def _how_trained(part: SignEncoder) -> str:
    if part.frozen:
        return "frozen"
    has_adapters = any("lora_" in name for name, _ in part.named_parameters())
    return "trained with low-rank adapters (LoRA)" if has_adapters else "trained"


def _is_of_ours(names: list[str] | None) -> bool:
    """Whether the names of a visual encoder are one that an earlier stage made."""
    if names is None or len(names) > 1:
        return False
    model_type = PreTrainedConfig.get_config_dict(names[0])[0].get("model_type")
    if model_type in (*SYSTEMS, *known_model_types()):
        return True
    return system_of_visual_encoder(model_type) is not None or system_of_pretrained(model_type) is not None


def public_name(name_or_path: str) -> str:
    """A Hub id unchanged; of a path only the last part, without characters that Markdown or HTML would interpret."""
    return plain_name(name_or_path if is_hub_id(name_or_path) else Path(name_or_path).absolute().name)


def base_ids(name_or_path: str) -> list[str]:
    """
    What a model comes from on the Hub: itself, or the `base_model` of the README.md in its folder. Not the models of
    our own stages: their `base_model` names the origins of their parts, which a later stage is not made from.
    """
    if is_hub_id(name_or_path):
        return [name_or_path]
    path = Path(name_or_path) / "README.md"
    if (path.parent / RUN_FILE).is_file():
        return []
    try:
        bases = ModelCard.load(path, ignore_metadata_errors=True).data.base_model if path.is_file() else None
    except (ValueError, yaml.YAMLError):
        return []
    return [base for base in ([bases] if isinstance(bases, str) else bases or []) if is_hub_id(base)]


def _name_with_bases(name_or_path: str) -> str:
    name, bases = public_name(name_or_path), base_ids(name_or_path)
    return name if bases in ([], [name]) else f"{name}, made from {' and '.join(bases)}"


def plain_name(text: str) -> str:
    return " ".join(re.sub(r"[`|<>{}\[\]*]", " ", text).split()) or "unnamed"


def _describe_data(data: DataArguments, splits: dict[str, datasets.Dataset | None]) -> dict[str, Any]:
    source = public_name(data.dataset[0])
    return {
        "name": plain_name(data.dataset_name) if data.dataset_name else source,
        "source": source,
        "hub_id": data.dataset[0] if is_hub_id(data.dataset[0]) else None,
        "other_sources": [public_name(name) for name in data.dataset[1:]],
        "other_hub_ids": [name for name in data.dataset[1:] if is_hub_id(name)],
        "splits": {usual_split_name(name): _describe_split(split) for name, split in splits.items()},
    }


def _describe_split(split: datasets.Dataset | None) -> dict[str, int | None]:
    if split is None:
        return {"num_clips": None, "num_signers": None}
    has_signers = "signer" in split.column_names
    return {"num_clips": len(split), "num_signers": len(set(split["signer"])) if has_signers else None}


def _record_of_vision_stage(run: TrainingRun | None, vision_config: PreTrainedConfig, preset: str) -> dict[str, Any]:
    """From that model's own training_run.json; without one, from the visual encoder itself."""
    if run is not None:
        return run.stage1 or {"is_whole": True, "deviations": deviations(run.settings), "training": run.training}
    return {"is_whole": False, "deviations": deviations(settings_of_encoder(vision_config, preset)), "training": {}}


def longest_clip_of_training(name_or_path: str) -> int | None:
    """Visual tokens of the longest clip that a local or Hub model was trained on, or None if that is unknown."""
    run = find_run(name_or_path)
    return None if run is None else run.training.get("longest_clip_in_visual_tokens")


def find_run(name_or_path: str) -> TrainingRun | None:
    """The record of a local or Hub model, or None if there is none that can be read."""
    try:
        if is_hub_id(name_or_path):
            return read_run(Path(hf_hub_download(name_or_path, RUN_FILE)).parent)
        return read_run(Path(name_or_path))
    except (OSError, ValueError):
        return None


# After training


def complete_run(run: TrainingRun, trainer: Seq2SeqTrainer, data: DataArguments, metrics: dict[str, float]) -> None:
    """
    Add what is known after training.

    Args:
        metrics: those of `trainer.train()`.
    """
    training = trainer.args
    run.training |= {
        "seconds": metrics["train_runtime"],
        "is_resumed": training.resume_from_checkpoint is not None,
        "num_epochs": None if data.streaming else trainer.state.epoch,
        "num_steps": trainer.state.global_step,
        "longest_clip_in_visual_tokens": trainer.longest_clip_in_visual_tokens(),
        "device": _device_name(training.device),
        "precision": str(computing_dtype(training)).removeprefix("torch."),
        "num_processes": training.world_size,
        "peak_memory_in_gib": round(_peak_memory_in_bytes(training.device) / 2**30, 2),
        "versions": {
            "Python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


def add_run_scores(run: TrainingRun, trainer: Seq2SeqTrainer, data: DataArguments, scores: dict[str, float]) -> None:
    """
    Add how well the model translates, or retrieves sentences.

    Args:
        scores: those of `trainer.evaluate()`, with the prefix `eval_`.
    """
    training = trainer.args
    named_scores = {name.removeprefix("eval_"): value for name, value in scores.items()}
    if TITLE_OF_SCORE.keys() <= named_scores.keys():
        # The Trainer only reports numbers. The signatures do not depend on the sentences.
        example = translation_scores(["a"], ["a"], language=data.spoken_language, num_resamples=0)
        split = usual_split_name(data.evaluation_split)
        named_scores |= {
            "num_segments": run.data["splits"][split]["num_clips"],
            "signatures": example["signatures"],
            "confidence_intervals": {},
        }
        num_beams = training.generation_num_beams or trainer.model.generation_config.num_beams
        run.scores = [score_entry(run, named_scores, split, num_beams)]
    if not run.is_translator:
        add_retrieval(run, scores, "eval", data.evaluation_split)


def add_retrieval(run: TrainingRun, scores: dict[str, float], prefix: str, split: str) -> None:
    """
    Add how well videos retrieve their sentences.

    Args:
        scores: those of the Trainer, with `prefix` before their names.
    """
    run.retrieval[usual_split_name(split)] = {
        name.removeprefix(f"{prefix}_"): value
        for name, value in scores.items()
        if name.startswith(f"{prefix}_") and isinstance(value, float)
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type.upper()}, {platform.machine()}, {torch.get_num_threads()} threads"


def _peak_memory_in_bytes(device: torch.device) -> int:
    """Of the accelerator or, on a CPU, of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return psutil.Process().memory_info().peak_wset
    unit_in_bytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_in_bytes


def score_entry(
    run: TrainingRun, scores: dict[str, Any], split: str, num_beams: int, dataset: str | None = None
) -> dict[str, Any]:
    choice = scores.get("choice", {})
    return {
        "dataset": run.data["name"] if dataset in (None, run.data["source"], run.data["name"]) else dataset,
        "split": usual_split_name(split),
        "num_clips": scores["num_segments"],
        "num_beams": num_beams,
        "values": {name: scores[name] for name in TITLE_OF_SCORE},
        "signatures": scores["signatures"],
        "confidence_intervals": {
            name: [interval["low"], interval["high"]] for name, interval in scores["confidence_intervals"].items()
        },
        **({"num_candidates": choice["num_candidates"]} if choice.get("choose_by") else {}),
        "report": {name: scores[name] for name in REPORTED if name in scores},
    }


# The record in a folder


def _as_today(values: dict[str, Any]) -> dict[str, Any]:
    """The content of a record, which before there were several other recipes named the only one there was."""
    if "follows_sltbaselines" in values:
        follows_it, own = values.pop("follows_sltbaselines"), find_stage(values["stage"])[0].recipe.prefix
        values["recipe"] = "sltbaselines" if follows_it else own
    return values


def read_run(folder: Path) -> TrainingRun:
    """
    Raises:
        ValueError: if the folder has no record of a training run.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        raise ValueError(
            f"{folder} must be the folder of a trained model with {RUN_FILE} in it, from which the model card is "
            "written. There is no such file."
        )
    try:
        return TrainingRun(**_as_today(json.loads(path.read_text(encoding="utf-8"))))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is no record of a training run: {error}") from error
