"""Stage 2 of LLaVA-SLT: what is compared, what is learned, and the errors for a user's mistakes."""

import json
import random
import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_distributed_training import logged
from tiny_corpus import (
    WITHOUT_EVALUATION,
    causal_language_model,
    contrastive_flags,
    contrastive_model,
    corpus,
    error_of,
    language_model,
)
from transformers import AutoModel, AutoTokenizer, AutoVideoProcessor, BertConfig, BertModel, EvalPrediction
from two_processes import command_in_two_processes

from modeling_flallm import LlavaSltForContrastivePreTraining
from train_scripts.runs.contrastive_training import build_compute_scores
from train_scripts.runs.sentence_encoder import load_sentence_encoder
from train_scripts.runs.text_targets import TextTargets, load_word_targets, whiten
from train_scripts.scores.retrieval import format_retrieval, retrieval_scores, word_scores
from train_scripts.stages import visual_contrastive_pretraining
from train_scripts.stages.visual_contrastive_pretraining import train

WITHOUT_AUGMENTATION = {"random_crop": False, "frame_jitter": False, "word_dropout": 0.0}


def sentences_of(split: str) -> list[str]:
    lines = (corpus() / split / "metadata.csv").read_text(encoding="utf-8").splitlines()
    column = lines[0].split(",").index("text")
    return [line.split(",")[column] for line in lines[1:]]


# The text side


class LengthEncoder:
    """A deterministic replacement for a text encoder."""

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.stack([torch.tensor([len(text), text.count("a"), text.count("e")]).float() for text in texts])


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(causal_language_model())


def test_sentence_embeddings_are_centred_on_the_training_sentences(tokenizer):
    training, other = sentences_of("train"), sentences_of("dev")
    targets = TextTargets(training * 2, other, tokenizer, LengthEncoder())
    distinct = list(dict.fromkeys(training))
    torch.testing.assert_close(targets.embeddings_of(distinct).mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    difference = targets.embeddings_of([other[0]]) - targets.embeddings_of([training[0]])
    torch.testing.assert_close(difference, LengthEncoder()([other[0]]) - LengthEncoder()([training[0]]))


def test_word_ids_are_the_tokens_of_the_sentence_each_once(tokenizer):
    training = sentences_of("train")
    targets = TextTargets(training, [f"{training[0]} {training[0]}"], tokenizer, LengthEncoder())
    for text, row in zip(training, targets.word_ids_of(training), strict=True):
        words = row[row != -100].tolist()
        assert {targets.token_ids[word] for word in words} == set(
            tokenizer(text, add_special_tokens=False)["input_ids"]
        )
        assert len(set(words)) == len(words)
    once, twice = targets.word_ids_of([training[0]]), targets.word_ids_of([f"{training[0]} {training[0]}"])
    assert set(once[0].tolist()) == set(twice[0].tolist()) - {-100}


def test_tokens_that_do_not_occur_in_training_have_no_row(tokenizer):
    training, other = sentences_of("train")[:1], "Q Z 7"
    targets = TextTargets(training, [other], tokenizer, LengthEncoder())
    known = set(tokenizer(training[0], add_special_tokens=False)["input_ids"])
    assert set(targets.token_ids) == known
    assert {targets.token_ids[word] for word in targets.word_ids_of([other])[0].tolist() if word != -100} <= known


def test_composed_and_decomposed_letters_are_one_sentence(tokenizer):
    text = "für den Süden"
    targets = TextTargets([text], [], tokenizer, LengthEncoder())
    decomposed = unicodedata.normalize("NFD", text)
    assert decomposed != text
    assert torch.equal(targets.word_ids_of([decomposed]), targets.word_ids_of([text]))
    assert torch.equal(targets.embeddings_of([decomposed]), targets.embeddings_of([text]))


def test_a_sentence_in_two_spellings_is_one_to_be_found(tokenizer):
    text = "für den Süden"
    texts = [text, unicodedata.normalize("NFD", text), "\ufefffür\u00a0den  Sü\u00adden\n", "im Norden ist es kalt"]
    targets = TextTargets(texts, [], tokenizer, LengthEncoder())
    of_videos, no_words = targets.embeddings_of(texts).numpy(), torch.zeros(4, 3).numpy()
    scores = build_compute_scores(targets, texts, word_scores)(EvalPrediction(of_videos, no_words))
    assert (scores["recall_at_1"], scores["num_sentences"]) == (100, 2)


def test_whitened_embeddings_can_be_told_apart():
    shared, details = torch.randn(16) * 5, torch.randn(200, 16) * torch.linspace(0.05, 2, 16)

    def nearest_cosine(rows: torch.Tensor) -> float:
        rows = torch.nn.functional.normalize(rows, dim=1)
        return (rows @ rows.T).fill_diagonal_(-1).amax(1).mean().item()

    white = whiten(shared + details)
    torch.testing.assert_close(white.mean(0), torch.zeros(16), atol=1e-3, rtol=0)
    assert nearest_cosine(white) < nearest_cosine(shared + details) - 0.1
    # One linear map of the centred embeddings: whatever is linear in one is linear in the other.
    centred = shared + details - (shared + details).mean(0)
    mapping = torch.linalg.lstsq(centred, white).solution
    torch.testing.assert_close(centred @ mapping, white, atol=1e-3, rtol=1e-3)


# Sentence encoders


def bert_folder(folder: Path, modules: Sequence[str] | None = None, pooling: dict | None = None) -> Path:
    """A tiny BERT with the tests' tokenizer, as transformers or, with `modules`, as sentence-transformers saves it."""
    tokenizer = AutoTokenizer.from_pretrained(causal_language_model())
    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **sizes)
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if modules is not None:
        entries = [
            {"idx": index, "name": str(index), "path": f"{index}_{kind}" if index else "", "type": f"x.models.{kind}"}
            for index, kind in enumerate(modules)
        ]
        (folder / "modules.json").write_text(json.dumps(entries))
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


@torch.no_grad()
def states_of(folder: Path, sentence: str) -> torch.Tensor:
    """Last hidden states `(tokens, width)` of one sentence alone."""
    inputs = AutoTokenizer.from_pretrained(folder)(sentence, return_tensors="pt", return_token_type_ids=False)
    return AutoModel.from_pretrained(folder).eval()(**inputs).last_hidden_state[0]


MEAN, FIRST = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, {"pooling_mode": "cls"}


@pytest.mark.parametrize(
    ("modules", "pooling", "pool"),
    [
        (None, None, lambda states: states.mean(0)),
        (["Transformer", "Pooling"], MEAN, lambda states: states.mean(0)),
        (["Transformer", "Pooling", "Normalize"], FIRST, lambda states: states[0] / states[0].norm()),
        (["Transformer", "Pooling"], {"pooling_mode_lasttoken": True}, lambda states: states[-1]),
    ],
    ids=["transformers", "mean", "first, normalised", "last"],
)
def test_padding_and_order_do_not_change_a_sentence(modules, pooling, pool: Callable, tmp_path):
    folder = bert_folder(tmp_path, modules, pooling)
    sentences = random.sample(sentences_of("train"), 5) + ["a"]
    random.shuffle(sentences)
    together = load_sentence_encoder(str(folder))(sentences, batch_size=4)
    for sentence, embedding in zip(sentences, together, strict=True):
        torch.testing.assert_close(embedding, pool(states_of(folder, sentence)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", [causal_language_model, language_model], ids=["decoder", "encoder-decoder"])
def test_language_models_embed_sentences_too(name):
    sentences = sentences_of("train")[:3]
    encoder = load_sentence_encoder(str(name()))
    together = encoder(sentences)
    alone = torch.cat([encoder([sentence]) for sentence in sentences])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("modules", "pooling", "expected"),
    [
        (
            ["Transformer", "Pooling", "Dense"],
            MEAN,
            "has the modules Transformer, Pooling, Dense; supported are Transformer, Pooling and Normalize. Name "
            "another text encoder.",
        ),
        (
            ["Transformer", "Pooling"],
            {"pooling_mode_max_tokens": True},
            "pools its tokens by max_tokens; supported are cls, lasttoken and mean, one of them.",
        ),
    ],
)
def test_encoders_that_are_not_known(modules, pooling, expected, tmp_path):
    folder = bert_folder(tmp_path, modules, pooling)
    with pytest.raises(ValueError, match=re.escape(f"{str(folder)!r} {expected}")):
        load_sentence_encoder(str(folder))


# Scores


def test_retrieval_counts_the_places_of_the_own_sentences():
    num_sentences, num_clips = 12, 40
    sentences, own = torch.randn(num_sentences, 8), torch.randint(num_sentences, (num_clips,))
    videos = torch.randn(num_clips, 8)
    scores = retrieval_scores(videos, sentences, own)
    cosines = torch.nn.functional.cosine_similarity(videos[:, None], sentences[None], dim=2)
    orders = cosines.argsort(dim=1, descending=True).tolist()
    places = [order.index(mine) + 1 for order, mine in zip(orders, own.tolist(), strict=True)]
    assert scores["recall_at_1"] == pytest.approx(100 * sum(place == 1 for place in places) / num_clips, abs=1e-3)
    assert scores["recall_at_5"] == pytest.approx(100 * sum(place <= 5 for place in places) / num_clips, abs=1e-3)
    assert scores["median_rank"] == sorted(places)[(num_clips - 1) // 2]
    assert (scores["chance_recall_at_1"], scores["chance_median_rank"]) == (100 / 12, 6.5)
    assert retrieval_scores(sentences[own] * 3, sentences, own)["recall_at_1"] == 100
    same_for_all = retrieval_scores(torch.randn(1, 8).expand(num_clips, 8), sentences[:1].expand(12, 8), own)
    assert (same_for_all["recall_at_1"], same_for_all["median_rank"]) == (0, 12)


def test_scores_of_words_and_the_line_on_them():
    counts = torch.tensor([[2, 4, 3], [0, 0, 2]]).numpy()
    words = word_scores(counts)
    assert words == {"word_precision": 50, "word_recall": 40, "word_f1": pytest.approx(400 / 9)}
    assert word_scores(counts * 0) == {"word_precision": 0, "word_recall": 0, "word_f1": 0}
    scores = retrieval_scores(torch.eye(3), torch.eye(3), torch.arange(3))
    assert format_retrieval({**scores, **words}, "test") == (
        "test: 100.0 of 100 videos find their own sentence first among 3 (chance 33.3), 100.0 among the first five "
        "(chance 100.0); median place 1 (chance 2.0). Words that occur: F1 44.4."
    )


# Training


def test_the_folder_of_stage_2_is_a_whole_encoder():
    folder = contrastive_model()
    model, information = LlavaSltForContrastivePreTraining.from_pretrained(folder, output_loading_info=True)
    assert not information["missing_keys"] and not information["unexpected_keys"]
    assert not list(folder.rglob("*.bin")) and not list(folder.rglob("*.pkl"))
    clips = [str(path) for path in sorted((corpus() / "test").glob("*.mp4"))[:2]]
    pixels = AutoVideoProcessor.from_pretrained(folder)(clips, return_tensors="pt")
    embeddings = AutoModel.from_pretrained(folder).eval()(**pixels).video_embeddings
    assert embeddings.shape == (2, 32) and torch.equal(embeddings, model.eval()(**pixels).video_embeddings)
    targets = TextTargets(
        sentences_of("train"), [], AutoTokenizer.from_pretrained(causal_language_model()), LengthEncoder()
    )
    torch.testing.assert_close(
        model.word_targets, load_word_targets(str(causal_language_model()), targets.token_ids), atol=1e-4, rtol=1e-3
    )
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "The method is [LLaVA-SLT](https://arxiv.org/abs/2412.16524). This is the model of **stage 2** of 3" in card
    assert "It cannot\nwrite a sentence." in card and "arXiv:2412.16524" in card
    assert "\n| validation | 6 |" in card  # as it was written once, before any push


@pytest.mark.slow
def test_videos_find_their_sentences_after_training(tmp_path, capsys):
    values = {
        **WITHOUT_EVALUATION, **WITHOUT_AUGMENTATION, "evaluation_split": "train", "also_measure_on": "test",
        "keep_decoded_videos": True, "per_device_train_batch_size": 12, "per_device_eval_batch_size": 12,
        "learning_rate": 0.003, "lr_scheduler_type": "constant", "max_steps": 60, "logging_steps": 10,
    }  # fmt: skip
    scores = train(contrastive_flags(tmp_path / "run", **values))
    # 12 memorised clips: by chance one finds its sentence, and the median rank is 6.5.
    assert scores["eval_chance_recall_at_1"] >= 100 / 12 and scores["eval_num_sentences"] <= 12
    assert scores["eval_recall_at_1"] >= 100 * 3 / 12 and scores["eval_median_rank"] <= 3
    assert scores["eval_word_f1"] > 30
    losses, _ = logged(tmp_path / "run")
    assert losses[-1] < losses[0] / 3
    printed = capsys.readouterr().out
    assert f"train: {scores['eval_recall_at_1']:.1f} of 100 videos find their own sentence first among" in printed
    assert f"test: {scores['test_recall_at_1']:.1f} of 100 videos" in printed
    run = json.loads((tmp_path / "run" / "training_run.json").read_text(encoding="utf-8"))
    assert run["retrieval"]["test"]["recall_at_1"] == scores["test_recall_at_1"]
    assert f"| {scores['test_recall_at_1']:.1f} |" in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_resumed_run_ends_as_the_uninterrupted_one(tmp_path):
    values = {
        "num_train_epochs": 2, "learning_rate": 0.003, "speed": 0.2, "memory_bank_size": 5, "max_evaluation_clips": 2,
        "metric_for_best_model": "loss", "save_total_limit": 3,
    }  # fmt: skip
    train(contrastive_flags(tmp_path / "run", **values))
    expected = load_file(tmp_path / "run" / "checkpoint-6" / "model.safetensors")
    resumed = {**values, "resume_from_checkpoint": tmp_path / "run" / "checkpoint-3"}
    train(contrastive_flags(tmp_path / "again", **resumed))
    found = load_file(tmp_path / "again" / "checkpoint-6" / "model.safetensors")
    assert found.keys() == expected.keys() and "memory_bank" in found
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    values = {
        **WITHOUT_AUGMENTATION, "num_train_epochs": 2, "optim": "sgd", "learning_rate": 0.003, "save_strategy": "no",
        "load_best_model_at_end": False, "max_evaluation_clips": 5, "per_device_eval_batch_size": 3,
        "memory_bank_size": 6,
    }  # fmt: skip
    train(contrastive_flags(tmp_path / "one", **values, per_device_train_batch_size=4))
    arguments = contrastive_flags(tmp_path / "two", **values, per_device_train_batch_size=2)
    command_in_two_processes("stages.visual_contrastive_pretraining", arguments)
    losses, _ = logged(tmp_path / "one")
    other_losses, _ = logged(tmp_path / "two")
    assert len(losses) == 6
    assert other_losses[:3] == pytest.approx(losses[:3], rel=1e-3)
    assert other_losses[3:] == pytest.approx(losses[3:], rel=1e-2)
    scores = [json.loads((tmp_path / name / "eval_results.json").read_text()) for name in ("one", "two")]
    assert scores[0]["eval_num_sentences"] == scores[1]["eval_num_sentences"]


# Mistakes


def test_mistakes(tmp_path, capsys):
    for values, expected in (
        (
            {"streaming": True, "max_steps": 3},
            "--streaming is not for this stage: all sentences are embedded before training. Leave it out, and download "
            "the data set.",
        ),
        (
            {"metric_for_best_model": "bleu4"},
            "--metric_for_best_model must be one of loss, recall_at_1, recall_at_5, median_rank, word_f1, got 'bleu4'.",
        ),
        (
            {"temporal_blocks": ["K5", "P2"]},
            "The frame level must give one token per frame: `temporal_padding` 'zero' and no pooling in "
            "`temporal_blocks`, got 'zero' and ['K5', 'P2'].",
        ),
        ({"text_encoder_name_or_path": tmp_path}, f"{str(tmp_path)!r} has no text encoder that can be loaded: "),
        ({"text_model_name_or_path": tmp_path}, f"{str(tmp_path)!r} has no tokenizer that can be loaded: "),
        (
            {"text_model_name_or_path": language_model()},
            f"{str(language_model())!r} has no causal language model that can be loaded: ",
        ),
    ):
        arguments = contrastive_flags(tmp_path / "run", **values)
        assert error_of(visual_contrastive_pretraining.main, arguments, capsys).startswith(expected)
    missing = error_of(visual_contrastive_pretraining.main, ["--dataset", "x", "--output_dir", "y"], capsys)
    assert missing == "`--text_model_name_or_path` must name the language model of stage 1."
