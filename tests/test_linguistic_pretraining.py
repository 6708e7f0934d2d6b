"""Linguistic pretraining: no line is lost, none is both learned and scored, and stage 3 can use the result."""

import itertools
import json
import math
import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_corpus import corpus, error_of, flags, language_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from train_scripts.arguments.dataclass_parser import parse_arguments
from train_scripts.arguments.stage_arguments import CausalLanguageModelArguments, DenoisingArguments, TextArguments
from train_scripts.hub.training_run import base_ids
from train_scripts.runs.text_batches import TextCollator, TextDataset, WordNoise, pack, prompt_around_video, tokenize
from train_scripts.runs.tokenizers import train_tokenizer
from train_scripts.stages import linguistic_pretraining
from train_scripts.stages.linguistic_pretraining import (
    CHAT_TEMPLATE,
    LinguisticTrainingArguments,
    build_processor,
    hold_out,
    make_tokenizer,
    perplexity,
    read_text,
    token_losses,
)

SIZES = {"hidden_size": 32, "feed_forward_size": 48, "layers": 1, "attention_heads": 2, "max_vocabulary_size": 200}
NO_NOISE = {
    "max_pieces": 1,
    "max_shift": 0,
    **{f"{noise}_probability": 0.0 for noise in ("deletion", "replacement", "repetition", "blank")},
}
BLANK = 1


def text_file(folder: Path, lines: list[str], name: str = "text.txt") -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def random_lines(count: int) -> list[str]:
    words = ["".join(random.choices("abcdefghij", k=random.randint(2, 6))) for _ in range(30)]
    return [" ".join(random.choices(words, k=random.randint(2, 8))) for _ in range(count)]


def run_flags(output_dir: Path, **values) -> list[str]:
    defaults = {
        "output_dir": output_dir,
        "block_size": 48,
        "per_device_train_batch_size": 4,
        "use_cpu": True,
        "bf16": False,  # on every machine
        "disable_tqdm": True,
        "report_to": "none",
        "optim": "adamw_torch",
        "logging_steps": 1,
        **({} if "text_model_name_or_path" in values else SIZES),
    }
    return flags(**{**defaults, **values})


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A model trained from scratch for a few steps on the tiny corpus' text, with denoising examples."""
    folder = tmp_path_factory.mktemp("stage1") / "model"
    values = {"text_file": corpus() / "text_only.txt", "denoising": True, "spoken_language": "en", "block_size": 96}
    linguistic_pretraining.train(run_flags(folder, **values, max_steps=3))
    return folder


def test_what_is_saved_is_ready_for_stage_3(small):
    tokenizer, model = AutoTokenizer.from_pretrained(small), AutoModelForCausalLM.from_pretrained(small)
    assert model.config.vocab_size == len(tokenizer) == model.get_input_embeddings().num_embeddings
    assert tokenizer.chat_template == CHAT_TEMPLATE
    for token in ("<video>", "<user>", "<assistant>"):
        assert tokenizer(token)["input_ids"] == [tokenizer.convert_tokens_to_ids(token)] != [tokenizer.unk_token_id]
    for line in (corpus() / "text_only.txt").read_text(encoding="utf-8").splitlines():
        ids = tokenizer(line)["input_ids"]
        assert tokenizer.decode(ids) == line and tokenizer.unk_token_id not in ids
        assert tokenizer.eos_token_id not in ids  # a prompt must not end as a sentence does
    files = [path for path in small.iterdir() if path.is_file()]
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".jinja"}


def test_prompts_are_those_of_the_processor(small):
    arguments = CausalLanguageModelArguments(text_model_name_or_path=str(small))
    processor = build_processor(arguments, TextArguments(text_file=["unread"], spoken_language="en"), [])
    assert len(processor.tokenizer) == len(AutoTokenizer.from_pretrained(small))
    before, behind = prompt_around_video(processor)
    count = random.randint(1, 30)
    expected = processor(num_visual_tokens=[count], return_tensors="pt")["input_ids"][0].tolist()
    assert [*before, *[processor.video_token_id] * count, *behind] == expected
    text = processor.tokenizer.decode(expected)
    assert text.startswith("<user>") and text.endswith("<assistant>") and "English" in text
    assert len(before) + len(behind) < 20  # its words are tokens, not letters


def test_the_preset_keeps_the_checkpoint_of_the_lowest_perplexity():
    types = (CausalLanguageModelArguments, TextArguments, DenoisingArguments, LinguisticTrainingArguments)
    argv = flags(config="llava_slt_linguistic_pretraining", text_file="text.txt", output_dir="stage1", use_cpu=True)
    *_, training = parse_arguments(types, argv, description="")
    assert training.load_best_model_at_end and training.metric_for_best_model == "perplexity"
    assert not training.greater_is_better and training.eval_strategy == training.save_strategy


def test_no_line_is_both_learned_and_scored():
    lines = [line for line in random_lines(100) for _ in range(random.randint(1, 3))]
    share = random.uniform(0.05, 0.5)
    text, seed = TextArguments(text_file=["unread"], evaluation_share=share), random.randrange(1000)
    kept, held_out = hold_out(lines, text, seed)
    assert not set(kept) & set(held_out)
    assert set(kept) | set(held_out) == set(lines)
    assert kept == [line for line in lines if line in set(kept)]  # in order, repeated ones too
    assert len(held_out) == round(share * len(set(lines)))
    assert hold_out(lines, text, seed) == (kept, held_out)


def test_an_evaluation_file_is_left_out_of_the_training(tmp_path):
    lines = random_lines(20)
    path = text_file(tmp_path, [*lines[:3], "only here"])
    kept, held_out = hold_out(lines, TextArguments(text_file=["unread"], evaluation_text_file=str(path)), 0)
    assert held_out == [*lines[:3], "only here"]
    assert kept == [line for line in lines if line not in held_out]


def test_packing_keeps_every_token():
    tokenizer = make_tokenizer(random_lines(40), "Translate.", 150)
    lines = random_lines(random.randint(5, 3000))
    token_ids = tokenize(lines, tokenizer)
    assert all(ids[-1] == tokenizer.eos_token_id for ids in token_ids)
    size = random.randint(2, 40)
    blocks = pack(token_ids, size)
    stream = np.concatenate(token_ids)
    lost = len(stream) - sum(map(len, blocks))
    assert lost == (1 if len(stream) % size == 1 else 0)  # one token alone has nothing to predict
    np.testing.assert_array_equal(np.concatenate(blocks), stream[: len(stream) - lost])
    assert {len(block) for block in blocks[:-1]} <= {size}


def noise_of(token_ids: list[np.ndarray], **values) -> Callable[[list[int]], list[int]]:
    """Other noise at each call."""
    noise = WordNoise(DenoisingArguments(**{**NO_NOISE, **values}), token_ids, BLANK)
    return lambda words, *_: noise(words, random.randrange(2**60))


def random_sentences(count: int = 40) -> list[list[int]]:
    return [random.sample(range(10, 200), random.randint(5, 30)) for _ in range(count)]


def test_each_kind_of_noise():
    sentences = random_sentences()
    corpus_ids = [np.array([*range(300, 400), 0])]
    assert [noise_of(corpus_ids)(words) for words in sentences] == sentences
    for moved in ({"max_pieces": 3}, {"max_shift": 3.0}):
        noised = [noise_of(corpus_ids, **moved)(words) for words in sentences]
        assert noised != sentences and [sorted(words) for words in noised] == [sorted(words) for words in sentences]
    for words in sentences:
        shifted = noise_of(corpus_ids, max_shift=3.0)(words)
        assert all(abs(shifted.index(word) - place) <= 3 for place, word in enumerate(words))
        deleted = noise_of(corpus_ids, deletion_probability=0.5)(words)
        remaining = iter(words)
        assert deleted == [BLANK] or all(word in remaining for word in deleted)
        repeated = noise_of(corpus_ids, repetition_probability=0.5)(words)
        assert [word for word, _ in itertools.groupby(repeated)] == words
        with_blanks = noise_of(corpus_ids, blank_probability=0.5)(words)
        assert [word for word in with_blanks if word != BLANK] == words
        replaced = noise_of(corpus_ids, replacement_probability=0.5)(words)
        assert all(new == old or 300 <= new < 400 for new, old in zip(replaced, words, strict=True))


def test_a_sentence_of_which_nothing_is_left_is_a_blank():
    assert noise_of([np.array([0])], deletion_probability=0.999999)([5]) == [BLANK]
    assert noise_of([np.array([0])])([]) == [BLANK]


def test_noise_depends_on_seed_epoch_and_sentence_alone():
    lines = [np.array([*range(10, 30), 0])] * 3
    noise = WordNoise(DenoisingArguments(), lines, BLANK)
    seed, epoch = random.randrange(1000), random.randrange(100)

    def noised(seed: int, epoch: int) -> list[list[int]]:
        dataset = TextDataset([np.arange(5)], lines, seed)
        dataset.set_epoch(epoch)
        assert dataset[0][1] is None and len(dataset) == 4
        items = {index: dataset[index] for index in random.sample([1, 2, 3], 3)}  # in whatever order they are asked for
        return [noise(ids[:-1].tolist(), seed_of_item) for _, (ids, seed_of_item) in sorted(items.items())]

    first = noised(seed, epoch)
    assert first == noised(seed, epoch)
    assert first != noised(seed, epoch + 1) and first != noised(seed + 1, epoch)
    assert len({tuple(words) for words in first}) == 3  # one sentence three times


def test_denoising_examples_ask_for_the_sentence_alone():
    sentences = [[*words, 0] for words in random_sentences(5)]
    block = np.arange(1, 20)
    collate = TextCollator(2, ([7, 8], [9]), noise_of([np.array([0])]))
    batch = collate([(np.array(words), random.randrange(1000)) for words in sentences] + [(block, None)])
    for row, words in enumerate(sentences):
        length = int(batch["attention_mask"][row].sum())
        assert batch["input_ids"][row, :length].tolist() == [7, 8, *words[:-1], 9, *words]
        assert batch["labels"][row, :length].tolist() == [-100] * (len(words) + 2) + words
        assert set(batch["input_ids"][row, length:].tolist()) <= {2}
        assert set(batch["labels"][row, length:].tolist()) <= {-100}
    assert batch["labels"][5, :19].tolist() == batch["input_ids"][5, :19].tolist() == block.tolist()


def test_perplexity_is_over_all_tokens_whatever_their_batches(small):
    model = AutoModelForCausalLM.from_pretrained(small)
    rows = [torch.randint(5, 60, (length,)) for length in (9, 4, 2)]
    total = sum(model(row[None], labels=row[None]).loss.item() * (len(row) - 1) for row in rows)
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    labels = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
    with torch.no_grad():
        losses = token_losses(model(padded).logits, labels)

    class Evaluation:
        predictions, label_ids = losses.numpy(), labels.numpy()

    expected = math.exp(total / sum(len(row) - 1 for row in rows))
    assert perplexity(Evaluation)["perplexity"] == pytest.approx(expected, rel=1e-4)


def test_text_of_files_and_data_sets_together(tmp_path):
    first = text_file(tmp_path, ["it rains", "", " ﬁne "], "first.txt")
    second = text_file(tmp_path, ["it snows"], "second.txt")
    lines = read_text(TextArguments(text_file=[str(first), str(second)], dataset=[str(corpus())]))
    assert lines[:3] == ["it rains", "fine", "it snows"]
    rows = (corpus() / "train" / "metadata.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3 + len(rows) - 1 and all(line in "\n".join(rows) for line in lines[3:])


def pretrained(folder: Path, kind: str, **values) -> Path:
    """A random GPT-2 or Llama with a tokenizer, and with a chat template if it is a Llama."""
    tokenizer = train_tokenizer(random_lines(50), 120)
    sizes = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    if kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=64, **sizes, **values))
    else:
        tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} ###{% endfor %}"
        model = LlamaForCausalLM(
            LlamaConfig(
                hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, **sizes, **values
            )
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_pretrained_model_keeps_what_it_has_and_gets_the_placeholder(kind, tmp_path, capsys):
    base = pretrained(tmp_path / "base", kind)
    (base / "README.md").write_text("---\nbase_model: somebody/language-model\n---\n", encoding="utf-8")
    text = text_file(tmp_path, random_lines(40))
    output = tmp_path / "stage1"
    low_rank = {"lora": True, "bf16": True} if kind == "llama" else {}
    argv = run_flags(output, text_file=text, text_model_name_or_path=base, max_steps=2, **low_rank)
    assert linguistic_pretraining.main(argv) == 0
    assert re.search(r"Held-out perplexity \d+\.\d\d; saved in", capsys.readouterr().out)
    before, tokenizer = AutoTokenizer.from_pretrained(base), AutoTokenizer.from_pretrained(output)
    assert tokenizer.chat_template == before.chat_template
    assert tokenizer.convert_ids_to_tokens(len(before)) == "<video>" and len(tokenizer) == len(before) + 1
    model, old = (AutoModelForCausalLM.from_pretrained(folder) for folder in (output, base))
    assert model.config.vocab_size == len(tokenizer) and type(model) is type(old)
    old_weights = old.state_dict()
    changed = {
        name
        for name, value in model.state_dict().items()
        if not torch.equal(value[: len(old_weights[name])], old_weights[name])
    }
    if kind == "llama":  # low-rank adapters, merged: embeddings, norms and what they are not in stay
        assert changed and all("proj" in name for name in changed)
    else:
        assert changed == set(old_weights)
    assert not list(output.glob("adapter*"))
    assert base_ids(str(output)) == ["somebody/language-model"]


@pytest.mark.slow
def test_training_learns_and_resumes_where_it_stopped(tmp_path, capsys):
    text = text_file(tmp_path, random_lines(30) * 4)
    output = tmp_path / "stage1"
    shared = {"text_file": text, "denoising": True, "block_size": 96, "num_train_epochs": 3, "learning_rate": 0.01}
    shared |= {"seed": random.randrange(1000), "eval_strategy": "steps", "save_strategy": "steps"}
    shared |= {"eval_steps": 10, "save_steps": 10, "save_total_limit": 99}

    def run(**values) -> tuple[list[float], float]:
        scores = linguistic_pretraining.train(run_flags(output, **shared, **values))
        log = json.loads((output / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
        return [row["loss"] for row in log if "loss" in row], scores["eval_perplexity"]

    losses, perplexity_of_whole = run()
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    again, perplexity_of_resumed = run(resume_from_checkpoint=output / "checkpoint-10")  # in the middle of an epoch
    assert again == pytest.approx(losses, rel=1e-4) and len(again) == len(losses) > 20
    assert perplexity_of_resumed == pytest.approx(perplexity_of_whole, rel=1e-4)


def test_mistakes_are_told_before_any_training(tmp_path, capsys):
    empty, one = text_file(tmp_path, ["", " "], "empty.txt"), text_file(tmp_path, ["alone"], "one.txt")
    text = text_file(tmp_path, random_lines(20))
    gpt2 = pretrained(tmp_path / "gpt2", "gpt2")
    output = tmp_path / "output"
    for values, expected in (
        ({}, "`--text_file` or `--dataset` must name the text to learn from."),
        ({"text_file": empty}, f"{empty} has no sentence. It must hold one per line."),
        (
            {"text_file": one},
            "No line is left to train on after removing those of the evaluation. Give more text, or another "
            "--evaluation_text_file.",
        ),
        (
            {"text_file": text, "text_model_name_or_path": language_model()},
            "--text_model_name_or_path must be a decoder-only language model, such as Qwen, Llama or GPT-2; "
            f"{language_model()} is an encoder-decoder model (mbart), for FLa-LLM or Uni-Sign or MMSLT or DiffSLT.",
        ),
        (
            {"text_file": text, "text_model_name_or_path": gpt2, "block_size": 65},
            "--block_size must be at most 64, the positions of the model, got 65.",
        ),
        ({"text_file": text, "block_size": 1}, "--block_size must be 2 or more, got 1."),
        ({"text_file": text, "evaluation_share": 1}, "--evaluation_share must be above 0 and below 1, got 1.0."),
        (
            {"text_file": text, "lora": True},
            "--lora True needs --text_model_name_or_path: a new model must be trained in full.",
        ),
        (
            {"text_file": text, "attention_heads": 3},
            "--hidden_size must be a multiple of twice --attention_heads, got 32 and 3.",
        ),
        (
            {"text_file": text, "deletion_probability": 1},
            "--deletion_probability must be 0 or more and below 1, got 1.0.",
        ),
        (
            {"text_file": text, "max_pieces": 0},
            "--max_pieces must be 1 or more and --max_shift 0 or more, got 0 and 3.0.",
        ),
        (
            {"text_file": text, "push_to_hub": True},
            "--push_to_hub is not for this stage: the model of stage 3 contains the whole language model.",
        ),
        ({"text_file": text, "block_siz": 8}, "unknown flag 'block_siz'. Did you mean 'block_size'?"),
        (
            {"dataset": corpus(), "text_column": "words"},
            f"{corpus() / 'train' / 'metadata.csv'} must have the column 'words', got "
            "['file_name', 'text', 'gloss', 'signer', 'handedness']. Pass --text_column.",
        ),
    ):
        assert error_of(linguistic_pretraining.main, run_flags(output, **values), capsys) == expected
    assert not output.exists()
