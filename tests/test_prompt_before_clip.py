"""A prompt before the visual tokens of FLa-LLM: the processor writes it, the model reads it, the rest passes it on."""

import json
import shutil

import numpy as np
import pytest
import torch
from test_pipeline import NO_SPECIAL_TOKENS, make_pipeline, random_clip
from test_transformers_contract import needs_export
from tiny_corpus import build_stage2, corpus, load, log_of, stage2_flags
from tiny_models import (
    VOCABULARY_SIZE,
    error_texts,
    every_text_model,
    random_batch,
    tiny_model,
    tiny_text_config,
    video_of,
    visual_features_of,
)
from tiny_tokenizers import MAKE_TOKENIZER, SENTENCES, make_plain_tokenizer
from torch.testing import assert_close
from transformers import AutoModelForSeq2SeqLM, AutoProcessor, MarianConfig, PegasusConfig

from modeling_flallm import FLaLLMForTranslation, SignLanguageTranslationPipeline
from modeling_flallm.translation_model_slt import eager_twin
from processing import DataCollatorForSignTranslation, FLaLLMProcessor, LlavaSltProcessor, VisualFeatureExtractor
from train_scripts.arguments.data_arguments import DatasetArguments
from train_scripts.clips.collators import TranslationCollator
from train_scripts.clips.splits import load_split
from train_scripts.commands import calibrate, evaluate_model, translate
from train_scripts.runs import translation_streams
from train_scripts.stages import llm_fine_tuning

PROMPT = "the rain in {spoken_language} comes"


def random_prompts(lengths: list[int]) -> dict[str, torch.Tensor]:
    """Prompts of these lengths, padded on the right with random tokens, which must not matter."""
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    ids = torch.randint(4, VOCABULARY_SIZE, mask.shape)
    return {"prompt_ids": ids, "prompt_attention_mask": mask.long()}


def prompted_batch(model: FLaLLMForTranslation, lengths=(9, 5, 12), prompts=(2, 6, 4)) -> dict[str, torch.Tensor]:
    """Visual features of clips with a prompt each and labels; the padding of the features is garbage."""
    batch = random_batch(list(lengths))
    features = visual_features_of(model, batch)
    padding = features["visual_attention_mask"][..., None] == 0
    features["visual_features"] = features["visual_features"].detach() + padding * 1e3
    return {**features, **random_prompts(list(prompts)), "labels": batch["labels"]}


def row_of(batch: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    """One clip of a batch without any padding."""
    alone = {"labels": batch["labels"][row : row + 1]}
    for values, mask in (("visual_features", "visual_attention_mask"), ("prompt_ids", "prompt_attention_mask")):
        is_real = batch[mask][row] == 1
        alone |= {values: batch[values][row][is_real][None], mask: batch[mask][row][is_real][None]}
    return alone


def make_processor(kind: str = "plain", folder=None, prompt: str | None = PROMPT, **values) -> FLaLLMProcessor:
    tokenizer = MAKE_TOKENIZER[kind](folder)
    return FLaLLMProcessor(feature_extractor=VisualFeatureExtractor(24), tokenizer=tokenizer, prompt=prompt, **values)


# ------------------------------------------------------------------------------------------ the model


@every_text_model
def test_the_encoder_reads_the_prompt_as_its_own_embedding_and_then_the_clip(text):
    model = tiny_model(text, has_prompt=True).double()
    batch = prompted_batch(model)
    hidden = model.encode(**{name: value for name, value in batch.items() if name != "labels"})
    encoder = model.text_model.get_encoder()
    for row in range(3):
        alone = row_of(batch, row)
        joined = torch.cat(
            [encoder.get_input_embeddings()(alone["prompt_ids"]), model.adapter(alone["visual_features"])], 1
        )
        expected = encoder(inputs_embeds=joined).last_hidden_state[0]
        num_prompt, num_tokens = alone["prompt_ids"].shape[1], len(expected)
        assert_close(hidden.last_hidden_state[row, :num_tokens], expected, atol=1e-6, rtol=1e-6)
        assert hidden.attention_mask[row].tolist() == [1] * num_tokens + [0] * (
            hidden.attention_mask.shape[1] - num_tokens
        )
        assert hidden.is_visual[row, :num_prompt].sum() == 0 and hidden.is_visual[row].sum() == num_tokens - num_prompt
    assert hidden.last_hidden_state.shape[1] == max(2 + 9, 6 + 5, 4 + 12)


@pytest.mark.parametrize("text", ["mbart", "bart", "m2m_100", "t5", "mt5", "pegasus", "marian"])
def test_prompts_are_scaled_as_when_the_text_model_embeds_ids_itself(text):
    if text in ("pegasus", "marian"):
        values = tiny_text_config("bart").to_dict() | {"scale_embedding": True, "static_position_embeddings": True}
        values = {name: value for name, value in values.items() if name not in ("model_type", "architectures")}
        config = {"pegasus": PegasusConfig, "marian": MarianConfig}[text](**values)
    else:
        scaled = {"scale_embedding": True} if text in ("mbart", "bart", "m2m_100") else {}
        config = tiny_text_config(text, **scaled)
    model = tiny_model(text if text in ("t5", "mt5") else "bart", has_prompt=True)
    model.text_model = AutoModelForSeq2SeqLM.from_config(config).eval()
    ids = torch.randint(4, VOCABULARY_SIZE, (2, 7))
    encoder = model.text_model.get_encoder()
    by_ids = encoder(input_ids=ids).last_hidden_state
    by_embeddings = encoder(inputs_embeds=model._embed_prompt(ids)).last_hidden_state
    assert_close(by_embeddings, by_ids, atol=1e-6, rtol=1e-6)


@every_text_model
def test_a_clip_does_not_depend_on_its_neighbours_or_on_padding(text):
    model = tiny_model(text, has_prompt=True).double()
    batch = prompted_batch(model)
    settings = {"num_beams": 3, "max_new_tokens": 6, "return_dict_in_generate": True, "output_scores": True}
    with torch.no_grad():
        logits = model(**batch).logits
    video_and_prompt = {name: value for name, value in batch.items() if name != "labels"}
    together = model.generate(**video_and_prompt, **settings)
    for row in range(3):
        alone = row_of(batch, row)
        assert_close(logits[row], model(**alone).logits[0], atol=1e-6, rtol=1e-6)
        del alone["labels"]
        single = model.generate(**alone, **settings)
        assert_close(together.sequences_scores[row], single.sequences_scores[0], atol=1e-6, rtol=1e-6)
    other = {**batch, "prompt_ids": batch["prompt_ids"].roll(1, 1)}
    assert (model(**other).logits - logits).abs().max() > 1e-3  # the prompt is read at all


@every_text_model
def test_pixels_features_and_encoder_outputs_give_the_same_sentences(text):
    model = tiny_model(text, has_prompt=True).double()
    clips, prompts = video_of(random_batch([9, 5])), random_prompts([3, 5])
    expected = model.generate(**clips, **prompts, max_new_tokens=6)
    features = visual_features_of(model, clips)
    assert torch.equal(model.generate(**features, **prompts, max_new_tokens=6), expected)
    encoded = model.encode(**features, **prompts)
    assert torch.equal(model.generate(encoder_outputs=encoded, max_new_tokens=6), expected)
    labels = {"labels": torch.randint(4, VOCABULARY_SIZE, (2, 5))}
    assert_close(model(**labels, **clips, **prompts).loss, model(**labels, encoder_outputs=encoded).loss)


def test_a_prompt_without_a_mask_is_all_real():
    model = tiny_model(has_prompt=True)
    batch = prompted_batch(model, prompts=(4, 4, 4))
    expected = model(**batch).logits
    del batch["prompt_attention_mask"]
    assert torch.equal(model(**batch).logits, expected)


def test_prompts_that_the_model_cannot_read():
    batch = prompted_batch(tiny_model())
    del batch["labels"]
    without_prompt = {name: value for name, value in batch.items() if not name.startswith("prompt")}
    model = tiny_model(has_prompt=True)
    for call in (model, model.encode, model.generate):
        with error_texts("This model reads a prompt before the visual tokens: pass `prompt_ids` and"):
            call(**without_prompt)
        with error_texts("`prompt_ids` must have the shape (batch, prompt length), got (6,)."):
            call(**{**batch, "prompt_ids": batch["prompt_ids"][0]})
        with error_texts("`prompt_attention_mask` must have the shape (batch, prompt length) = (3, 6), got (3, 5)."):
            call(**{**batch, "prompt_attention_mask": batch["prompt_attention_mask"][:, 1:]})
        with error_texts("Each clip needs one prompt, got 3 clips, 2 prompts."):
            call(**{**batch, **random_prompts([4, 6])})
    encoded = {"encoder_outputs": model.encode(**batch)}
    for call in (model, model.generate):
        with error_texts("Pass the prompt, or `encoder_outputs` that already hold it, not both."):
            call(**encoded, **random_prompts([2, 6, 4]))
    plain = tiny_model()
    for call in (plain, plain.encode, plain.generate):
        with error_texts("This model reads no prompt (`config.has_prompt` is False), got `prompt_ids` or"):
            call(**batch)


def test_learned_positions_count_the_prompt():
    model = tiny_model("mbart", has_prompt=True)  # 64 positions
    features = {"visual_features": torch.randn(1, 60, 24)}
    assert model.encode(**features, **random_prompts([4])).last_hidden_state.shape[1] == 64
    with error_texts("Prompt and video have 65 tokens, but the text model 'mbart' takes at most 64."):
        model.encode(**features, **random_prompts([5]))


@every_text_model
def test_replay_gives_the_attention_to_the_visual_tokens_alone(text):
    model = tiny_model(text, has_prompt=True)
    batch = prompted_batch(model)
    del batch["labels"]
    encoded = model.encode(**batch)
    sequences = torch.randint(4, VOCABULARY_SIZE, (6, 5))  # two of each clip
    _, attention = model.replay(sequences, encoded)
    assert attention.shape == (6, 4, 12) and (attention.sum(2) < 1 - 1e-3).all()
    reference = eager_twin(model.text_model)
    repeated = {"last_hidden_state": encoded.last_hidden_state.repeat_interleave(2, 0)}
    whole = reference(
        encoder_outputs=type(encoded)(**repeated),
        attention_mask=encoded.attention_mask.repeat_interleave(2, 0),
        decoder_input_ids=sequences[:, :-1],
        output_attentions=True,
        use_cache=False,
    ).cross_attentions
    whole = torch.stack(whole).mean(2).mean(0)
    for row in range(6):
        prompt_length, length = (2, 6, 4)[row // 2], (9, 5, 12)[row // 2]
        expected = whole[row, :, prompt_length : prompt_length + length]
        assert_close(attention[row, :, :length], expected, atol=1e-5, rtol=1e-5)
        assert (attention[row, :, length:] == 0).all()


@needs_export
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@every_text_model
def test_inference_is_exported(text):
    model = tiny_model(text, has_prompt=True)
    batch = prompted_batch(model)
    del batch["labels"]
    inputs = {**batch, "decoder_input_ids": torch.randint(4, 30, (3, 5)), "use_cache": False}
    with torch.no_grad():
        program = torch.export.export(model, (), inputs, strict=False)
        assert_close(program.module()(**inputs)["logits"], model(**inputs).logits, atol=1e-5, rtol=1e-5)


def test_the_gradient_reaches_the_adapter_and_the_embeddings_of_the_prompt():
    model = tiny_model("t5", has_prompt=True).train()
    batch = prompted_batch(model)
    model(**batch).loss.backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.adapter.parameters())
    gradient = model.text_model.get_input_embeddings().weight.grad
    real = batch["prompt_ids"][batch["prompt_attention_mask"] == 1]
    assert (gradient[real].abs().amax(1) > 0).all()


# ------------------------------------------------------------------------------------------ the processor


@pytest.mark.parametrize("kind", MAKE_TOKENIZER)
def test_prompts_are_the_tokenizers_with_its_special_tokens(kind, tmp_path):
    processor = make_processor(kind, tmp_path, "the rain comes in {spoken_language} wind")
    languages = ["north", None, ""]
    inputs = processor(num_visual_tokens=[3, 2, 1], spoken_language=languages)
    assert list(inputs) == ["prompt_ids", "prompt_attention_mask"]
    for row, language in enumerate(("north", "the spoken language", "the spoken language")):
        expected = processor.tokenizer(f"the rain comes in {language} wind")["input_ids"]
        mask = inputs["prompt_attention_mask"][row]
        assert inputs["prompt_ids"][row][mask == 1].tolist() == expected
        assert mask.tolist() == sorted(mask.tolist(), reverse=True)  # padded on the right, whatever the tokenizer does
    assert processor.num_prompt_tokens == len(expected)
    assert inputs["prompt_ids"].dtype == torch.long


def test_languages_are_named_by_tag_or_name(monkeypatch):
    processor = make_processor(spoken_language="de_CH")
    seen = []
    monkeypatch.setattr(
        type(processor.tokenizer), "__call__", lambda self, texts, **options: seen.extend(texts) or {"input_ids": [[1]]}
    )
    processor._prompts(processor._language_names(4, ["zu", None, "zh-Hans", "Klingon"]))
    assert seen == [PROMPT.replace("{spoken_language}", name) for name in ("Zulu", "German", "Chinese", "Klingon")]


def test_a_call_gives_each_clip_and_each_sentence_its_prompt():
    processor = make_processor()
    clips = [torch.randn(length, 24).numpy() for length in (7, 3)]
    languages = {"spoken_language": ["north", None]}
    batch = processor(visual_features=clips, text_target=SENTENCES, **languages, return_tensors="pt")
    names = ["prompt_ids", "prompt_attention_mask"]
    assert list(batch) == ["visual_features", "visual_attention_mask", *names, "labels"]
    assert {*processor.model_input_names} == {*batch}
    alone = processor(text_target=SENTENCES, **languages)
    assert all(torch.equal(batch[name], alone[name]) for name in [*names, "labels"])
    assert torch.equal(batch["labels"], make_processor(prompt=None)(text_target=SENTENCES)["labels"])
    assert batch["prompt_attention_mask"].sum(1).tolist() == [6, 8]


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({"num_visual_tokens": [3, 2], "spoken_language": ["de"]}, "got 1 languages and 2 videos."),
        ({"num_visual_tokens": [3], "spoken_language": 3}, "`spoken_language` must be a tag such as 'de', a name such"),
        ({"num_visual_tokens": [3], "text_target": SENTENCES}, "got 1 videos and 2 sentences."),
        ({"num_visual_tokens": [3], "text": "the rain"}, "The processor writes its own `prompt`: leave `text` out."),
        (
            {"num_visual_tokens": [3], "visual_features": np.zeros((3, 24), np.float32)},
            "Pass either `visual_features` or, for cached features, `num_visual_tokens`.",
        ),
    ],
)
def test_wrong_calls(inputs, text):
    with error_texts(text):
        make_processor()(**inputs)


def test_a_processor_without_a_prompt_takes_no_language_and_no_counts():
    processor = make_processor(prompt=None)
    with error_texts("`spoken_language` goes into a prompt, and this processor has none. Leave it out, or set"):
        processor(text_target=SENTENCES, spoken_language="de")
    with error_texts("Pass `visual_features`, `text_target` (their sentences), or both; got neither."):
        processor(num_visual_tokens=[3])
    assert processor.num_prompt_tokens == 0
    with error_texts("`prompt` must be a text, or None for models that read none, got 3."):
        make_processor(prompt=3)


def test_a_processor_is_saved_with_its_prompt(tmp_path):
    make_processor(spoken_language="de").save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert (loaded.prompt, loaded.spoken_language) == (PROMPT, "German")
    path = tmp_path / "processor_config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(
        json.dumps({name: value for name, value in values.items() if name not in ("prompt", "spoken_language")}),
        encoding="utf-8",
    )
    assert FLaLLMProcessor.from_pretrained(tmp_path).prompt is None  # saved by an earlier version


# ------------------------------------------------------------------------------------------ what passes it on


@pytest.mark.parametrize("kind", ["plain", "mbart", "nllb"])
def test_the_collator_asks_for_the_language_of_each_clip(kind, tmp_path):
    processor = make_processor(kind, tmp_path, "the rain comes in {spoken_language} wind")
    other = {"mbart": "en_XX", "nllb": "eng_Latn"}.get(kind)
    usual = getattr(processor.tokenizer, "tgt_lang", None)
    items = [
        {
            "cached_features": torch.randn(length, 24),
            "text": text,
            "target_language": language,
            "spoken_language": tag,
        }
        for length, text, language, tag in zip((4, 2), SENTENCES, (usual, other), ("north", None), strict=True)
    ]
    batch = TranslationCollator(processor)(items)
    expected = processor(num_visual_tokens=[4, 2], spoken_language=["north", None])
    assert all(torch.equal(batch[name], expected[name]) for name in expected)
    assert {*batch} == {"visual_features", "visual_attention_mask", "labels", *expected}
    without = TranslationCollator(make_processor(kind, tmp_path, None))(items)
    assert torch.equal(without["labels"], batch["labels"]) and "prompt_ids" not in without


def test_the_collator_for_other_trainers_passes_the_column_of_languages():
    rows = [
        {"visual_features": np.zeros((3, 24), np.float32), "text": text, "spoken_language": tag}
        for text, tag in zip(SENTENCES, ("north", None), strict=True)
    ]
    processor = make_processor()
    batch = DataCollatorForSignTranslation(processor)(rows)
    expected = processor(num_visual_tokens=[3, 3], spoken_language=["north", None])
    assert all(torch.equal(batch[name], expected[name]) for name in expected)
    assert "prompt_ids" not in DataCollatorForSignTranslation(make_processor(prompt=None))(rows)
    parts = {"feature_extractor": VisualFeatureExtractor(24), "tokenizer": make_plain_tokenizer()}
    processor = LlavaSltProcessor(**parts, word_window_stride=1, prompt="rain in {spoken_language}")
    batch = DataCollatorForSignTranslation(processor)(rows)
    counts = batch["visual_attention_mask"].sum(1).tolist()
    expected = processor(num_visual_tokens=counts, text_target=SENTENCES, spoken_language=["north", ""])
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    other = processor(num_visual_tokens=counts, text_target=SENTENCES)
    assert batch["input_ids"].tolist() != other["input_ids"].tolist()


def prompted_pipeline(text: str = "mbart") -> SignLanguageTranslationPipeline:
    translator = make_pipeline(text)
    translator.model.config.has_prompt = True
    translator.processor.prompt, translator.processor.spoken_language = "w5 w6 {spoken_language}", "w7 w8"
    return translator


@every_text_model
def test_the_pipeline_writes_what_generate_writes(text):
    translator = prompted_pipeline(text)
    clips = [random_clip(24), random_clip(40)]
    inputs = translator.processor(videos=clips, return_tensors="pt")
    expected = translator.processor.batch_decode(translator.model.generate(**inputs, num_beams=3))
    answers = translator(clips, batch_size=2, num_beams=3, return_scores=True)
    assert [answer["translation_text"] for answer in answers] == expected
    other = translator(clips, batch_size=2, num_beams=3, return_scores=True, spoken_language="w9")
    assert all(one["score"] != two["score"] for one, two in zip(answers, other, strict=True))


def test_the_command_chooses_the_language_of_the_prompt():
    translator = prompted_pipeline()
    translation_streams.choose_language(translator.model, translator.processor, "de")
    assert translator.processor.spoken_language == "German"
    translator.model.config.has_prompt = False
    with error_texts("`spoken_language` goes into a prompt, and this model reads none."):
        translation_streams.choose_language(translator.model, translator.processor, "de")


def test_word_evidence_is_about_the_clip():
    translator = prompted_pipeline()
    wanted = {"return_attention": True, "source_fps": 10, "min_new_tokens": 4, "max_new_tokens": 6, **NO_SPECIAL_TOKENS}
    answers = translator([random_clip(24), random_clip(40)], batch_size=2, **wanted)
    for answer in answers:
        attention = answer["attention"]
        assert attention.shape == (len(answer["words"]), len(answer["token_times"]))
        assert (attention.sum(1) < 1 - 1e-3).all() and (attention.sum(1) > 0).all()
        assert all(0 <= word["start"] <= word["peak"] <= word["end"] <= 4 for word in answer["words"])


def test_the_pipeline_counts_the_prompt_before_it_works():
    translator = prompted_pipeline("mbart")
    num_prompt_tokens = translator.processor.num_prompt_tokens
    assert num_prompt_tokens == 4
    translator.check_length(60, "the clip")
    with error_texts("the clip is too long to translate. Prompt and video have 65 tokens"):
        translator.check_length(61, "the clip")


# ------------------------------------------------------------------------------------------ training and commands


@pytest.fixture(scope="module")
def folder_of_run(tmp_path_factory):
    """Stage 2 with a prompt, two steps from cached features, evaluated by generation."""
    folder = tmp_path_factory.mktemp("run")
    cached = {"cache_features": True, "feature_cache_dir": folder / "cache"}
    argv = stage2_flags(
        folder / "model", max_steps=2, eval_steps=2, save_steps=2, eval_strategy="steps", save_strategy="steps",
        prompt="the {spoken_language} rain .", spoken_language="en", **cached,
    )  # fmt: skip
    llm_fine_tuning.train(argv)
    return folder / "model"


@pytest.mark.slow
def test_a_trained_folder_translates_with_its_prompt(folder_of_run, tmp_path, capsys):
    model, processor = load(folder_of_run)
    assert model.config.has_prompt
    assert (processor.prompt, processor.spoken_language) == ("the {spoken_language} rain .", "English")
    assert all(np.isfinite(log_of(folder_of_run, "eval_loss"))) and log_of(folder_of_run, "eval_bleu4")
    card = (folder_of_run / "README.md").read_text(encoding="utf-8")
    assert "`prompt` is **the {spoken_language} rain .**; in the recipe: not set" in card
    videos = sorted((corpus() / "test").glob("*.mp4"))[:2]
    inputs = processor(videos=[str(video) for video in videos], return_tensors="pt")
    expected = processor.batch_decode(model.generate(**inputs))
    capsys.readouterr()
    arguments = ["--model", str(folder_of_run), *map(str, videos), "--device", "cpu", "--dtype", "float32"]
    assert translate.main(arguments) == 0
    printed = capsys.readouterr().out
    assert [line.partition("\t")[2] for line in printed.splitlines()] == expected
    argv = ["--model", folder_of_run, "--dataset", corpus(), "--split", "test", "--max_clips", 2, "--device", "cpu"]
    _, rows = evaluate_model.run_evaluation([*map(str, argv), "--output_dir", str(tmp_path / "scores")])
    assert [row["prediction"] for row in rows] == expected


@pytest.mark.slow
def test_a_trained_folder_is_calibrated(folder_of_run, tmp_path):
    folder = shutil.copytree(folder_of_run, tmp_path / "model")
    clips = load_split(DatasetArguments(dataset=[str(corpus())]), "test", 2)
    translated = calibrate.translate_split(*load(folder), clips, "text", 0.5, 2)
    assert len(translated.scores) == 2 and translated.scores.isfinite().all()


def test_stage_2_builds_a_model_with_a_prompt():
    model, processor = build_stage2(prompt="the rain")
    assert model.config.has_prompt and processor.prompt == "the rain"
    model, processor = build_stage2()
    assert not model.config.has_prompt and processor.prompt is None


def test_a_blank_prompt_is_refused():
    with error_texts("--prompt must be a text. Leave it out for a model that reads no prompt."):
        build_stage2(prompt=" ")
