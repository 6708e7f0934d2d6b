"""Scores against sacrebleu's command line and independent formulas, and through `Seq2SeqTrainer` in two processes."""

import codecs
import json
import math
import random
import re
import shutil
import socket
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from sacrebleu.metrics import BLEU
from tiny_corpus import error_of
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    EvalPrediction,
    MBartConfig,
    MBartForConditionalGeneration,
    PreTrainedTokenizerFast,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)
from two_processes import as_process, in_two_processes, unused_port
from without_our_packages import run_without_our_packages

from processing import FLaLLMProcessor, FLaLLMVideoProcessor
from train_scripts.commands.score_translations import main, read_segments
from train_scripts.scores.metrics import (
    SCORE_MODULE_FOLDER,
    build_compute_metrics,
    format_scores,
    scores_by_signer,
    sentence_chrf,
    translation_scores,
)

REPOSITORY = Path(__file__).resolve().parents[1]
SCORE_NAMES = ["bleu1", "bleu2", "bleu3", "bleu4", "chrf", "rouge_l_mscoco"]
WORDS = [
    "Am",
    "Tag",
    "regnet",
    "es",
    ",",
    "im",
    "Norden",
    "starker",
    "Wind",
    ".",
    "14",
    "(morgen)",
    "3,5",
    "über",
    "dem",
]
CHARACTERS = "今天北方有雨,南方晴 2020A。明日は雨です"
PAD_TOKEN_ID = 1


@pytest.fixture
def generator(seed: int) -> random.Random:
    return random.Random(seed)


def random_corpus(
    generator: random.Random, num_segments: int, units: str | list[str] = WORDS, joiner: str = " "
) -> tuple[list[str], list[str]]:
    """Return references and predictions, which are the references with units dropped, replaced and moved."""
    predictions, references = [], []
    for _ in range(num_segments):
        reference = generator.choices(units, k=generator.randint(3, 18))
        prediction = [
            generator.choice(units) if generator.random() < 0.15 else unit
            for unit in reference
            if generator.random() > 0.15
        ]
        references.append(joiner.join(reference))
        predictions.append(joiner.join(prediction))
    references = [reference if reference.strip() else joiner.join(units) for reference in references]
    return predictions, references


def write_lines(path: Path, segments: list[str]) -> Path:
    path.write_text("".join(f"{segment}\n" for segment in segments), encoding="utf-8")
    return path


def sacrebleu_command(tmp_path: Path, predictions: list[str], references: list[str], *flags: str) -> list[dict]:
    files = [str(write_lines(tmp_path / "ref", references)), "-i", str(write_lines(tmp_path / "hyp", predictions))]
    command = [sys.executable, "-m", "sacrebleu", *files, "-m", "bleu", "chrf", "--format", "json", "-w", "9", *flags]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def with_normal_form(signature: str) -> str:
    return signature.replace("|version:", "|norm:nfkc|version:")


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        (["-tok", "13a"], {}),
        (["-tok", "13a", "-lc", "--chrf-lowercase"], {"lowercase": True}),
        (["-tok", "char"], {"language": "zh_CN"}),
        (["-tok", "zh"], {"tokenize": "zh"}),
    ],
)
def test_bleu_and_chrf_equal_the_sacrebleu_command(generator, tmp_path, flags, options):
    characters = "-lc" not in flags and "13a" not in flags
    predictions, references = random_corpus(generator, 40, *((CHARACTERS, "") if characters else (WORDS, " ")))
    predictions[3] = ""
    expected_bleu, expected_chrf = sacrebleu_command(tmp_path, predictions, references, *flags)
    scores = translation_scores(predictions, references, num_resamples=0, **options)
    assert round(scores["bleu4"], 9) == expected_bleu["score"]
    assert round(scores["chrf"], 9) == expected_chrf["score"]
    assert scores["signatures"]["bleu4"] == with_normal_form(expected_bleu["signature"])
    assert scores["signatures"]["chrf"] == with_normal_form(expected_chrf["signature"])
    assert scores["confidence_intervals"] == {}


def test_confidence_intervals_equal_the_sacrebleu_command(generator, tmp_path):
    predictions, references = random_corpus(generator, 60)
    expected = sacrebleu_command(tmp_path, predictions, references, "--confidence")
    scores = translation_scores(predictions, references)
    for name, result in zip(("bleu4", "chrf"), expected, strict=True):
        interval = scores["confidence_intervals"][name]
        assert scores["signatures"][name] == with_normal_form(result["signature"])
        # sacrebleu sums in single precision
        assert interval["mean"] == pytest.approx(result["confidence_mean"], abs=1e-3)
        assert interval["half_width"] == pytest.approx(result["confidence_var"], abs=1e-3)
        assert interval["high"] - interval["low"] == pytest.approx(2 * interval["half_width"])
        assert interval["low"] < scores[name] < interval["high"]


def test_rouge_l_interval_is_that_of_a_mean_and_fast(generator):
    predictions, references = random_corpus(generator, 642)
    start = time.process_time()  # excludes other processes
    scores = translation_scores(predictions, references, num_resamples=1000)
    duration_in_seconds = time.process_time() - start
    segment_scores = [
        brute_force_rouge_l(prediction.split(), reference.split())
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    normal_half_width = 1.96 * np.std(segment_scores) / math.sqrt(len(segment_scores))
    assert scores["confidence_intervals"]["rouge_l_mscoco"]["half_width"] == pytest.approx(normal_half_width, rel=0.2)
    assert duration_in_seconds < 5, "should take well under a second on a free core"


def test_bootstrap_is_deterministic_and_seeded(generator):
    corpus = random_corpus(generator, 30)
    first, again = (translation_scores(*corpus, num_resamples=50, seed=7) for _ in range(2))
    other = translation_scores(*corpus, num_resamples=50, seed=8)
    assert first == again
    assert set(first["confidence_intervals"]) == set(SCORE_NAMES)
    assert first["confidence_intervals"] != other["confidence_intervals"]
    assert [first[name] for name in SCORE_NAMES] == [other[name] for name in SCORE_NAMES]
    assert "|bs:50|seed:7|" in first["signatures"]["rouge_l_mscoco"]


def test_bleu_of_lower_orders_is_cumulative(generator):
    predictions, references = random_corpus(generator, 25)
    scores = translation_scores(predictions, references, num_resamples=0)
    full = BLEU().corpus_score(predictions, [references])
    assert full.bp < 1
    for order in range(1, 5):
        geometric_mean = math.exp(sum(math.log(precision) for precision in full.precisions[:order]) / order)
        assert scores[f"bleu{order}"] == pytest.approx(full.bp * geometric_mean)
        assert scores[f"bleu{order}"] == BLEU(max_ngram_order=order).corpus_score(predictions, [references]).score
        assert (f"|order:{order}|" in scores["signatures"][f"bleu{order}"]) == (order < 4)


def brute_force_rouge_l(prediction: list[str], reference: list[str]) -> float:
    """ROUGE-L, 0 to 100, by recursion over suffixes instead of the table of the module."""

    @cache
    def common_length(i: int, j: int) -> int:
        if i == len(prediction) or j == len(reference):
            return 0
        skipped = max(common_length(i + 1, j), common_length(i, j + 1))
        return max(skipped, 1 + common_length(i + 1, j + 1)) if prediction[i] == reference[j] else skipped

    common = common_length(0, 0)
    if common == 0:
        return 0.0
    precision, recall = common / len(prediction), common / len(reference)
    return 100 * (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)


@pytest.mark.parametrize(
    ("options", "split"),
    [
        ({}, str.split),
        ({"language": "de_DE", "lowercase": True}, lambda text: text.lower().split()),
        ({"language": "ja"}, lambda text: list("".join(text.split()))),
        ({"tokenize": "zh"}, lambda text: list("".join(text.split()))),
    ],
)
def test_rouge_l_equals_brute_force(generator, options, split):
    predictions, references = random_corpus(generator, 30)
    predictions += ["", "Wind", "wind über"]
    references += ["Wind", "Regen", "Wind  über dem\tSüden"]
    expected = [brute_force_rouge_l(split(p), split(r)) for p, r in zip(predictions, references, strict=True)]
    scores = translation_scores(predictions, references, num_resamples=0, **options)
    assert scores["rouge_l_mscoco"] == pytest.approx(np.mean(expected))


def test_signature_of_rouge_l_says_what_it_is():
    word = translation_scores(["a"], ["a"], num_resamples=0)["signatures"]["rouge_l_mscoco"]
    character = translation_scores(["a"], ["a"], num_resamples=0, language="zh", lowercase=True)["signatures"]
    assert word == "nrefs:1|case:mixed|formula:mscoco|beta:1.2|unit:word|average:segments|norm:nfkc"
    assert (
        character["rouge_l_mscoco"]
        == "nrefs:1|case:lc|formula:mscoco|beta:1.2|unit:character|average:segments|norm:nfkc"
    )
    assert "|tok:char|" in character["bleu4"]


@pytest.mark.parametrize("tag", ["zh_CN", "yue", "jpn_Jpan", "ko-KR", "th_TH", "lao_Laoo", "my", "khm_Khmr", "bo"])
def test_languages_without_words_between_spaces_are_scored_by_character(tag):
    signatures = translation_scores(["a"], ["a"], num_resamples=0, language=tag)["signatures"]
    assert "|tok:char|" in signatures["bleu4"] and "|unit:character|" in signatures["rouge_l_mscoco"]


@pytest.mark.parametrize("tag", ["de", "vi", "ar_AR", "kok", "thl", "myv"])
def test_other_languages_are_scored_by_word(tag):
    signatures = translation_scores(["a"], ["a"], num_resamples=0, language=tag)["signatures"]
    assert "|tok:13a|" in signatures["bleu4"] and "|unit:word|" in signatures["rouge_l_mscoco"]


# Pairs of one sentence in two forms, and the language.
TWO_FORMS = {
    "full-width marks": ("你好，你叫什么名字？", "你好,你叫什么名字?", "zh"),
    "decomposed umlauts": ("Scho\u0308ne Gru\u0308ße aus Ko\u0308ln .", "Schöne Grüße aus Köln .", "de"),
    "ligatures": ("the ﬁrst oﬃce on the ﬂoor", "the first office on the floor", "en"),
    "half-width katakana": ("ｶﾞﾗｽの窓です。", "ガラスの窓です。", "ja"),
    "conjoining jamo": ("\u1112\u1161\u11ab\u1100\u1173\u11af 수업이 있어요", "한글 수업이 있어요", "ko"),
    "Arabic presentation forms": ("ﻣﺮﺣﺒﺎ ﺑﻚ في ﺑﻴﺘﻨﺎ", "مرحبا بك في بيتنا", "ar"),
    "Thai vowel in two parts": ("น\u0e33ตาล", "น\u0e4d\u0e32ตาล", "th"),
    "non-breaking and thin spaces": ("il\u00a0dit\u202f: «\u2009oui\u2009» demain", "il dit : « oui » demain", "fr"),
    "spaces at the ends and in a row": ("  morgen  regnet\tes  im Norden ", "morgen regnet es im Norden", "de"),
    "line ends": ("morgen\nregnet\u2028es\x0bim\r\nNorden", "morgen regnet es im Norden", "de"),
    "hints for line ends": ("mor\u00adgen reg\u200bnet es im\ufeff Nor\u2060den", "morgen regnet es im Norden", "de"),
    "marks of direction": ("\u202bשלום לך\u202c מן הצפון\u200f", "שלום לך מן הצפון", "he"),
    "control characters": ("morgen\x00 regnet es\x7f im Nor\x9fden", "morgen regnet es im Norden", "de"),
}


@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("name", TWO_FORMS)
def test_two_forms_of_one_sentence_are_the_same_on_either_side(name, lowercase):
    *forms, language = TWO_FORMS[name]
    options = {"language": language, "lowercase": lowercase, "num_resamples": 2}
    for prediction, reference in (forms, forms[::-1]):
        scores = translation_scores([prediction], [reference], **options)
        assert [scores[score] for score in SCORE_NAMES] == pytest.approx([100.0] * 6), (prediction, reference)
        assert sentence_chrf(prediction, reference) == pytest.approx(100)
    assert all("|norm:nfkc" in signature for signature in scores["signatures"].values())


def test_a_joiner_is_spelling():
    assert sentence_chrf("می\u200cخواهم", "میخواهم") < 100


@pytest.mark.parametrize("nothing", ["\u200b", "\ufeff \u00ad", "\u00a0\u2028"])
def test_what_nobody_sees_is_no_sentence(nothing):
    assert translation_scores([nothing], ["a b"], num_resamples=0)["num_empty_predictions"] == 1
    with pytest.raises(ValueError, match=re.escape("references[1] is empty (1 of 2 references are).")):
        translation_scores(["a", "b"], ["a", nothing])


def test_spaces_do_not_matter_at_character_level(generator):
    predictions, references = random_corpus(generator, 20, CHARACTERS, "")
    spaced = [" ".join(prediction) for prediction in predictions]
    plain_scores = translation_scores(predictions, references, num_resamples=0, language="zho_Hans")
    assert translation_scores(spaced, references, num_resamples=0, language="zho_Hans") == plain_scores
    assert plain_scores["bleu4"] > translation_scores(predictions, references, num_resamples=0)["bleu4"]


def test_append_period_is_the_period_on_both_sides_and_named(generator):
    predictions, references = random_corpus(generator, 20)
    predictions[0] = ""
    appended = translation_scores(predictions, references, num_resamples=0, append_period=True)
    by_hand = translation_scores([f"{p} ." for p in predictions], [f"{r} ." for r in references], num_resamples=0)
    assert [appended[name] for name in SCORE_NAMES] == [by_hand[name] for name in SCORE_NAMES]
    assert all("|period:appended" in signature for signature in appended["signatures"].values())
    assert not any("period" in signature for signature in by_hand["signatures"].values())
    assert (appended["num_empty_predictions"], by_hand["num_empty_predictions"]) == (1, 0)


def test_empty_predictions_are_scored_and_counted(generator):
    _, references = random_corpus(generator, 5)
    scores = translation_scores(["", "  ", *references[2:]], references, num_resamples=10)
    assert (scores["num_segments"], scores["num_empty_predictions"]) == (5, 2)
    assert scores["rouge_l_mscoco"] == pytest.approx(60)
    nothing = translation_scores([""] * 5, references, num_resamples=10)
    assert [nothing[name] for name in SCORE_NAMES] == [0.0] * 6


@pytest.mark.parametrize(
    ("predictions", "references", "options", "error", "message"),
    [
        ([], [], {}, ValueError, "predictions is empty: a corpus score needs at least one segment."),
        (None, None, {}, TypeError, "predictions must be a list of strings, one per segment, got NoneType."),
        (["a"], None, {}, TypeError, "references must be a list of strings, one per segment, got NoneType."),
        ("a b", ["a b"], {}, TypeError, "predictions must be a list of strings, one per segment, got str."),
        (3, ["a"], {}, TypeError, "predictions must be a list of strings, one per segment, got int."),
        (["a", None], ["a", "b"], {}, TypeError, "predictions[1] must be a string, got NoneType: None."),
        (["a", 4], ["a", "b"], {}, TypeError, "predictions[1] must be a string, got int: 4. Pass raw text"),
        (["a"], [["a"]], {}, TypeError, "references[0] must be a string, got list: ['a']."),
        (["a"], ["a", "b"], {}, ValueError, "in the same order; got 1 predictions and 2 references."),
        (["a"] * 3, ["a", " ", ""], {}, ValueError, "references[1] is empty (2 of 3 references are)."),
        (["a"], ["a"], {"tokenize": "ja-mecab"}, ValueError, "['13a', 'char', 'intl', 'none', 'zh'], got 'ja-mecab'."),
        (["a"], ["a"], {"language": "Chinese"}, ValueError, "such as 'de', 'zh' or 'zh_CN', got 'Chinese'."),
        (["a"], ["a"], {"num_resamples": -1}, ValueError, "num_resamples must be 0 (no confidence intervals) or more"),
    ],
)
def test_bad_input_has_its_own_error(predictions, references, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        translation_scores(predictions, references, **options)


def test_module_is_loaded_from_its_folder_without_network_and_takes_batches(generator, monkeypatch):
    def refuse(*arguments):
        raise AssertionError(f"network used: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    score_module = evaluate.load(str(SCORE_MODULE_FOLDER))
    predictions, references = random_corpus(generator, 9)
    for start in range(0, 9, 4):
        score_module.add_batch(predictions=predictions[start : start + 4], references=references[start : start + 4])
    assert score_module.compute(num_resamples=0) == translation_scores(predictions, references, num_resamples=0)
    score_module.add_batch(predictions=["a", None], references=["a", "b"])
    with pytest.raises(TypeError, match=re.escape("predictions[1] must be a string, got NoneType: None.")):
        score_module.compute()


@pytest.mark.slow
def test_the_module_is_loaded_where_the_package_is_not_installed(tmp_path):
    """`evaluate` copies the file away from our packages, and reads its imports with a regular expression."""
    shutil.copytree(SCORE_MODULE_FOLDER, tmp_path / SCORE_MODULE_FOLDER.name)
    code = (
        "import json, sys, evaluate\n"
        "module, sentences = evaluate.load(sys.argv[1]), ['a b c d']\n"
        "scores = module.compute(predictions=sentences, references=sentences, num_resamples=0)\n"
        "print(json.dumps(scores['bleu4']))\n"
    )
    printed = run_without_our_packages(code, str(tmp_path / SCORE_MODULE_FOLDER.name), folder=tmp_path)
    assert json.loads(printed.splitlines()[-1]) == pytest.approx(100)


# The command


def test_command_prints_the_table(generator, tmp_path, capsys):
    predictions, references = random_corpus(generator, 12)
    files = [str(write_lines(tmp_path / "hyp.txt", predictions)), str(write_lines(tmp_path / "ref.txt", references))]
    assert main(files) == 0
    printed = capsys.readouterr().out
    scores = translation_scores(predictions, references)
    assert printed == format_scores(scores) + "\n"
    assert [line.split("  ")[0] for line in printed.splitlines()[1:7]] == [
        *("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "chrF", "ROUGE-L (mscoco)")
    ]
    for name, line in zip(SCORE_NAMES, printed.splitlines()[1:], strict=False):
        interval = scores["confidence_intervals"][name]
        assert f" {scores[name]:.2f}  " in line and f"{interval['low']:.2f} - {interval['high']:.2f}" in line
        assert line.endswith(scores["signatures"][name])
    assert printed.splitlines()[-1] == f"12 segments, {sum(not p.strip() for p in predictions)} empty predictions"


def test_command_prints_json_with_its_options(generator, tmp_path, capsys):
    predictions, references = random_corpus(generator, 12, CHARACTERS, "")
    files = [str(write_lines(tmp_path / "hyp.txt", predictions)), str(write_lines(tmp_path / "ref.txt", references))]
    flags = [
        "--json",
        "--spoken_language",
        "zh",
        "--num_resamples",
        "20",
        "--seed",
        "3",
        "--append-period",
        "--lowercase",
    ]
    assert main([*files, *flags]) == 0
    options = {"language": "zh", "num_resamples": 20, "seed": 3, "append_period": True, "lowercase": True}
    stripped = [[segment.rstrip() for segment in side] for side in (predictions, references)]
    assert json.loads(capsys.readouterr().out) == translation_scores(*stripped, **options)
    assert error_of(main, [*files, "--tokenize", "spm"], capsys).startswith(
        "argument --tokenize: invalid choice: 'spm'"
    )
    assert error_of(main, [*files, "--num_resamples", "-1"], capsys) == (
        "--num_resamples must be from 0 to 100000, got -1."
    )
    assert error_of(main, [*files, "--spoken_language", "?"], capsys) == (
        "--spoken_language must be the tag of a written language, such as de, zh_CN or deu_Latn, got '?'."
    )


@pytest.mark.parametrize(
    ("content", "segments"),
    [
        (codecs.BOM_UTF8 + "für\nzwei\n".encode(), ["für", "zwei"]),
        (b"eins\r\nzwei", ["eins", "zwei"]),
        (b"eins\n\n", ["eins", ""]),
        ("eins\u2028noch\x0c eins\u0085\nzwei\n".encode(), ["eins\u2028noch\x0c eins", "zwei"]),
    ],
)
def test_files_hold_one_segment_per_line(tmp_path, content, segments):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    assert read_segments(path) == segments


@pytest.mark.parametrize(
    ("hypotheses", "references", "message"),
    [
        (b"a\nb\n", b"a\n", "{hypotheses} has 2 lines and {references} has 1. Both need one segment per line"),
        (b"a\n", None, "{references} is not a file. Give a text file with one segment per line."),
        (b"gut\nf\xfcr\n", b"a\nb\n", "{hypotheses} is not UTF-8: line 2 holds byte 0xfc. Convert it"),
        (b"", b"a\n", "{hypotheses} is empty. Give a text file with one segment per line."),
        (b"a\nb\n", b"a\n \n", "Line 2 of {references} is empty (1 of 2 lines are)."),
        (b"a\nb\n", "a\n\u200b\u00a0\n".encode(), "Line 2 of {references} is empty (1 of 2 lines are)."),
    ],
)
def test_command_says_which_file_is_wrong(tmp_path, capsys, hypotheses, references, message):
    paths = {"hypotheses": tmp_path / "hyp.txt", "references": tmp_path / "ref.txt"}
    paths["hypotheses"].write_bytes(hypotheses)
    if references is not None:
        paths["references"].write_bytes(references)
    assert main([str(path) for path in paths.values()]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {message.format(**paths)}")


# The Trainer


def decode_words(token_ids: np.ndarray, skip_special_tokens: bool) -> list[str]:
    assert skip_special_tokens and (token_ids >= 0).all()
    return [" ".join(f"wort{token_id}" for token_id in row if token_id > 3) for row in token_ids]


def random_token_ids(generator: random.Random, num_sentences: int) -> list[list[int]]:
    return [[generator.randrange(4, 60) for _ in range(generator.randint(4, 28))] for _ in range(num_sentences)]


def padded(rows: list[list[int]], padding: int) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], True, padding)


def test_compute_metrics_scores_raw_references(generator):
    rows = random_token_ids(generator, 6)
    references = decode_words(padded(rows, PAD_TOKEN_ID).numpy(), skip_special_tokens=True)
    predictions = padded(rows, -100).numpy()
    perfect = build_compute_metrics(decode_words, references, PAD_TOKEN_ID)(EvalPrediction(predictions, predictions))
    assert [perfect[name] for name in SCORE_NAMES] == pytest.approx([100.0] * 6)
    assert perfect["mean_generated_tokens"] == pytest.approx(np.mean([len(row) for row in rows]))
    assert (perfect["different_predictions"], perfect["most_frequent_prediction"]) == (1.0, pytest.approx(1 / 6))
    assert all(type(value) is float for value in perfect.values())

    # What the tokenizer cannot spell stays in the reference and counts as missing.
    unspellable = [f"{reference} ☃" for reference in references]
    lossy = build_compute_metrics(decode_words, unspellable, PAD_TOKEN_ID)(EvalPrediction(predictions, predictions))
    expected = translation_scores(references, unspellable, num_resamples=0)
    assert lossy["bleu4"] == expected["bleu4"] < 100


def byte_processor(sentences: list[str]) -> FLaLLMProcessor:
    """With a tokenizer that can spell everything."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>"}
    return FLaLLMProcessor(FLaLLMVideoProcessor(), PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names))


@pytest.mark.parametrize("name", TWO_FORMS)
def test_a_model_that_writes_its_labels_gets_full_scores(name):
    """These scores choose the best checkpoint, too."""
    raw, _, language = TWO_FORMS[name]
    references = [raw, f"{raw} {raw}"]
    processor = byte_processor(references)
    labels = processor(text_target=references)["labels"].numpy()
    compute_metrics = build_compute_metrics(
        processor.batch_decode, references, processor.tokenizer.pad_token_id, language=language
    )
    scores = compute_metrics(EvalPrediction(labels, labels))
    assert [scores[score] for score in SCORE_NAMES] == pytest.approx([100.0] * 6)


def test_labels_in_another_form_still_show_a_reordered_evaluation():
    references = ["Scho\u0308n", "Gru\u0308n", "Ko\u0308ln"]
    processor = byte_processor(references)
    labels = processor(text_target=references)["labels"].numpy()
    compute_metrics = build_compute_metrics(processor.batch_decode, references, processor.tokenizer.pad_token_id)
    with pytest.raises(ValueError, match=re.escape("2 of 3 labels belong to a different sentence")):
        compute_metrics(EvalPrediction(labels[[1, 0, 2]], labels[[1, 0, 2]]))


def test_compute_metrics_refuses_what_does_not_belong_together(generator):
    rows = random_token_ids(generator, 6)
    ids = padded(rows, PAD_TOKEN_ID).numpy()
    references = decode_words(ids, skip_special_tokens=True)
    compute_metrics = build_compute_metrics(decode_words, references, PAD_TOKEN_ID)
    with pytest.raises(ValueError, match=re.escape("Got 5 predictions for 6 references.")):
        compute_metrics(EvalPrediction(ids[:5], None))
    with pytest.raises(ValueError, match=re.escape("Got 12 predictions for 6 references.")):
        compute_metrics(EvalPrediction(np.concatenate([ids, ids]), None))
    with pytest.raises(ValueError, match=re.escape("got float32 of shape (6, 3, 60). Set predict_with_generate=True.")):
        compute_metrics(EvalPrediction((np.zeros((6, 3, 60), "float32"), ids), None))
    with pytest.raises(ValueError, match=re.escape("6 of 6 labels belong to a different sentence")):
        compute_metrics(EvalPrediction(ids[::-1], ids[::-1]))
    with pytest.raises(ValueError, match=re.escape("references[1] is empty")):
        build_compute_metrics(decode_words, ["a", ""], PAD_TOKEN_ID)


class EchoModel(MBartForConditionalGeneration):
    """Tiny MBart that "generates" its input, so that each prediction shows which sample it belongs to."""

    def generate(self, input_ids: torch.Tensor, **kwargs) -> torch.Tensor:
        return input_ids


def collate(samples: list[dict]) -> dict[str, torch.Tensor]:
    return {
        "input_ids": padded([sample["input_ids"] for sample in samples], PAD_TOKEN_ID),
        "labels": padded([sample["labels"] for sample in samples], -100),
    }


def evaluate_with_trainer(num_samples: int, seed: int, output_dir: Path, **arguments) -> dict[str, float]:
    """Return the metrics of an evaluation of `num_samples`, and how many predictions the Trainer had gathered."""
    generator = random.Random(seed)
    labels = random_token_ids(generator, num_samples)
    inputs = [[token_id if generator.random() < 0.8 else 4 for token_id in row[1:]] for row in labels]
    references = decode_words(padded(labels, PAD_TOKEN_ID).numpy(), skip_special_tokens=True)
    compute_metrics = build_compute_metrics(decode_words, references, PAD_TOKEN_ID, num_resamples=20)
    layer_sizes = {f"{side}_{part}": 1 for side in ("encoder", "decoder") for part in ("layers", "attention_heads")}
    widths = {"d_model": 8, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    trainer = Seq2SeqTrainer(
        model=EchoModel(MBartConfig(vocab_size=60, pad_token_id=PAD_TOKEN_ID, **layer_sizes, **widths)),
        args=Seq2SeqTrainingArguments(
            str(output_dir),
            predict_with_generate=True,
            per_device_eval_batch_size=4,
            use_cpu=True,
            disable_tqdm=True,
            **arguments,
        ),
        eval_dataset=[{"input_ids": row, "labels": label} for row, label in zip(inputs, labels, strict=True)],
        data_collator=collate,
        compute_metrics=lambda evaluation: {
            **compute_metrics(evaluation),
            "num_gathered": len(evaluation.predictions),
        },
    )
    metrics = trainer.evaluate()
    return {name: metrics[f"eval_{name}"] for name in (*SCORE_NAMES, "mean_generated_tokens", "num_gathered")}


def test_reordered_evaluation_of_the_trainer_is_refused(seed, tmp_path):
    with pytest.raises(ValueError, match=re.escape("Give the Trainer a sequential evaluation sampler.")):
        evaluate_with_trainer(40, seed, tmp_path, train_sampling_strategy="group_by_length")


@pytest.mark.slow
def test_two_processes_score_as_one(seed, tmp_path):
    in_two_processes(evaluate_as_one_of_two_processes, tmp_path, seed, unused_port())
    for num_samples, num_gathered in {7: 8, 10: 16, 13: 16}.items():
        one_process = evaluate_with_trainer(num_samples, seed, tmp_path / "one")
        for rank in range(2):
            two_processes = json.loads((tmp_path / f"scores_{num_samples}_{rank}.json").read_text())
            assert two_processes == {**one_process, "num_gathered": num_gathered}
        assert one_process["num_gathered"] == num_samples


def evaluate_as_one_of_two_processes(rank: int, output_dir: Path, seed: int, port: int) -> None:
    as_process(rank, port)
    for num_samples in (7, 10, 13):
        scores = evaluate_with_trainer(num_samples, seed, output_dir / "two")
        (output_dir / f"scores_{num_samples}_{rank}.json").write_text(json.dumps(scores), encoding="utf-8")


# By signer


def test_the_worst_signer_comes_first():
    sentence, other = "one two three four", "five six seven eight"
    scores = scores_by_signer([sentence, sentence, other], [sentence] * 3, ["a", "b", "b"])
    assert list(scores["by_signer"]) == ["b", "a"]
    assert scores["by_signer"]["a"] == {"bleu4": pytest.approx(100.0), "num_segments": 1}
    expected = translation_scores([sentence, other], [sentence] * 2, num_resamples=0)["bleu4"]
    assert scores["worst_signer_bleu4"] == scores["by_signer"]["b"]["bleu4"] == expected
    assert scores["by_signer"]["b"]["num_segments"] == 2


def test_clips_of_nobody_count_for_nobody():
    sentences = ["one two three four", "five six seven eight"]
    assert scores_by_signer(sentences, sentences, [None, ""]) == {}
    assert list(scores_by_signer(sentences, sentences, [None, "a"])["by_signer"]) == ["a"]


def test_signers_are_scored_with_the_options_of_the_whole():
    scores = scores_by_signer(["ONE TWO THREE FOUR"], ["one two three four"], ["a"], lowercase=True)
    assert scores["worst_signer_bleu4"] == pytest.approx(100.0)
