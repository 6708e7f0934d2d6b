"""Scores by models of transformers, by name: the similarity of embeddings, and learned metrics such as BLEURT."""

from collections.abc import Callable, Sequence

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from modeling_flallm.choice_slt import EmbeddingUtility

# Predictions and references, in pairs -> a number for each pair.
Scorer = Callable[[list[str], list[str]], Sequence[float]]
BATCH_SIZE = 32


class LearnedMetric:
    """
    A text classification model with a single label, which gives a number to a reference and a prediction, such as the
    ports of BLEURT (Sellam et al., 2020) for transformers. The number is not scaled.

    Args:
        name_or_path: folder or Hub id of the model with its tokenizer.
        device: where it computes.
    """

    def __init__(self, name_or_path: str, device: torch.device | str = "cpu"):
        self.tokenizer = AutoTokenizer.from_pretrained(name_or_path)
        model = AutoModelForSequenceClassification.from_pretrained(name_or_path)
        self.model = model.to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, predictions: list[str], references: list[str]) -> list[float]:
        inputs = self.tokenizer(references, predictions, padding=True, truncation=True, return_tensors="pt")
        return self.model(**inputs.to(self.model.device)).logits.float().squeeze(1).tolist()


def load_score_models(names: Sequence[str], device: torch.device | str = "cpu") -> dict[str, Scorer]:
    """Return what `--score_models` names: a model that was saved for classification with one label as a
    `LearnedMetric`, any other text encoder as an `EmbeddingUtility`. Raises ValueError for one that cannot be
    loaded."""
    scorers: dict[str, Scorer] = {}
    for name in names:
        try:
            config = AutoConfig.from_pretrained(name)
            classifies = any("ForSequenceClassification" in each for each in config.architectures or ())
            is_metric = classifies and config.num_labels == 1
            scorers[name] = (LearnedMetric if is_metric else EmbeddingUtility)(name, device)
        except (OSError, ValueError) as error:
            raise ValueError(
                "--score_models must be folders or Hub ids of text encoders, or of text classification models with one "
                f"label, got {name!r}: {error}"
            ) from error
    return scorers


def model_scores(
    scorers: dict[str, Scorer], predictions: Sequence[str], references: Sequence[str]
) -> dict[str, dict[str, float | str]]:
    """Return for each scorer by its name the mean `score` over all pairs and its `kind`: "embedding", the cosine of the
    embeddings from 0 to 1, or "learned", in the scale of the model."""
    return {
        name: {
            "kind": "learned" if isinstance(scorer, LearnedMetric) else "embedding",
            "score": _mean_score(scorer, list(predictions), list(references)),
        }
        for name, scorer in scorers.items()
    }


def _mean_score(scorer: Scorer, predictions: list[str], references: list[str]) -> float:
    parts = [slice(first, first + BATCH_SIZE) for first in range(0, len(predictions), BATCH_SIZE)]
    values = [value for part in parts for value in scorer(predictions[part], references[part])]
    return sum(values) / len(values)
