"""Scores by models of transformers, random and tiny."""

import re

import pytest
import torch
from tiny_tokenizers import SENTENCES as KNOWN
from tiny_tokenizers import make_plain_tokenizer
from transformers import BertConfig, BertForSequenceClassification, BertModel

from train_scripts.scores.report import sentences_of
from train_scripts.scores.score_models import load_score_models, model_scores

SENTENCES = KNOWN * 20


@pytest.fixture
def folders(tmp_path) -> dict[str, str]:
    """A text encoder, and a metric that scores every pair with 0.25."""
    tokenizer = make_plain_tokenizer()
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, num_labels=1, **sizes)
    metric = BertForSequenceClassification(config)
    torch.nn.init.zeros_(metric.classifier.weight)
    torch.nn.init.constant_(metric.classifier.bias, 0.25)
    for name, model in (("metric", metric), ("encoder", BertModel(config))):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    return {name: str(tmp_path / name) for name in ("metric", "encoder")}


def test_a_model_is_used_as_what_it_was_saved(folders):
    scores = model_scores(load_score_models(folders.values()), SENTENCES, SENTENCES)
    assert scores[folders["metric"]] == {"kind": "learned", "score": pytest.approx(0.25)}
    assert scores[folders["encoder"]] == {"kind": "embedding", "score": pytest.approx(1.0, abs=1e-5)}
    assert sentences_of({"model_scores": scores}) == [
        f"Learned metric {folders['metric']}: 0.2500",
        f"Cosine of embeddings by {folders['encoder']}: 1.0000",
    ]


def test_the_mean_is_over_pairs_in_order(folders):
    def lengths(predictions, references):
        assert all(text in SENTENCES for text in references)
        return list(map(len, predictions))

    texts = ["a", "bcd"] * 50
    assert model_scores({"x": lengths}, texts, SENTENCES[:2] * 50)["x"]["score"] == 2


def test_what_is_no_model_is_reported(tmp_path):
    expected = (
        "--score_models must be folders or Hub ids of text encoders, or of text classification models with one label, "
        f"got {str(tmp_path)!r}: "
    )
    with pytest.raises(ValueError, match=re.escape(expected)):
        load_score_models([str(tmp_path)])
