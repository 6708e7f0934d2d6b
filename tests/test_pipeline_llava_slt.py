"""The pipeline with LLaVA-SLT: prompts, scores, words with their seconds, long videos, confidence."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import (
    END,
    PAD,
    START,
    VIDEO_TOKEN,
    every_language_model,
    tiny_language_model_config,
    tiny_llava_slt,
    tiny_model,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, pipeline
from video_files import counting_frames, write_video

from modeling_flallm import LlavaSltConfig, SignLanguageTranslationPipeline
from processing import FLaLLMProcessor, FLaLLMVideoProcessor, LlavaSltProcessor
from train_scripts.runs.video_translation import translate_videos

TASK = "sign-language-translation"
NO_SPECIAL_TOKENS = {"bad_words_ids": [[0], [PAD], [START]]}


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Every token but the special ones is a word of its own."""
    vocabulary = {"<unk>": 0, "<pad>": PAD, "<start>": START, "</s>": END, "German": 4}
    vocabulary |= {f"w{token_id}": token_id for token_id in range(5, VIDEO_TOKEN)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary | {"<video>": VIDEO_TOKEN}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<start>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def make_processor(**settings) -> LlavaSltProcessor:
    size = {"size": {"height": 36, "width": 36}, "crop_size": {"height": 32, "width": 32}}
    video_processor = FLaLLMVideoProcessor(**size, frame_sampling_rate=0.5)
    return LlavaSltProcessor(video_processor, word_tokenizer(), **settings)


def make_pipeline(name: str = "llama", **values) -> SignLanguageTranslationPipeline:
    return pipeline(TASK, model=tiny_llava_slt(name, **values), processor=make_processor())


def random_video(num_frames: int = 24) -> dict:
    return {"video": np.random.randint(0, 256, (num_frames, 36, 36, 3), dtype=np.uint8), "source_fps": 12.0}


@every_language_model
def test_a_batch_gives_what_each_video_gives_alone(name):
    translator = make_pipeline(name)
    videos = [random_video(24), random_video(9), random_video(15)]
    settings = {"num_beams": 2, "return_scores": True, "return_timestamps": True, "return_attention": True}
    together = translator(videos, batch_size=3, **settings, **NO_SPECIAL_TOKENS)
    for answer, video in zip(together, videos, strict=True):
        alone = translator(video, **settings, **NO_SPECIAL_TOKENS)
        assert alone["translation_text"] == answer["translation_text"]
        assert alone["score"] == pytest.approx(answer["score"], abs=1e-4)
        np.testing.assert_allclose(alone["attention"], answer["attention"], atol=1e-4)
        assert [word["word"] for word in answer["words"]] == answer["translation_text"].split()
        assert answer["attention"].shape == (len(answer["words"]), -(-len(video["video"]) // 4))
        np.testing.assert_allclose(answer["attention"].sum(1), 1, atol=1e-5)
        for word in answer["words"]:
            assert 0 <= word["start"] <= word["peak"] <= word["end"] <= len(video["video"]) / 12
            assert 0 < word["probability"] <= 1


def test_the_words_attention_and_probability_are_those_of_generation():
    translator = make_pipeline("qwen2")
    model, processor = translator.model, translator.processor
    video = random_video()
    written = {**NO_SPECIAL_TOKENS, "min_new_tokens": 2}  # a model with random weights may end at once
    answer = translator(video, return_timestamps=True, return_attention=True, **written)
    inputs = processor(videos=video["video"], return_tensors="pt")
    model.set_attn_implementation("eager")
    output = model.generate(
        **inputs, **written, return_dict_in_generate=True, output_attentions=True, output_logits=True
    )
    is_video = inputs["input_ids"][0] == VIDEO_TOKEN
    assert processor.decode(output.sequences[0]) == answer["translation_text"] != ""
    for index, word in enumerate(answer["words"]):
        layers = [layer[0, :, -1, : len(is_video)].mean(0)[is_video] for layer in output.attentions[index]]
        attention = torch.stack(layers).mean(0)
        np.testing.assert_allclose(answer["attention"][index], attention / attention.sum(), atol=1e-4)
        probability = output.logits[index][0].softmax(0)[output.sequences[0, index]]
        assert word["probability"] == pytest.approx(float(probability), abs=1e-4)


def test_sequence_scores_are_mean_log_probabilities():
    translator = make_pipeline("gpt2")
    video = random_video()
    answer = translator(video, return_scores=True, return_timestamps=True, suppress_tokens=[0, PAD, START, END])
    assert len(answer["words"]) == 8
    inputs = translator.processor(videos=video["video"], return_tensors="pt")
    suppressed = [0, PAD, START, END, VIDEO_TOKEN]
    output = translator.model.generate(
        **inputs, suppress_tokens=suppressed, return_dict_in_generate=True, output_scores=True
    )
    log_probabilities = [
        float(scores[0].log_softmax(0)[token]) for scores, token in zip(output.scores, output.sequences[0], strict=True)
    ]
    assert answer["score"] == pytest.approx(np.mean(log_probabilities), abs=1e-4)


def test_several_sequences_of_each_video():
    answers = make_pipeline()([random_video(), random_video(9)], num_beams=3, num_return_sequences=2, batch_size=2)
    assert [len(answer) for answer in answers] == [2, 2]


def test_the_language_goes_into_the_prompt(monkeypatch):
    translator = make_pipeline()
    prompts = []
    generate = translator.model.generate

    def remembered(**arguments):
        prompts.append(arguments["input_ids"][0].tolist())
        return generate(**arguments)

    monkeypatch.setattr(translator.model, "generate", remembered)
    translator(random_video())
    translator(random_video(), spoken_language="German")
    assert [4 in prompt for prompt in prompts] == [False, True]
    vocabulary = {f"w{token_id}": token_id for token_id in range(40)} | {"</s>": 40, "<pad>": 41}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="w0")), eos_token="</s>", pad_token="<pad>"
    )
    encoder_decoder = pipeline(TASK, model=tiny_model(), processor=FLaLLMProcessor(FLaLLMVideoProcessor(), tokenizer))
    with pytest.raises(ValueError, match=re.escape("`spoken_language` goes into a prompt, and this model reads none.")):
        encoder_decoder(random_video(), spoken_language="German")


def test_pieces_of_a_long_video_and_those_that_learned_positions_cut():
    translator = make_pipeline("gpt2")
    clip = torch.randn(150, 3, 32, 32)
    metadata = {"fps": 10.0, "total_num_frames": 150, "frames_indices": list(range(150))}
    piece = {"pixel_values_videos": clip, "video_metadata": metadata, "start": 0.0, "end": 15.0}
    answers = list(translator.translate_pieces([piece], return_timestamps=True))
    assert len(answers) == 2  # 75 placeholders are too many for 64 positions, 45 are not
    assert answers[0]["start"] == 0 and answers[-1]["end"] == 15
    with pytest.raises(ValueError, match="is too long to translate. Prompt, video and sentence have"):
        translator(piece)


def test_a_clip_whose_prompt_is_too_long_does_not_stop_the_others(tmp_path):
    model, processor = tiny_llava_slt("gpt2"), make_processor()
    most = model.get_max_num_tokens() - processor.num_prompt_tokens  # with one token for the sentence
    for name, num_words in (("fits", most - 1), ("too long", most)):
        write_video(tmp_path / f"{name}.mp4", counting_frames(4 * num_words))
    videos = [tmp_path / "too long.mp4", tmp_path / "fits.mp4"]
    translations = {Path(each.file).stem: each.error for each in translate_videos(model, processor, videos, 2)}
    assert translations["fits"] == "" and "too long to translate. Prompt, video" in translations["too long"]


def test_the_confidence_of_a_calibrated_model():
    values = {"slope": 2.0, "intercept": 1.0, "mean_features": [0.1] * 16, "largest_distance": 2.0}
    translator = make_pipeline(confidence_calibration=values)
    answer = translator(random_video(), return_scores=True)
    assert answer["confidence"] == pytest.approx(1 / (1 + np.exp(-(2 * answer["score"] + 1))))
    assert answer["is_familiar"]
    with pytest.raises(ValueError, match="must be a list of 16 numbers"):
        LlavaSltConfig(
            vision_config=translator.model.config.vision_config,
            text_config=tiny_language_model_config("llama"),
            video_token_id=VIDEO_TOKEN,
            confidence_calibration={**values, "mean_features": [0.0]},
        )


def test_a_text_model_without_attention_gives_no_seconds(monkeypatch):
    translator = make_pipeline()
    forward = type(translator.model).forward

    def without_attention(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        output["attentions"] = None
        return output

    monkeypatch.setattr(type(translator.model), "forward", without_attention)
    assert "score" in translator(random_video(), return_scores=True)
    message = "The text model 'llama' gives no attention weights, so its words cannot be timed. Leave out"
    with pytest.raises(ValueError, match=re.escape(message)):
        translator(random_video(), return_timestamps=True)
