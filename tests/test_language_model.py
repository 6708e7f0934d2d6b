"""The small language model: a lossless tokenizer, noise on the input only, and a falling loss."""

import itertools
import json
import random
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_corpus import corpus, error_of, flags, language_model
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from train_scripts.arguments.stage_arguments import LanguageModelArguments
from train_scripts.runs.text_files import read_sentences
from train_scripts.runs.tokenizers import train_tokenizer
from train_scripts.stages import pretrain_language_model
from train_scripts.stages.pretrain_language_model import DenoisingCollator, build_language_model

SIZES = {"hidden_size": 32, "feed_forward_size": 48, "layers": 1, "attention_heads": 2, "dropout": 0.0}
ALPHABET = "abcdefghijklmnopqrstuvwxyzäöüßéç'.,?!-"


def random_sentences(count: int = 40) -> list[str]:
    words = ["".join(random.choices(ALPHABET, k=random.randint(1, 7))) for _ in range(25)]
    return [" ".join(random.choices(words, k=random.randint(1, 9))) for _ in range(count)]


def run_flags(output_dir: Path, text_file: Path | None = None, **values) -> list[str]:
    defaults = {
        "text_file": text_file or corpus() / "text_only.txt",
        "output_dir": output_dir,
        "use_cpu": True,
        "bf16": False,  # on every machine
        "disable_tqdm": True,
        "report_to": "none",
        "optim": "adamw_torch",
        "logging_steps": 1,
        **SIZES,
    }
    return flags(**{**defaults, **values})


def train(argv: list[str], capsys) -> list[float]:
    """Losses of the steps of a run, as it prints them."""
    capsys.readouterr()
    assert pretrain_language_model.main(argv) == 0
    return [float(loss) for loss in re.findall(r"{'loss': '([0-9.]+)'", capsys.readouterr().out)]


def test_the_tokenizer_gives_back_every_sentence():
    sentences = [*random_sentences(), "two  spaces", "straße, naïve; 3.5 °C?", "雨が 降る", "a"]
    tokenizer = train_tokenizer(sentences, 300)
    for sentence in sentences:
        ids = tokenizer(text_target=sentence)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == sentence
        assert ids[-1] == tokenizer.eos_token_id and ids.count(tokenizer.eos_token_id) == 1
        assert tokenizer.unk_token_id not in ids
    assert len(tokenizer) <= 300


def test_the_tokenizer_normalises_and_keeps_to_its_size():
    tokenizer = train_tokenizer(["für", "fünf"] * 3, 4000)
    assert tokenizer("fu\u0308r ")["input_ids"][:-1] == tokenizer("für ")["input_ids"][:-1]
    sentences = random_sentences(200)
    assert len(train_tokenizer(sentences, 60)) <= 60 < len(train_tokenizer(sentences, 80))


def test_saved_tokenizer_and_model_belong_together():
    tokenizer = AutoTokenizer.from_pretrained(language_model())
    model = AutoModelForSeq2SeqLM.from_pretrained(language_model())
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.decoder_start_token_id == model.config.eos_token_id == tokenizer.eos_token_id
    assert (model.config.pad_token_id, model.config.bos_token_id) == (tokenizer.pad_token_id, tokenizer.bos_token_id)
    for sentence in read_sentences(str(corpus() / "text_only.txt")):
        ids = tokenizer(text_target=sentence)["input_ids"]
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True) == sentence
    assert not list(language_model().rglob("*.bin"))


def collate(sentences: list[list[int]], tokenizer, **noise) -> dict[str, torch.Tensor]:
    arguments = LanguageModelArguments(text_file="text", **noise)
    return DenoisingCollator(arguments, tokenizer)([(ids, random.randrange(1000)) for ids in sentences])


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(language_model())


def random_ids(tokenizer, shortest: int = 4) -> list[list[int]]:
    lengths = [random.randint(shortest, 30) for _ in range(20)]
    ordinary = range(len(tokenizer.all_special_ids), len(tokenizer))
    return [[*random.choices(ordinary, k=length), tokenizer.eos_token_id] for length in lengths]


def test_noise_leaves_the_labels_as_they_are(tokenizer):
    sentences = random_ids(tokenizer)
    kept = [list(sentence) for sentence in sentences]
    batch = collate(sentences, tokenizer, mask_probability=0.5, deletion_probability=0.3, shuffle_probability=1.0)
    assert sentences == kept
    for row, sentence in zip(batch["labels"].tolist(), sentences, strict=True):
        assert row == sentence + [-100] * (len(row) - len(sentence))
    for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        assert row[mask.bool()][-1] == tokenizer.eos_token_id
        assert set(row[~mask.bool()].tolist()) <= {tokenizer.pad_token_id}


def inputs_of(batch: dict[str, torch.Tensor]) -> list[list[int]]:
    rows = zip(batch["input_ids"], batch["attention_mask"], strict=True)
    return [row[mask.bool()].tolist() for row, mask in rows]


def without_repeats(row: list[int]) -> list[int]:
    return [token for token, _ in itertools.groupby(row)]


def test_without_noise_the_input_is_the_sentence(tokenizer):
    sentences = random_ids(tokenizer)
    off = {f"{noise}_probability": 0.0 for noise in ("mask", "deletion", "shuffle", "repetition")}
    assert inputs_of(collate(sentences, tokenizer, **off)) == sentences


def test_each_kind_of_noise(tokenizer):
    sentences = random_ids(tokenizer, shortest=20)
    off = {f"{noise}_probability": 0.0 for noise in ("mask", "deletion", "shuffle", "repetition")}
    shuffled = inputs_of(collate(sentences, tokenizer, **{**off, "shuffle_probability": 1.0}))
    assert shuffled != sentences
    assert [sorted(row) for row in shuffled] == [sorted(row) for row in sentences]
    deleted = inputs_of(collate(sentences, tokenizer, **{**off, "deletion_probability": 0.3}))
    assert 0.5 < sum(map(len, deleted)) / sum(map(len, sentences)) < 0.9
    repeated = inputs_of(collate(sentences, tokenizer, **{**off, "repetition_probability": 0.5}))
    assert 1.5 < sum(map(len, repeated)) / sum(map(len, sentences)) < 2.6
    assert [without_repeats(row) for row in repeated] == [without_repeats(row) for row in sentences]
    masked = inputs_of(collate(sentences, tokenizer, **{**off, "mask_probability": 0.4}))
    mask = tokenizer.mask_token_id
    for row, sentence in zip(masked, sentences, strict=True):
        assert not any(left == right == mask for left, right in zip(row, row[1:], strict=False))
        remaining = iter(sentence)
        assert all(token in remaining for token in row if token != mask)  # in their order
    assert any(mask in row for row in masked)
    all_masked = inputs_of(collate(sentences, tokenizer, **{**off, "mask_probability": 1.0}))
    assert all_masked == [[mask, tokenizer.eos_token_id]] * len(sentences)


def test_noise_of_a_seed(tokenizer):
    sentences = random_ids(tokenizer)
    collator = DenoisingCollator(LanguageModelArguments(text_file="text"), tokenizer)
    first, same, other = [inputs_of(collator([(ids, seed) for ids in sentences])) for seed in (1, 1, 2)]
    assert first == same != other


@pytest.mark.slow
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(random_sentences(24)) + "\n", encoding="utf-8")
    output = tmp_path / "model"
    shared = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 9}
    losses = []
    for resume in ({}, {"resume_from_checkpoint": output / "checkpoint-2"}):  # in the middle of the first epoch of two
        pretrain_language_model.train(run_flags(output, text, **shared, **resume))
        state = json.loads((output / "checkpoint-6" / "trainer_state.json").read_text(encoding="utf-8"))
        losses.append([row["loss"] for row in state["log_history"] if "loss" in row])
    assert losses[0] == losses[1] and len(losses[0]) == 6


def test_the_loss_falls(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(random_sentences(30)) + "\n", encoding="utf-8")
    losses = train(run_flags(tmp_path / "model", text, num_train_epochs=6, learning_rate=0.01), capsys)
    assert len(losses) == 24 and sum(losses[-4:]) < 0.8 * sum(losses[:4])


def test_gradient_accumulation_is_one_large_batch(tmp_path, capsys):
    sizes = {"whole": (8, 1), "split": (2, 4)}
    text = tmp_path / "text.txt"
    text.write_text("the rain comes today\n" * 8, encoding="utf-8")  # of one length, so that means of means are means
    losses = []
    for name, (batch_size, accumulation) in sizes.items():
        argv = run_flags(
            tmp_path / name, text, per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulation,
            max_steps=2, optim="sgd", learning_rate=0.1, max_grad_norm=1e9, mask_probability=0, deletion_probability=0,
            shuffle_probability=0,
        )  # fmt: skip
        losses.append(train(argv, capsys))
    whole, split = [load_file(tmp_path / name / "model.safetensors") for name in sizes]
    for name, value in whole.items():
        torch.testing.assert_close(split[name], value, atol=1e-5, rtol=0, msg=name)
    assert len(losses[0]) == 2 and losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_only_the_model_is_left(tmp_path, capsys):
    assert pretrain_language_model.main(run_flags(tmp_path / "model", max_steps=1)) == 0
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names
    assert not any(name.endswith((".bin", ".pt", ".pth")) for name in names)
    assert "60 sentences, " in capsys.readouterr().out


def test_size_of_the_model(tokenizer):
    arguments = LanguageModelArguments(text_file="text", **SIZES)
    config = build_language_model(arguments, tokenizer).config
    assert (config.d_model, config.encoder_layers, config.decoder_layers) == (32, 1, 1)
    assert (config.encoder_ffn_dim, config.decoder_ffn_dim, config.dropout) == (48, 48, 0.0)


def test_sentences_of_a_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes("\ufeff it rains \r\n\r\n  \r\nöl\n".encode())
    assert read_sentences(str(path)) == ["it rains", "öl"]


def test_mistaken_text_files(tmp_path, capsys):
    missing, empty, latin = tmp_path / "missing.txt", tmp_path / "empty.txt", tmp_path / "latin.txt"
    empty.write_text("\n  \n", encoding="utf-8")
    latin.write_bytes("öl".encode("latin-1"))
    output = tmp_path / "model"
    for path, expected in (
        (missing, f"--text_file {missing} does not exist."),
        (tmp_path, f"--text_file {tmp_path} does not exist."),
        (empty, f"{empty} has no sentence. It must hold one per line."),
        (
            latin,
            f"{latin} is not UTF-8 text: 'utf-8' codec can't decode byte 0xf6 in position 0: invalid start byte.",
        ),
    ):
        assert error_of(pretrain_language_model.main, run_flags(output, path), capsys) == expected
    assert not output.exists()


def test_mistaken_sizes(tmp_path, capsys):
    argv = run_flags(tmp_path / "model", attention_heads=7)
    assert error_of(pretrain_language_model.main, argv, capsys) == (
        "--hidden_size must be a multiple of --attention_heads, got 32 and 7."
    )
    argv = run_flags(tmp_path / "model", resume_from_checkpoint="last")
    assert error_of(pretrain_language_model.main, argv, capsys) == (
        f"--resume_from_checkpoint: {tmp_path / 'model'} holds no checkpoint."
    )
