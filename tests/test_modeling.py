"""FLa-LLM as a whole: padding, the adapter, wrong input, and training at full size."""

import re

import pytest
import torch
from tiny_models import (
    PAD,
    START,
    TEXT_MODELS,
    VOCABULARY_SIZE,
    every_text_model_and_visual_encoder,
    random_batch,
    random_video_batch,
    state_of,
    tiny_model,
    video_of,
    visual_features_of,
)
from torch import nn
from torch.testing import assert_close

from modeling_flallm import FLaLLMConfig, FLaLLMForTranslation
from modeling_flallm.language_encoder_decoder_slt import EncoderDecoderTranslationModel


def without_end_padding(sequence: torch.Tensor) -> list[int]:
    tokens = sequence.tolist()
    while tokens and tokens[-1] == PAD:
        tokens.pop()
    return tokens


# ------------------------------------------------------------------------------------------ padding


@every_text_model_and_visual_encoder
def test_logits_do_not_depend_on_the_batch_or_padding(text, vision):
    model = tiny_model(text, vision).double()
    batch = random_video_batch()
    padding = batch["pixel_attention_mask"][..., None, None, None] == 0
    batch["pixel_values_videos"] += padding * torch.randn_like(batch["pixel_values_videos"]) * 1e4
    with torch.no_grad():
        logits = model(**batch).logits
        for row, length in enumerate(batch["pixel_attention_mask"].sum(1)):
            alone = model(batch["pixel_values_videos"][row : row + 1, :length], labels=batch["labels"][row : row + 1])
            assert_close(logits[row], alone.logits[0], atol=1e-4, rtol=1e-5)
    assert (logits[0, 0] - logits[1, 0]).abs().max() > 1e-3  # the video is seen at all


@every_text_model_and_visual_encoder
@pytest.mark.parametrize("num_beams", [1, 4])
def test_sentences_do_not_depend_on_the_batch_or_padding(text, vision, num_beams):
    model = tiny_model(text, vision).double()  # so that rounding does not decide between two close tokens
    batch = video_of(random_video_batch())
    settings = {"num_beams": num_beams, "max_new_tokens": 8, "return_dict_in_generate": True, "output_scores": True}
    together = model.generate(**batch, **settings)
    for row, length in enumerate(batch["pixel_attention_mask"].sum(1)):
        alone = model.generate(batch["pixel_values_videos"][row : row + 1, :length], **settings)
        assert without_end_padding(together.sequences[row]) == without_end_padding(alone.sequences[0])
        if num_beams > 1:
            assert_close(together.sequences_scores[row], alone.sequences_scores[0], atol=1e-4, rtol=0)
        else:
            assert_close(together.scores[0][row], alone.scores[0][0], atol=1e-4, rtol=1e-5)


# ------------------------------------------------------------------------------------------ errors


def test_exactly_one_form_of_a_video_is_taken():
    model = tiny_model()
    batch = random_batch([4, 3])
    message = "Pass exactly one of `pixel_values_videos`, `visual_features` and `encoder_outputs`."
    for video in ({}, {**video_of(batch), **visual_features_of(model, batch)}):
        for call in (model, model.generate, model.encode):
            with pytest.raises(ValueError, match=re.escape(message)):
                call(**video)


def test_two_forms_of_a_video_are_refused_beside_encoder_outputs():
    model = tiny_model()
    batch = random_batch([4, 3])
    encoder_outputs = model.encode(**video_of(batch))
    message = "Pass exactly one of `pixel_values_videos`, `visual_features` and `encoder_outputs`."
    for video in (video_of(batch), visual_features_of(model, batch)):
        for call in (model, model.generate):
            with pytest.raises(ValueError, match=re.escape(message)):
                call(**video, encoder_outputs=encoder_outputs)


@pytest.mark.parametrize("shape", [(2, 5, 23), (5, 24), (2, 5, 24, 1)])
def test_visual_features_of_the_wrong_shape_are_refused(shape):
    message = f"`visual_features` must have the shape (batch, features, 24), got {shape}."
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny_model()(visual_features=torch.randn(shape), decoder_input_ids=torch.ones(2, 1, dtype=torch.long))


@pytest.mark.parametrize("text", ["mbart", "bart"])
def test_more_tokens_than_learned_positions_are_refused(text):
    model = tiny_model(text)
    decoder_input_ids = torch.full((1, 1), START)
    assert model(visual_features=torch.randn(1, 64, 24), decoder_input_ids=decoder_input_ids).logits.isfinite().all()
    message = (
        f"The video gives 65 visual tokens, but the text model {text!r} takes at most 64. Lower `max_num_frames` or "
        "`frame_sampling_rate` of the video processor, or cut the video with `start` and `end`."
    )
    for video in ({"pixel_values_videos": torch.randn(1, 65, 3, 32, 32)}, {"visual_features": torch.randn(1, 65, 24)}):
        with pytest.raises(ValueError, match=re.escape(message)):
            model(**video, decoder_input_ids=decoder_input_ids)
        with pytest.raises(ValueError, match=re.escape(message)):
            model.generate(**video)


@pytest.mark.parametrize("text", ["mbart", "bart"])
def test_a_sentence_too_long_for_learned_positions_is_refused(text):
    model, batch = tiny_model(text), random_batch([6, 5])
    longest = model.config.text_config.max_position_embeddings
    model(**{**batch, "labels": torch.randint(4, VOCABULARY_SIZE, (2, longest))})
    message = (
        f"A sentence of the batch has {longest + 1} tokens, but the text model {text!r} writes at most {longest}. "
        "Shorten or split the sentence."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        model(**{**batch, "labels": torch.randint(4, VOCABULARY_SIZE, (2, longest + 1))})


@pytest.mark.parametrize("text", ["t5", "mt5", "m2m_100"])
def test_more_tokens_than_positions_are_taken_where_positions_are_computed(text):
    model = tiny_model(text)
    sentences = model.generate(visual_features=torch.randn(1, 150, 24), max_new_tokens=3)
    assert sentences.shape[0] == 1
    assert model(visual_features=torch.randn(1, 150, 24), decoder_input_ids=sentences).logits.isfinite().all()


# ------------------------------------------------------------------------------------------ adapter


@pytest.mark.parametrize("adapter_norm", [False, True])
@pytest.mark.parametrize("adapter_hidden_size", [0, 20])
def test_the_adapter_is_that_of_the_paper_or_of_sltbaselines(adapter_hidden_size, adapter_norm):
    model = tiny_model(adapter_hidden_size=adapter_hidden_size, adapter_norm=adapter_norm, adapter_activation="gelu")
    adapter = model.adapter
    features = torch.randn(2, 5, 24)
    hidden = features @ adapter.first.weight.T + adapter.first.bias
    if adapter_norm:
        hidden = nn.functional.layer_norm(hidden, hidden.shape[-1:])
    expected = nn.functional.gelu(hidden)
    if adapter_hidden_size:
        assert expected.shape[-1] == adapter_hidden_size
        expected = expected @ adapter.second.weight.T + adapter.second.bias
    assert_close(adapter(features), expected, atol=1e-5, rtol=1e-5)
    assert expected.shape == (2, 5, 32)


# ------------------------------------------------------------------------------------------ full size


def train_two_steps_at_full_size(device: str, bfloat16: bool) -> None:
    text_config = FLaLLMConfig().text_config.to_dict() | {"vocab_size": 5000}
    model = FLaLLMForTranslation(FLaLLMConfig(text_config=text_config)).to(device).train()
    before = state_of(model)
    batch = {name: value.to(device) for name, value in random_batch([8], size=224).items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
    for _ in range(2):
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert loss.isfinite()
    matrices = {name: parameter for name, parameter in model.named_parameters() if parameter.ndim > 1}
    assert [name for name, parameter in matrices.items() if torch.equal(parameter, before[name])] == []
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.slow
def test_the_model_of_the_paper_trains_at_full_size():
    train_two_steps_at_full_size("cpu", bfloat16=False)


@pytest.mark.gpu
@pytest.mark.slow
def test_the_model_of_the_paper_trains_at_full_size_on_a_gpu():
    train_two_steps_at_full_size("cuda", bfloat16=True)


@pytest.mark.parametrize("text", TEXT_MODELS)
def test_beams_share_what_they_read(text, monkeypatch):
    """Of each clip, keys and values of the encoder's outputs are the same in all beams, so they are not reordered."""
    model, inputs = tiny_model(text), random_batch([12, 7, 9])
    del inputs["labels"]
    settings = {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 9, "return_dict_in_generate": True}
    ours = model.generate(**inputs, **settings, output_scores=True)
    monkeypatch.delattr(EncoderDecoderTranslationModel, "_reorder_cache")
    expected = model.generate(**inputs, **settings, output_scores=True)
    assert torch.equal(ours.sequences, expected.sequences)
    assert_close(ours.sequences_scores, expected.sequences_scores)
    assert ours.beam_indices.unique().numel() > 3, "beams were reordered"
