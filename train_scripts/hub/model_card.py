"""
The model card of a training run: README.md, written from the facts in training_run.json next to it.

Manual changes to README.md are kept: then only the sections between two marks and the `model-index` in the front matter
are rewritten.
"""

import dataclasses
import functools
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import jinja2
import torch
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from peft import PeftModel
from transformers import PreTrainedModel

from modeling_flallm.hub_card_slt import CARD_FILE, HUB_TASK
from modeling_flallm.own_processing import MODALITIES, Modality
from modeling_flallm.systems import PRETRAINED_MODEL, find_stage

from ..arguments.data_arguments import DatasetArguments
from ..languages.languages import LOCAL_USE, language_name, primary_language
from ..machine.atomic_files import write_text
from ..scores.metrics import TITLE_OF_SCORE
from ..scores.report import groups_of, sentences_of
from .hub_names import is_hub_id
from .run_settings import deviations
from .training_run import (
    RUN_FILE,
    TrainingRun,
    base_ids,
    digest_of_card,
    find_run,
    plain_name,
    public_name,
    read_run,
    score_entry,
)

TEMPLATE = Path(__file__).parent / "model_card_template.md"
METRIC_OF_SCORE = {name: re.match("[a-z]+", name)[0] for name in TITLE_OF_SCORE}  # the Hub's names for them
SECTION = re.compile(r"<!-- flallm:(\w+):begin[^>]*-->.*?<!-- flallm:\1:end -->", re.DOTALL)
MODEL_INDEX = re.compile(r"^model-index:[^\n]*\n(?:[ \t-][^\n]*\n|\n)*", re.MULTILINE)


# The card in a folder


def write_model_card(folder: Path, run: TrainingRun) -> None:
    """
    Write README.md and training_run.json. If README.md was changed by hand, only its marked sections and its
    `model-index` are replaced; a README.md that is not from a training run is not changed.
    """
    path, previous = folder / CARD_FILE, read_run(folder) if (folder / RUN_FILE).is_file() else None
    fresh = render(run)
    old = path.read_text(encoding="utf-8") if path.is_file() else None
    if old is None or (previous is not None and previous.wrote(old)):
        run.card_digest, run.next_card_digest = old and digest_of_card(old), digest_of_card(fresh)
        write_text(folder / RUN_FILE, _as_json(run))  # first, because a card without it counts as somebody else's
        write_text(path, fresh)
        run.card_digest, run.next_card_digest = run.next_card_digest, None
    elif previous is None:
        print(f"{path} is not from a training run, so it is not changed.", file=sys.stderr)
    else:
        # Scores of earlier weights are removed; scores that somebody added by hand stay.
        _write_like(path, _updated(old, fresh, run, outdated=_eval_results(previous)))
        run.card_digest, run.next_card_digest = previous.card_digest, None
    write_text(folder / RUN_FILE, _as_json(run))


def write_base_card(folder: Path, base: str, change: str, name: str | None = None) -> None:
    """
    Write README.md for a model that was made from another one, so that models trained from it name the original, too.
    Does nothing if there already is a README.md, or if the original does not come from the Hub.

    Args:
        base: folder or Hub id of the original.
        change: what was done to it, as in "cut to fewer tokens".
        name: of the folder that the model will have. Default: that of `folder`.
    """
    path, bases = folder / CARD_FILE, base_ids(base)
    if bases and not path.exists():
        data = ModelCardData(library_name="transformers", base_model=bases)
        title, sentence = plain_name(name or folder.absolute().name), f"{' and '.join(bases)}, {change}."
        text = f"---\n{data.to_yaml()}\n---\n\n# {title}\n\n{sentence}\n"
        write_text(path, text)


def write_adapted_card(folder: Path, name: str, model: PreTrainedModel, base: str, adapted: dict[str, Any]) -> None:
    """
    Write README.md for a model that `flallm adapt` made, and training_run.json if the model it was made from has one.
    Scores and confidence of that model are left out, because they are not those of the adapted one.

    Args:
        name: of the folder that the model will have.
        base: folder or Hub id of the model that was adapted.
        adapted: as in `TrainingRun`.
    """
    run, bases = find_run(base), base_ids(base)
    if run is not None:
        changes = {"adapted": adapted, "scores": [], "confidence": None, "base_model_ids": bases or run.base_model_ids}
        write_model_card(folder, dataclasses.replace(run, model_name=plain_name(name), card_digest=None, **changes))
        return
    data = ModelCardData(
        library_name="transformers", base_model=bases or None, tags=[*model.hub_tags], pipeline_tag=model.hub_task
    )
    text = f"---\n{data.to_yaml()}\n---\n\n{model._short_card(plain_name(name))}\n{adaptation_text(adapted)}\n"
    write_text(folder / CARD_FILE, text)


def adaptation_text(adapted: dict[str, Any]) -> str:
    """A section of the card."""
    base, num_clips, weight = adapted["base"], adapted["num_clips"], adapted["weight"]
    whose = "" if adapted["signer"] is None else f" by the signer {adapted['signer']}"
    return (
        "## Adapted to a signer\n\n"
        f"This is the model `{base}` after `flallm adapt`: the statistics of {adapted['num_layers']} BatchNorm layers "
        f"of its sign encoder\nwere estimated again from {num_clips} {'clip' if num_clips == 1 else 'clips'}{whose} "
        f"({adapted['data']}, {adapted['split']}). No sentences were read\nand no weights were trained. The new "
        f"statistics count {weight:.2f}, those from training {1 - weight:.2f}.\n\n"
        f"**The scores of `{base}` are not scores of this model.** It may translate other signers worse."
    )


def save_adapter(
    model: PeftModel,
    folder: Path,
    run: TrainingRun,
    base_model: str | None = None,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """
    Save only the low-rank adapters, with our card instead of the template that PEFT writes.

    Args:
        base_model: folder or Hub id of the model that the adapters change.
        weights: all of the model, if its modules hold them in parts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".flallm-", suffix=".partial") as unfinished:
        model.save_pretrained(unfinished, state_dict=weights)
        for file in Path(unfinished).iterdir():
            if file.name != CARD_FILE:
                os.replace(file, folder / file.name)
    write_adapter_card(folder, run, base_model)


def write_adapter_card(folder: Path, run: TrainingRun, base_model: str | None = None) -> None:
    """The card for adapters alone; `base_model` as in `save_adapter`."""
    ids = [base_model] if base_model is not None and is_hub_id(base_model) else run.base_model_ids
    base = public_name(base_model) if base_model is not None else "the model it was trained on"
    write_model_card(
        folder, dataclasses.replace(run, model_name=public_name(str(folder)), adapter_base=base, base_model_ids=ids)
    )


def add_scores(folder: Path, scores: dict[str, Any], data: DatasetArguments, split: str, num_beams: int) -> None:
    """
    Add scores to the card in a folder with a trained model, replacing those of the same data and split.

    Args:
        scores: as returned by `translation_scores`.

    Raises:
        ValueError: as in `read_run`, or if the front matter of README.md cannot be read.
    """
    run = read_run(folder)
    entry = score_entry(run, scores, split, num_beams, plain_name(data.dataset_name or public_name(data.dataset[0])))
    key = (entry["dataset"], entry["split"])
    run.scores = [other for other in run.scores if (other["dataset"], other["split"]) != key] + [entry]
    write_model_card(folder, run)


def add_confidence(folder: Path, confidence: dict[str, Any]) -> None:
    """
    Add the result of calibration to the card in a folder with a trained model.

    Args:
        confidence: as in `TrainingRun`.

    Raises:
        ValueError: as in `add_scores`.
    """
    run = read_run(folder)
    run.confidence = confidence
    write_model_card(folder, run)
    if "flallm:confidence:begin" not in (folder / CARD_FILE).read_text(encoding="utf-8"):
        print(f"{folder / CARD_FILE} has no section for confidence, so it was not changed.", file=sys.stderr)


def named_card(folder: Path, repo_id: str, base_model_id: str | None = None) -> dict[str, bytes]:
    """
    README.md and training_run.json of a folder, adapted to the repository `repo_id`, which "How to use" then loads.

    Args:
        base_model_id: for an adapter, its base model on the Hub.
    """
    run, path = read_run(folder), folder / CARD_FILE
    old = path.read_text(encoding="utf-8") if path.is_file() else None
    is_unchanged = old is None or run.wrote(old)
    run.model_name, run.next_card_digest = repo_id, None
    if base_model_id is not None:
        run.adapter_base, run.base_model_ids = base_model_id, [base_model_id]
    card = render(run)
    if is_unchanged:
        run.card_digest = digest_of_card(card)
    else:
        card = _updated(old, card, run, outdated=_eval_results(run))
    return {CARD_FILE: card.encode(), RUN_FILE: _as_json(run).encode()}


def _as_json(run: TrainingRun) -> str:
    return json.dumps(dataclasses.asdict(run), indent=2, ensure_ascii=False) + "\n"


def _write_like(path: Path, text: str) -> None:
    """Keeps the line ends of the file."""
    line_end = "\r\n" if b"\r\n" in path.read_bytes() else "\n"
    write_text(path, text, newline=line_end)


def _updated(old: str, fresh: str, run: TrainingRun, outdated: list[EvalResult]) -> str:
    """`old` with the marked sections of `fresh`, and with the run's scores merged into those of the front matter."""
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
        raise ValueError(f"The front matter of {CARD_FILE} cannot be read: {error} Fix or remove it.") from error


def _with_results(front_matter: str, model_name: str, results: list[EvalResult]) -> str:
    """The YAML text with nothing but `model-index` changed."""
    text = MODEL_INDEX.sub("", front_matter + "\n")
    if results:
        text += ModelCardData(model_name=model_name.split("/")[-1], eval_results=results).to_yaml()
    return text.removesuffix("\n")


# From facts to text


def render(run: TrainingRun) -> str:
    """The whole of README.md."""
    system, stage = find_stage(run.stage)
    value_of = {setting["name"]: setting["value"] for setting in run.settings}
    what_it_is = stage.card_with_lora if value_of.get("lora") and stage.card_with_lora else stage.card
    modality = _modality_of(run)
    recipe = system.recipe_of(run.recipe)
    vision_stage = None if stage.vision_stage is None else find_stage(stage.vision_stage)[1]
    data = _card_data(run)
    text = _template().render(
        **data.to_dict(),
        card_data=data.to_yaml(),
        run=run,
        system=system,
        stage=stage,
        stage_number=system.number_of(stage),
        vision_stage_number=None if vision_stage is None else system.number_of(vision_stage),
        auto_class=system.auto_class_of(stage),
        modality=modality,
        adaptation=None if run.adapted is None else adaptation_text(run.adapted),
        words=modality.words,
        what_it_is=what_it_is.format(
            text_model=run.base_models.get("text_model"),
            encoder=modality.words.encoder,
            source=f"the {modality.words.encoder} comes from stage {system.number_of(vision_stage)}"
            if vision_stage is not None and run.stage1 is not None
            else f"it {modality.words.reads}",
        ),
        compared_recipe=recipe if recipe.is_compared else system.recipe,
        other_recipe=None if recipe is system.recipe else recipe,
        is_translator=run.is_translator,
        has_processor=stage.leaves == PRETRAINED_MODEL,
        spoken=_language_text(run.spoken_language, "a written language that was not named"),
        sign=_language_text(run.sign_language, "a sign language that was not named"),
        is_local_use=bool(LOCAL_USE.fullmatch(run.sign_language or "")),
        deviations=deviations(run.settings),
        value_of=value_of,
        value_text=_value_text,
        duration_text=_duration_text,
        title_of_score=TITLE_OF_SCORE,
        groups_of=groups_of,
        sentences_of=sentences_of,
    )
    return re.sub(r"\n{3,}", "\n\n", str(ModelCard(text))).rstrip("\n") + "\n"


@functools.cache
def _template() -> jinja2.Template:
    """Compiled once: a training writes a card with every checkpoint."""
    return jinja2.Template(TEMPLATE.read_text(encoding="utf-8"))


def _modality_of(run: TrainingRun) -> type[Modality]:
    """
    Raises:
        ValueError: for one that is not known here.
    """
    for modality in MODALITIES:
        if modality.column == run.modality:
            return modality
    known = ", ".join(modality.column for modality in MODALITIES)
    raise ValueError(f"{RUN_FILE} names the modality {run.modality!r}, which is none of {known}.")


def _card_data(run: TrainingRun) -> ModelCardData:
    results = _eval_results(run)
    return ModelCardData(
        language=[primary_language(run.spoken_language)] if run.spoken_language else None,
        license=run.license,
        library_name="transformers" if run.adapter_base is None else "peft",
        pipeline_tag=HUB_TASK if run.is_translator else None,
        tags=_tags(run),
        datasets=[name for name in (run.data["hub_id"], *run.data.get("other_hub_ids", [])) if name] or None,
        base_model=run.base_model_ids or None,
        metrics=list(dict.fromkeys(METRIC_OF_SCORE.values())) if results else None,
        model_name=run.model_name.split("/")[-1] if results else None,
        eval_results=results or None,
    )


def _tags(run: TrainingRun) -> list[str]:
    """All models of these commands have the tag `flallm`; those of other systems also have a tag of their own."""
    tags = find_stage(run.stage)[0].hub_tags
    return [*tags, run.sign_language] if run.sign_language else [*tags]


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
                "num_candidates": entry.get("num_candidates"),
                "confidence_interval_95": [round(end, 2) for end in entry["confidence_intervals"].get(name, [])]
                or None,
            },
        )
        for entry in run.scores
        for name, title in TITLE_OF_SCORE.items()
    ]


def _dataset_type(run: TrainingRun, dataset: str) -> str:
    """The id on the Hub, or a name in the same form, which tells scores apart."""
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
    return " ".join(str(value).split()).replace("|", "\\|")  # a prompt may have several lines


def _duration_text(seconds: float) -> str:
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"
