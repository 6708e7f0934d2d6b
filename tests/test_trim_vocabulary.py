"""Trimmed checkpoints of every family: same segmentation, logits and meaning of every id."""

import json
import random
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_checkpoints import (
    FAMILIES,
    FOLDER,
    LANGUAGE,
    MODELS,
    checkpoint,
    copy_without_added_tokens,
    load,
    make_model,
    read_trimmed,
    save_with_tokenizer,
    text,
    text_of,
    trim_flags,
    trimmed,
    words,
    write_lines,
)
from tiny_corpus import ADAPTER, LIGHT_TRANSFORMER, RUN, corpus, flags, language_model, trained_model
from tiny_models import tiny_text_config
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    MBartTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from modeling_flallm import FLaLLMForTranslation
from train_scripts.arguments.data_arguments import VideoArguments
from train_scripts.commands import trim_vocabulary
from train_scripts.commands.trim_vocabulary import MAPPING_FILE
from train_scripts.hub.training_run import base_ids
from train_scripts.languages.target_languages import language_ids
from train_scripts.runs.trimmed_tokenizers import merge_parts, unknown_characters
from train_scripts.stages import visual_initialing

SHARED_TOKENIZER = Path(__file__).resolve().parents[2] / "shared" / "tokenizer"
UNKNOWN = "☃"


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


@torch.no_grad()
def logits_of(model: PreTrainedModel, ids: torch.Tensor, decoder_ids: torch.Tensor) -> torch.Tensor:
    return model(input_ids=ids, decoder_input_ids=decoder_ids).logits


def test_logits_on_the_kept_tokens_are_the_old_ones(family):
    old, new = AutoModelForSeq2SeqLM.from_pretrained(checkpoint(family)).eval(), load(trimmed(family).folder)[0]
    kept = torch.tensor(list(trimmed(family).new_ids))
    assert list(trimmed(family).new_ids.values()) == list(range(len(kept))) and len(kept) < old.config.vocab_size
    inputs, outputs = torch.randint(0, len(kept), (3, 9)), torch.randint(0, len(kept), (3, 6))
    expected = logits_of(old, kept[inputs], kept[outputs])[..., kept]
    assert expected.std() > 0.1
    torch.testing.assert_close(logits_of(new, inputs, outputs), expected, rtol=1e-6, atol=1e-5)


def test_text_is_cut_as_before(family):
    old, new = AutoTokenizer.from_pretrained(checkpoint(family)), load(trimmed(family).folder)[1]
    if family in LANGUAGE:
        old.src_lang = old.tgt_lang = LANGUAGE[family]
    new_ids = trimmed(family).new_ids
    assert type(new) is type(old) and len(new) == len(new_ids)
    for sentence in text_of(family):
        for arguments in ({"text": sentence}, {"text_target": sentence}):
            old_sentence_ids, ids = (tokenizer(**arguments)["input_ids"] for tokenizer in (old, new))
            assert ids == [new_ids[index] for index in old_sentence_ids]
            assert new.unk_token_id not in ids
            assert new.convert_ids_to_tokens(ids) == old.convert_ids_to_tokens(old_sentence_ids)
        assert new.decode(ids, skip_special_tokens=True) == old.decode(old_sentence_ids, skip_special_tokens=True)


def test_every_token_keeps_its_id_and_its_role(family):
    old, new = AutoTokenizer.from_pretrained(checkpoint(family)), load(trimmed(family).folder)[1]
    new_ids = trimmed(family).new_ids
    assert new.get_vocab() == {piece: new_ids[old] for piece, old in old.get_vocab().items() if old in new_ids}
    assert sorted(new.all_special_tokens) == sorted(old.all_special_tokens)
    roles = ("bos", "eos", "pad", "unk", "mask", "sep", "cls")
    assert [getattr(new, f"{role}_token") for role in roles] == [getattr(old, f"{role}_token") for role in roles]
    added = [token.content for _, token in sorted(old.added_tokens_decoder.items())]
    assert [token.content for _, token in sorted(new.added_tokens_decoder.items())] == added
    sentinels = [piece for piece in old.get_vocab() if "<extra_id_" in piece]
    assert len(sentinels) == {"t5": 100, "mt5": 5}.get(family, 0)
    assert {*sentinels, *language_ids(old)} <= new.get_vocab().keys()
    assert len(language_ids(new)) == {"mbart": 25, "mbart50": 52, "nllb": 202}.get(family, 0)


@pytest.mark.parametrize("family", MODELS)
def test_unseen_words_of_the_same_letters_can_be_spelled(family):
    new = load(trimmed(family).folder)[1]
    letters = sorted(set("".join(words())))
    for _ in range(20):
        word = "".join(random.choices(letters, k=8)) + str(random.randint(0, 99))
        ids = new(word, add_special_tokens=False)["input_ids"]
        assert new.unk_token_id not in ids
        assert new.decode(ids).strip() == word


def test_configurations_name_the_same_tokens(family):
    old_model, old = load(checkpoint(family))
    new_model, new = load(trimmed(family).folder)
    assert new_model.config.vocab_size == len(new) == new_model.get_input_embeddings().num_embeddings
    names = ["pad", "eos", "bos", "decoder_start", "forced_bos", "forced_eos"]
    compared = 0
    for old_config, new_config in (
        (old_model.config, new_model.config),
        (old_model.generation_config, new_model.generation_config),
    ):
        for name in (f"{name}_token_id" for name in names):
            before, after = getattr(old_config, name, None), getattr(new_config, name, None)
            assert (before is None) == (after is None)
            if before is not None:
                assert new.convert_ids_to_tokens(after) == old.convert_ids_to_tokens(before)
                compared += 1
    assert compared >= 6
    if family in LANGUAGE:
        assert (new.src_lang, new.tgt_lang) == (LANGUAGE[family], LANGUAGE[family])


def test_weights_stay_tied_or_apart(family):
    old, new = (
        AutoModelForSeq2SeqLM.from_pretrained(folder) for folder in (checkpoint(family), trimmed(family).folder)
    )
    kept = torch.tensor(list(trimmed(family).new_ids))
    tied = [m.get_output_embeddings().weight is m.get_input_embeddings().weight for m in (old, new)]
    assert tied[0] == tied[1] == (family != "mt5")
    assert torch.equal(new.get_output_embeddings().weight, old.get_output_embeddings().weight[kept])
    for name, value in old.state_dict().items():
        other = new.state_dict()[name]
        if value.shape == other.shape:
            assert torch.equal(value, other)
        else:
            assert torch.equal(value[:, kept] if "final_logits_bias" in name else value[kept], other)
    files = sorted(path.name for path in trimmed(family).folder.iterdir())
    assert [name for name in files if not name.endswith(".json")] == ["model.safetensors"]
    saved = load_file(trimmed(family).folder / "model.safetensors")
    assert ("lm_head.weight" in saved) == (not tied[0])


def test_what_is_cut_names_what_it_was_made_from(tmp_path):
    shutil.copytree(checkpoint("mbart"), tmp_path / "mbart")
    card = "---\nbase_model: facebook/mbart-large-cc25\n---\n"
    (tmp_path / "mbart" / "README.md").write_text(card, encoding="utf-8")
    argv = trim_flags("mbart", tmp_path / "out", text_model_name_or_path=tmp_path / "mbart")
    assert trim_vocabulary.main(argv) == 0
    size = read_trimmed(tmp_path / "out").report["vocabulary_size_after"]
    assert (
        (tmp_path / "out" / "README.md")
        .read_text(encoding="utf-8")
        .endswith(f"# out\n\nfacebook/mbart-large-cc25, cut to {size:,} tokens by `flallm trim-vocabulary`.\n")
    )
    assert base_ids(str(tmp_path / "out")) == ["facebook/mbart-large-cc25"]


def test_the_report_is_true(family, tmp_path, capsys):
    assert trim_vocabulary.main(trim_flags(family, tmp_path / "out")) == 0
    printed, report = capsys.readouterr().out, read_trimmed(tmp_path / "out").report
    (old, _), (new, tokenizer) = load(checkpoint(family)), load(tmp_path / "out")
    sizes = [sum(parameter.numel() for parameter in model.parameters()) for model in (old, new)]
    assert [report["parameters_before"], report["parameters_after"]] == sizes
    assert [report["bytes_before"], report["bytes_after"]] == [4 * size for size in sizes]
    assert report["vocabulary_size_before"] == old.config.vocab_size
    assert report["vocabulary_size_after"] == len(tokenizer) == sum(report["tokens_kept"].values())
    assert f"Vocabulary: {old.config.vocab_size:,} -> {len(tokenizer):,} tokens." in printed
    assert f"{sizes[0]:,} -> {sizes[1]:,}" in printed and f"{1 - sizes[1] / sizes[0]:.1%} of the model" in printed
    for reason, count in report["tokens_kept"].items():
        assert f"{count:,} {reason}" in printed
    assert report["unknown_characters"] == []
    assert "The tokenizer can spell every character of the text." in printed


@pytest.mark.slow
def test_a_new_process_loads_what_was_written():
    folders = {family: str(trimmed(family).folder) for family in FAMILIES}
    expected = {family: load(Path(folder))[1](text_of(family)[0])["input_ids"] for family, folder in folders.items()}
    code = """
import json, sys
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
folders, texts = json.loads(sys.argv[1]), json.loads(sys.argv[2])
found = {}
for family, folder in folders.items():
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.vocab_size == len(tokenizer)
    model.generate(**tokenizer(texts[family], return_tensors="pt", return_token_type_ids=False), max_new_tokens=3)
    found[family] = tokenizer(texts[family])["input_ids"]
assert not any(name.split(".")[0] in ("train_scripts", "modeling_flallm") for name in sys.modules)
print(json.dumps(found))
"""
    texts = {family: text_of(family)[0] for family in FAMILIES}
    command = [sys.executable, "-c", code, json.dumps(folders), json.dumps(texts)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=FOLDER.name)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == expected


@pytest.mark.parametrize("family", ["mbart", "nllb", "bart"])
def test_what_the_user_adds_stays(family, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint(family))
    kept = trimmed(family).new_ids
    candidates = [
        word for word in words() if not set(tokenizer(word, add_special_tokens=False)["input_ids"]) <= {*kept}
    ]
    first, second, third = random.sample(candidates, 3)
    file = write_lines("added.txt", [f"{second} {third}"])
    argv = trim_flags(family, tmp_path / "out", keep=[first], keep_text_file=file)
    assert trim_vocabulary.main(argv) == 0
    new = load(tmp_path / "out")[1]
    known = text()[0].split()[0]
    for added in (first, f"{known} {first}", f"{second} {third}", f"{known} {second}"):
        assert new.tokenize(added) == tokenizer.tokenize(added)
    assert load(trimmed(family).folder)[1].tokenize(first) != new.tokenize(first)
    assert read_trimmed(tmp_path / "out").report["tokens_kept"]["used by what you add"] >= 1


@pytest.mark.parametrize("family", ["mbart", "nllb", "t5"])
def test_letters_of_other_writing_systems_stay_only_where_they_are_wanted(family, tmp_path):
    old, without = AutoTokenizer.from_pretrained(checkpoint(family)), load(trimmed(family).folder)[1]
    assert {"д", "ж"} <= old.get_vocab().keys()
    assert not {"д", "ж", "ю"} & without.get_vocab().keys() and {"0", "9", "?", "y"} <= without.get_vocab().keys()
    assert trim_vocabulary.main(trim_flags(family, tmp_path / "out", keep=["вид"])) == 0
    new = load(tmp_path / "out")[1]
    assert "ю" in new.get_vocab()
    assert new.unk_token_id not in new("юг в тени", add_special_tokens=False)["input_ids"]


def test_trimming_again_drops_nothing_and_changes_nothing(family, tmp_path, capsys):
    argv = trim_flags(family, tmp_path / "again", text_model_name_or_path=trimmed(family).folder)
    assert trim_vocabulary.main(argv) == 0
    size = trimmed(family).report["vocabulary_size_after"]
    assert f"Vocabulary: all {size:,} tokens are needed, so nothing was dropped." in capsys.readouterr().out
    assert read_trimmed(tmp_path / "again").new_ids == {index: index for index in range(size)}
    before, after = (load_file(folder / "model.safetensors") for folder in (trimmed(family).folder, tmp_path / "again"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_characters_that_cannot_be_spelled_are_reported(tmp_path, capsys):
    sentences = [text()[0], f"{words()[0]} {UNKNOWN}{UNKNOWN}", f"{words()[1]} Ω {UNKNOWN}"]
    file = write_lines("unknown.txt", sentences)
    assert trim_vocabulary.main(trim_flags("mbart", tmp_path / "out", text_file=file)) == 0
    printed = capsys.readouterr().out
    assert read_trimmed(tmp_path / "out").report["unknown_characters"] == [
        {"character": UNKNOWN, "count": 3, "example": sentences[1]},
        {"character": "Ω", "count": 1, "example": sentences[2]},
    ]
    assert "2 character(s) of the text cannot be spelled" in printed
    assert f"'{UNKNOWN}' U+2603 SNOWMAN, 3 times, first in {sentences[1]!r}" in printed
    assert f"'Ω' U+03A9 GREEK CAPITAL LETTER OMEGA, once, first in {sentences[2]!r}" in printed


def test_a_byte_level_tokenizer_spells_every_character_after_trimming_too():
    for folder in (checkpoint("bart"), trimmed("bart").folder):
        assert unknown_characters(AutoTokenizer.from_pretrained(folder), [f"{UNKNOWN} дождь 雨 ªµº"]) == []


def test_many_unknown_characters_are_not_all_printed(tmp_path, capsys):
    strange = [chr(0x2600 + index) for index in range(30)]
    file = write_lines("strange.txt", [f"{words()[0]} {character}" for character in strange])
    assert trim_vocabulary.main(trim_flags("mbart", tmp_path / "out", text_file=file)) == 0
    assert f"  and 10 more, in {MAPPING_FILE}\n" in capsys.readouterr().out
    assert [x["character"] for x in read_trimmed(tmp_path / "out").report["unknown_characters"]] == strange


def test_text_is_normalised_as_the_processor_does(tmp_path):
    decomposed = [unicodedata.normalize("NFD", sentence) for sentence in text()]
    assert decomposed != text()
    file = write_lines("decomposed.txt", decomposed)
    assert trim_vocabulary.main(trim_flags("mbart", tmp_path / "out", text_file=file)) == 0
    assert read_trimmed(tmp_path / "out").new_ids == trimmed("mbart").new_ids


def test_sentences_come_from_files_and_data_sets(tmp_path, capsys):
    lines = (corpus() / "text_only.txt").read_text(encoding="utf-8").splitlines()
    one, two = write_lines("one.txt", lines[:2]), write_lines("two.txt", lines[2:5])
    for name, expected, values in (
        ("files", 5, {"text_file": [one, two]}),
        ("train", 12, {"dataset": corpus()}),
        ("both", 2 + 12 + 6, {"text_file": one, "dataset": corpus(), "split": ["train", "dev"]}),
    ):
        argv = flags(text_model_name_or_path=language_model(), output_dir=tmp_path / name, **values)
        assert trim_vocabulary.main(argv) == 0
        assert f", cut to {expected} sentences.\n" in capsys.readouterr().out


def test_named_ids_are_renumbered_wherever_they_stand(tmp_path):
    model, tokenizer = load(checkpoint("mbart"))
    dropped = [index for index in range(len(tokenizer)) if index not in trimmed("mbart").new_ids]
    one, two, three, four = random.sample(dropped, 4)
    model.config.task_specific_params = {"translation": {"decoder_start_token_id": one, "num_beams": 4}}
    model.generation_config.suppress_tokens = [two]
    model.generation_config.bad_words_ids = [[three, 2], [four]]
    model.generation_config.eos_token_id = [2, one]
    model.save_pretrained(tmp_path / "old")
    tokenizer.save_pretrained(tmp_path / "old")
    argv = trim_flags("mbart", tmp_path / "out", text_model_name_or_path=tmp_path / "old")
    assert trim_vocabulary.main(argv) == 0
    new, new_ids = load(tmp_path / "out")[0], read_trimmed(tmp_path / "out").new_ids
    assert {one, two, three, four} <= new_ids.keys()
    expected = {"decoder_start_token_id": new_ids[one], "num_beams": 4}
    assert new.config.task_specific_params == {"translation": expected}
    assert new.generation_config.suppress_tokens == [new_ids[two]]
    assert new.generation_config.bad_words_ids == [[new_ids[three], 2], [new_ids[four]]]
    assert new.generation_config.eos_token_id == [2, new_ids[one]]


def test_language_codes_stay_where_they_are_no_special_tokens(tmp_path):
    """As in mBART tokenizers that were trimmed with older versions of transformers."""
    folder = copy_without_added_tokens(checkpoint("mbart"), "_", tmp_path / "old")
    assert "de_DE" not in AutoTokenizer.from_pretrained(folder).all_special_tokens
    assert trim_vocabulary.main(trim_flags("mbart", tmp_path / "out", text_model_name_or_path=folder)) == 0
    assert read_trimmed(tmp_path / "out").new_ids == trimmed("mbart").new_ids
    new = load(tmp_path / "out")[1]
    assert len(new) == len(trimmed("mbart").new_ids) and len(language_ids(new)) == 25
    assert [entry.character for entry in unknown_characters(new, ["D"])] == ["D"]  # which de_DE would otherwise hide


def test_sentinels_stay_where_they_are_no_special_tokens(tmp_path):
    folder = copy_without_added_tokens(checkpoint("mt5"), "<extra_id_", tmp_path / "old")
    assert trim_vocabulary.main(trim_flags("mt5", tmp_path / "out", text_model_name_or_path=folder)) == 0
    assert {f"▁<extra_id_{index}>" for index in range(5)} <= load(tmp_path / "out")[1].get_vocab().keys()


@pytest.mark.parametrize("processor", ["template", "roberta", "sequence"])
@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_special_tokens_may_stand_at_the_end_and_bytes_spell_the_rest(kind, processor, tmp_path):
    byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = ["▁", *"abcdef", "ef", "▁ab", "cd", "▁abcd", *byte_pieces, "<s>", "</s>", "<unk>"]
    ids = {piece: index for index, piece in enumerate(pieces)}
    if kind == "unigram":
        scored = [(piece, -float(len(pieces) - index)) for piece, index in ids.items()]
        backend = Tokenizer(models.Unigram(scored, unk_id=ids["<unk>"], byte_fallback=True))
    else:
        merges = [("▁", "a"), ("▁a", "b"), ("c", "d"), ("▁ab", "cd"), ("e", "f")]
        ids["▁a"] = len(ids)
        backend = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    specials = [("<s>", ids["<s>"]), ("</s>", ids["</s>"])]
    template = processors.TemplateProcessing("<s> $A </s>", special_tokens=specials)
    backend.post_processor = {
        "template": template,
        "roberta": processors.RobertaProcessing(specials[1], specials[0]),
        "sequence": processors.Sequence([template]),
    }[processor]
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **roles)
    values = {f"{role}_token_id": ids["</s>"] for role in ("pad", "eos", "decoder_start", "forced_eos")}
    config = tiny_text_config("bart", vocab_size=len(ids), **{**values, "bos_token_id": ids["<s>"]})
    folder = save_with_tokenizer(AutoModelForSeq2SeqLM.from_config(config), tokenizer, tmp_path / "old")
    file = write_lines("bytes.txt", ["abcd"])
    argv = flags(text_model_name_or_path=folder, output_dir=tmp_path / "out", text_file=file)
    assert trim_vocabulary.main(argv) == 0
    model, new = load(tmp_path / "out")
    dropped = {"ef", "▁ab", "cd"} if kind == "unigram" else {"ef"}
    assert tokenizer.get_vocab().keys() - new.get_vocab().keys() == dropped
    for sentence in ("abcd", "ж☃"):
        tokens = new.convert_ids_to_tokens(new(sentence)["input_ids"])
        assert tokens == tokenizer.convert_ids_to_tokens(tokenizer(sentence)["input_ids"])
        assert tokens[0] == "<s>" and tokens[-1] == "</s>" and "<unk>" not in tokens
    assert model.config.pad_token_id == new.pad_token_id == model.get_input_embeddings().padding_idx


def test_the_data_type_stays(tmp_path):
    model, tokenizer = load(checkpoint("t5"))
    model.to(torch.bfloat16).save_pretrained(tmp_path / "old")
    tokenizer.save_pretrained(tmp_path / "old")
    assert trim_vocabulary.main(trim_flags("t5", tmp_path / "out", text_model_name_or_path=tmp_path / "old")) == 0
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.bfloat16}
    report = read_trimmed(tmp_path / "out").report
    assert report["bytes_before"] == 2 * report["parameters_before"]


def test_a_model_like_t5_1_1_stays_unscaled_and_untied(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint("t5"))
    config = tiny_text_config("t5", vocab_size=len(tokenizer), tie_word_embeddings=False, decoder_start_token_id=0)
    old = AutoModelForSeq2SeqLM.from_config(config).eval()
    old.lm_head.weight = torch.nn.Parameter(torch.randn_like(old.lm_head.weight))
    folder = save_with_tokenizer(old, tokenizer, tmp_path / "old")
    assert trim_vocabulary.main(trim_flags("t5", tmp_path / "out", text_model_name_or_path=folder)) == 0
    new, kept = load(tmp_path / "out")[0], torch.tensor(list(read_trimmed(tmp_path / "out").new_ids))
    inputs, outputs = torch.randint(0, len(kept), (3, 9)), torch.randint(0, len(kept), (3, 6))
    expected = logits_of(old, kept[inputs], kept[outputs])[..., kept]
    torch.testing.assert_close(logits_of(new, inputs, outputs), expected, rtol=1e-6, atol=1e-5)


def test_merge_parts_follow_the_order_of_the_merges():
    merges = [("b", "c"), ("a", "b"), ("a", "bc"), ("ab", "c"), ("c", "d"), ("abc", "d")]
    assert merge_parts(merges, ["abcd"]) == {"a", "b", "c", "d", "bc", "abc", "abcd"}
    assert merge_parts(merges, ["ab", "x"]) == {"a", "b", "ab", "x"}
    assert merge_parts([("a", "a"), ("aa", "aa")], ["aaaaa"]) == {"a", "aa", "aaaa"}


def test_both_stages_take_a_trimmed_checkpoint(family, tmp_path):
    folder, new_ids = trimmed(family).folder, trimmed(family).new_ids
    arguments = visual_initialing.VisualInitialingArguments(
        tokenizer_name_or_path=str(folder), target_language=LANGUAGE.get(family), **LIGHT_TRANSFORMER
    )
    stage1, processor = visual_initialing.build_model(arguments, VideoArguments(frame_size=36, crop_size=32))
    assert stage1.config.text_config.vocab_size == len(new_ids)
    model = FLaLLMForTranslation.from_vision_text_pretrained(str(trained_model()), str(folder)).eval()
    videos = [str(path) for path in sorted((corpus() / "test").glob("*.mp4"))[:3]]
    inputs = processor(videos=videos, text_target=text_of(family)[:3], return_tensors="pt")
    loss = model(**inputs).loss
    loss.backward()
    assert torch.isfinite(loss) and inputs.pop("labels").max() < len(new_ids)
    old_ids, old = list(new_ids), AutoTokenizer.from_pretrained(checkpoint(family))
    generated = model.generate(**inputs, max_new_tokens=8, do_sample=True)
    for ids in generated.tolist():
        pieces = old.convert_ids_to_tokens([old_ids[index] for index in ids])
        assert processor.tokenizer.convert_ids_to_tokens(ids) == pieces


def test_stage_1_trains_with_a_trimmed_tokenizer(tmp_path):
    file = write_lines("mbart_corpus.txt", (corpus() / "text_only.txt").read_text(encoding="utf-8").splitlines())
    assert trim_vocabulary.main(trim_flags("mbart", tmp_path / "mbart", dataset=corpus(), text_file=file)) == 0
    values = {**RUN, **ADAPTER, **LIGHT_TRANSFORMER, "max_steps": 1, "eval_strategy": "no", "save_strategy": "no"}
    argv = flags(
        dataset=corpus(),
        tokenizer_name_or_path=tmp_path / "mbart",
        target_language="de_DE",
        output_dir=tmp_path / "stage1",
        load_best_model_at_end=False,
        **values,
    )
    assert visual_initialing.main(argv) == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "mbart")
    model = FLaLLMForTranslation.from_pretrained(tmp_path / "stage1")
    assert model.config.text_config.vocab_size == len(tokenizer)
    assert model.generation_config.decoder_start_token_id == tokenizer.convert_tokens_to_ids("de_DE")


@pytest.mark.skipif(not SHARED_TOKENIZER.is_dir(), reason="needs the real tokenizer beside the repository")
def test_a_real_mbart_vocabulary(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(SHARED_TOKENIZER)
    make_model("mbart", tokenizer).save_pretrained(tmp_path / "old")
    tokenizer.save_pretrained(tmp_path / "old")
    sentences = ["im norden fällt morgen regen .", "am wochenende scheint im süden die sonne ."]
    argv = trim_flags(
        "mbart", tmp_path / "out", text_model_name_or_path=tmp_path / "old", text_file=write_lines("w.txt", sentences)
    )
    assert trim_vocabulary.main(argv) == 0
    new = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert len(new) < len(tokenizer) and isinstance(new, MBartTokenizer)
    assert [new.tokenize(sentence) for sentence in sentences] == [
        tokenizer.tokenize(sentence) for sentence in sentences
    ]
    assert read_trimmed(tmp_path / "out").report["unknown_characters"] == []
