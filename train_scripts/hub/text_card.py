"""The model card of a text autoencoder. It has no clips, so that little of the card of a translation model fits it."""

from pathlib import Path

from huggingface_hub import ModelCardData

from modeling_flallm import DiffSltAutoencoder
from modeling_flallm.hub_card_slt import CARD_FILE
from modeling_flallm.systems import System, find_stage

from ..languages.languages import primary_language
from ..machine.atomic_files import write_text
from .training_run import base_ids, plain_name, public_name

TRAINING = """
## Training

Compression and reconstruction networks were put into the language model `{base}`; {trained}. {num_learned} sentences
were learned.

| measured on {num_unseen} other sentences, written again from their latents | |
|---|---|
{scores}

The method is [{title}]({paper}). This is the model of **stage {number}** of {num_stages}. {note}

## Citation

{citations}
"""


def write_autoencoder_card(
    folder: Path,
    model: DiffSltAutoencoder,
    base: str,
    num_sentences: tuple[int, int],
    scores: dict[str, float],
    spoken_language: str | None,
    license: str | None,
) -> None:
    """
    Write README.md for a trained text autoencoder. Does nothing if there already is one.

    Args:
        base: folder or Hub id of its text model.
        num_sentences: that were learned, and that were not and are scored.
        scores: of the latter, by their titles.
        spoken_language: tag of the language of the sentences.
        license: as the Hub writes it.
    """
    path = folder / CARD_FILE
    if path.exists():
        return
    system, stage = find_stage("text_autoencoding")
    is_frozen = not any(parameter.requires_grad for parameter in model.text_model.parameters())
    data = ModelCardData(
        library_name="transformers",
        base_model=base_ids(base) or None,
        language=[primary_language(spoken_language)] if spoken_language else None,
        license=license,
        tags=[*system.hub_tags],
    )
    training = TRAINING.format(
        base=public_name(base),
        trained="only they were trained" if is_frozen else "all of it was trained",
        num_learned=num_sentences[0],
        num_unseen=num_sentences[1],
        scores="\n".join(f"| {title} | {value:.2f} |" for title, value in scores.items()),
        title=system.title,
        paper=system.paper,
        number=system.number_of(stage),
        num_stages=len(system.stages),
        note=system.note,
        citations=_citations(system),
    )
    write_text(path, f"---\n{data.to_yaml()}\n---\n\n{model._short_card(plain_name(folder.absolute().name))}{training}")


def _citations(system: System) -> str:
    return "\n\n".join(f"{words}\n\n```bibtex\n{entry}\n```".strip() for words, entry in system.citations)
