"""Tags of languages, and that labels and generation use the language of each clip."""

import random
import re
from pathlib import Path

import pytest
import torch
from test_data import video_folder
from tiny_corpus import RUN, SIZE_IN_PIXELS, error_of, flags, save_text_model, stage2_flags, trained_model
from tiny_tokenizers import LANGUAGE_COMES_FIRST, MAKE_TOKENIZER

from modeling_flallm import FLaLLMForTranslation
from processing import FLaLLMProcessor
from train_scripts.arguments.data_arguments import DataArguments, VideoArguments
from train_scripts.arguments.training_arguments import FLaLLMTrainingArguments
from train_scripts.clips.collators import TranslationCollator
from train_scripts.clips.data import SignClipDataset
from train_scripts.clips.splits import load_split
from train_scripts.languages.target_languages import ISO_639_3, language_code, language_ids, target_languages
from train_scripts.runs import training
from train_scripts.runs.tokenizers import load_tokenizer
from train_scripts.runs.trainers import FLaLLMTrainer
from train_scripts.runs.training import build_processor
from train_scripts.stages import llm_fine_tuning

CODES = {
    "mbart": {"de": "de_DE", "en": "en_XX", "fr": "fr_XX"},
    "nllb": {"de": "deu_Latn", "en": "eng_Latn", "fr": "fra_Latn"},
    "m2m_100": {"de": "de", "en": "en", "fr": "fr"},
}
VIDEO = VideoArguments(frame_size=36, crop_size=SIZE_IN_PIXELS)
TAGS = ["de", "en", "", "de"]  # without a tag it is the language of --target_language
SENTENCES = ["the rain comes", "wind in the north", "wind comes", "rain in the north today"]


@pytest.fixture(params=CODES)
def kind(request) -> str:
    return request.param


@pytest.fixture
def tokenizer(kind, tmp_path):
    (tmp_path / "spm").mkdir()
    MAKE_TOKENIZER[kind](tmp_path / "spm").save_pretrained(tmp_path / "tokenizer")
    return load_tokenizer(str(tmp_path / "tokenizer"), CODES[kind]["fr"])


def make_corpus(folder: Path, tags: list[str] = TAGS, split: str = "train") -> Path:
    rows = [f"{name}.mp4,{text},{tag}\n" for name, text, tag in zip("abcd", SENTENCES, tags, strict=True)]
    files = ("a.mp4", "b.mp4", "c.mp4", "d.mp4")
    return video_folder(folder, "file_name,text,spoken_language\n" + "".join(rows), files, split=split)


def code_of_language(tokenizer, kind: str, tag: str) -> int:
    return language_ids(tokenizer)[CODES[kind][tag or "fr"]]


def test_tags_become_the_codes_of_the_tokenizer(kind, tokenizer):
    for tag, code in CODES[kind].items():
        assert target_languages(tokenizer, [tag, code, None, ""]) == [code, code, *[CODES[kind]["fr"]] * 2]
    assert target_languages(tokenizer, ["zh"]) == [{"mbart": "zh_CN", "nllb": "zho_Hans", "m2m_100": "zh"}[kind]]


@pytest.mark.parametrize(
    ("tag", "code"),
    [
        ("zh", "zho_Hans"), ("zh_TW", "zho_Hant"), ("zh-Hant", "zho_Hant"), ("zh_CN", "zho_Hans"), ("zho", "zho_Hans"),
        ("de_AT", "deu_Latn"), ("DEU", "deu_Latn"), ("zho_hant", "zho_Hant"), ("ks_Deva", "kas_Deva"),
    ],
)  # fmt: skip
def test_tags_with_regions_and_scripts(tag, code):
    codes = ["deu_Latn", "zho_Hans", "zho_Hant", "kas_Arab", "kas_Deva"]
    assert language_code(tag, random.sample(codes, len(codes))) == code


def test_every_iso_code_that_is_known_here_is_a_language_of_nllb(tmp_path):
    known = {code.split("_")[0] for code in language_ids(MAKE_TOKENIZER["nllb"](tmp_path))}
    assert len(ISO_639_3) > 100 and set(ISO_639_3.values()) <= known


def test_languages_that_the_tokenizer_lacks():
    with pytest.raises(ValueError, match=re.escape("the tokenizer does not write 'is'. Its languages: de_DE, en_XX.")):
        language_code("is", ["de_DE", "en_XX"])
    expected = "'ks' could be any of the tokenizer's languages kas_Arab, kas_Deva. Choose one of them."
    with pytest.raises(ValueError, match=re.escape(expected)):
        language_code("ks", ["deu_Latn", "kas_Arab", "kas_Deva"])


def test_a_column_with_an_unknown_language_is_told_before_training(tmp_path, capsys):
    (tmp_path / "spm").mkdir()
    text_model = save_text_model(tmp_path / "text_model", "mbart", MAKE_TOKENIZER["mbart"](tmp_path / "spm"))
    folder = make_corpus(tmp_path / "corpus", ["de", "xx", "de", "de"])
    argv = stage2_flags(
        tmp_path / "run", dataset=folder, evaluation_split="train", text_model_name_or_path=text_model,
        target_language="de_DE",
    )  # fmt: skip
    text = error_of(llm_fine_tuning.main, argv, capsys)
    assert text.startswith("The column spoken_language: the tokenizer does not write 'xx'. Its languages: ar_AR, ")


def test_tokenizers_without_languages_take_no_notice_of_tags(tmp_path):
    processor = build_processor(VIDEO, MAKE_TOKENIZER["plain"](tmp_path))
    dataset = SignClipDataset(load_split(DataArguments(str(make_corpus(tmp_path / "c"))), "train"), processor)
    assert dataset.target_languages == [None] * 4
    labels = TranslationCollator(processor)([dataset[index] for index in range(4)])["labels"]
    assert torch.equal(labels, processor(text_target=SENTENCES)["labels"])


def test_labels_carry_the_language_of_their_clip(kind, tokenizer, tmp_path):
    processor = build_processor(VIDEO, tokenizer)
    dataset = SignClipDataset(load_split(DataArguments(str(make_corpus(tmp_path / "c"))), "train"), processor)
    labels = TranslationCollator(processor)([dataset[index] for index in range(4)])["labels"]
    assert tokenizer.tgt_lang == CODES[kind]["fr"]
    assert processor.batch_decode(labels) == SENTENCES
    for row, tag in zip(labels, TAGS, strict=True):
        codes = [value for value in row.tolist() if value in language_ids(tokenizer).values()]
        assert codes == [code_of_language(tokenizer, kind, tag)]
    plain = processor(text_target=SENTENCES)["labels"]
    assert torch.equal(labels[2], plain[2]) and not torch.equal(labels[0], plain[0])


def build(kind: str, tokenizer, folder: Path) -> tuple[FLaLLMForTranslation, FLaLLMProcessor]:
    text_model = save_text_model(folder / "text_model", "mbart" if kind == "mbart" else "m2m_100", tokenizer)
    arguments = llm_fine_tuning.LLMFineTuningArguments(
        vision_model_name_or_path=str(trained_model()),
        text_model_name_or_path=str(text_model),
        target_language=CODES[kind]["fr"],
        num_beams=2,
    )
    return llm_fine_tuning.build_model(arguments, VIDEO)


@pytest.mark.parametrize("tags", [TAGS, ["de"] * 4, [""] * 4])
def test_each_sentence_is_generated_in_its_language(kind, tags, tokenizer, tmp_path):
    model, processor = build(kind, tokenizer, tmp_path)
    for parameter in model.text_model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.5)
    clips = load_split(DataArguments(str(make_corpus(tmp_path / "c", tags))), "train")
    dataset = SignClipDataset(clips, processor)
    arguments = FLaLLMTrainingArguments(
        output_dir=str(tmp_path / "run"), use_cpu=True, bf16=False, report_to="none", eval_strategy="no",
        disable_tqdm=True, load_best_model_at_end=False, per_device_eval_batch_size=4,
    )  # fmt: skip
    trainer = FLaLLMTrainer(
        model=model, args=arguments, data_collator=TranslationCollator(processor), processing_class=processor
    )
    # Beams count tokens after their start tokens, so that their length differs if the language is forced.
    options = {"max_length": 9, "num_beams": 2, "length_penalty": 0.0}
    generated = trainer.predict(dataset, **options).predictions
    position = 1 if kind in LANGUAGE_COMES_FIRST else 0
    expected = [code_of_language(processor.tokenizer, kind, tag) for tag in tags]
    assert generated[:, position].tolist() == expected
    for row, tag in enumerate(tags):  # as if each clip were translated alone, into its language
        inputs = processor(videos=dataset[row]["frames"], do_sample_frames=False, return_tensors="pt")
        code = code_of_language(processor.tokenizer, kind, tag)
        start = {"forced_bos_token_id" if position else "decoder_start_token_id": code}
        alone = model.eval().generate(**inputs, **start, **options)[0]
        assert generated[row][: len(alone)].tolist() == alone.tolist()


def test_two_languages_train_and_score(tmp_path, monkeypatch):
    (tmp_path / "spm").mkdir()
    text_model = save_text_model(tmp_path / "text_model", "m2m_100", MAKE_TOKENIZER["nllb"](tmp_path / "spm"))
    first, second = make_corpus(tmp_path / "one", ["de"] * 4), make_corpus(tmp_path / "two", ["en"] * 4)
    make_corpus(tmp_path / "one", ["de"] * 4, split="dev")
    seen: set[int] = set()

    class WatchingTrainer(FLaLLMTrainer):
        def training_step(self, model, inputs, *arguments, **named_arguments):
            seen.update(inputs["labels"][:, 0].tolist())
            return super().training_step(model, inputs, *arguments, **named_arguments)

    monkeypatch.setattr(training, "FLaLLMTrainer", WatchingTrainer)
    scores = llm_fine_tuning.train(
        flags(
            **{**RUN, "per_device_train_batch_size": 3}, dataset=[first, second], dataset_weights=[1, 1],
            vision_model_name_or_path=trained_model(), text_model_name_or_path=text_model, max_steps=3,
            target_language="deu_Latn", output_dir=tmp_path / "run", frame_size=36, crop_size=SIZE_IN_PIXELS,
        )
    )  # fmt: skip
    ids = language_ids(FLaLLMProcessor.from_pretrained(tmp_path / "run").tokenizer)
    assert seen == {ids["deu_Latn"], ids["eng_Latn"]}
    assert scores["eval_loss"] > 0
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert "**one**, trained together with **two**" in card
