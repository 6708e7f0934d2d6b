"""The sign encoder with two levels of visual features: it sees what the trained model saw, in any system."""

import copy
from functools import partial

import pytest
import torch
from tiny_models import (
    TEXT_MODELS,
    every_text_model,
    random_batch,
    random_pose_batch,
    state_of,
    tiny_llava_slt,
    tiny_model,
    tiny_text_config,
    tiny_uni_sign,
    tiny_vision_config,
    video_of,
    with_garbage_in_the_padding,
)
from torch.testing import assert_close

from modeling_flallm import TwoLevelConfig, TwoLevelEncoder
from modeling_flallm.encoder_two_levels_slt import two_levels_of
from modeling_flallm.encoders_slt import load_sign_encoder

LENGTHS = [12, 9, 16]


def levels(encoder: TwoLevelEncoder, **clip: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """-> both levels, and the mask."""
    with torch.no_grad():
        output = encoder(**clip)
    return *output.last_hidden_state.split(encoder.config.level_sizes, dim=-1), output.attention_mask


@every_text_model
def test_both_levels_are_those_of_the_trained_model(text):
    model, clip = tiny_model(text), video_of(random_batch(LENGTHS))
    with torch.no_grad():
        tokens, encoded = model.vision_model(**clip), model.encode(**clip)
    first, second, mask = levels(two_levels_of(model), **clip)
    assert torch.equal(mask, tokens.attention_mask)
    assert_close(first, tokens.last_hidden_state)
    assert_close(second, encoded.last_hidden_state * mask[..., None])


def test_a_prompt_is_read_before_the_visual_tokens():
    model, batch = tiny_uni_sign(), random_pose_batch(LENGTHS)
    clip = {name: batch[name] for name in ("pose_values", "pose_attention_mask")}
    prompt = torch.tensor([5, 9, 11])
    with torch.no_grad():
        encoded = model.encode(**clip, prompt_ids=prompt.expand(3, -1))
    _, second, mask = levels(two_levels_of(model, prompt), **clip)
    for row, length in enumerate(mask.sum(1).tolist()):
        assert_close(second[row, :length], encoded.last_hidden_state[row, 3 : 3 + length])


def test_of_a_decoder_only_model_the_second_level_is_what_its_connector_makes():
    model, clip = tiny_llava_slt(), video_of(random_batch(LENGTHS))
    with torch.no_grad():
        features = model.get_video_features(**clip)
    encoder = two_levels_of(model)
    assert encoder.text_encoder is None
    _, second, mask = levels(encoder, **clip)
    assert_close(second, features.pooler_output * mask[..., None])


def test_a_model_with_a_prompt_must_be_given_it():
    with pytest.raises(ValueError, match="reads a prompt before the visual tokens: pass its `prompt_ids`."):
        two_levels_of(tiny_uni_sign())


@pytest.mark.parametrize(
    "make",
    [tiny_llava_slt, *(partial(tiny_model, text) for text in TEXT_MODELS)],
    ids=["connector", *TEXT_MODELS],
)
def test_saved_and_loaded_it_is_the_same_and_as_small(make, tmp_path):
    encoder = two_levels_of(make())
    encoder.save_pretrained(tmp_path)
    clip = video_of(random_batch(LENGTHS))
    for loaded in (TwoLevelEncoder.from_pretrained(tmp_path), load_sign_encoder(str(tmp_path), "")):
        for mine, theirs in zip(levels(encoder, **clip), levels(loaded.eval(), **clip), strict=True):
            assert torch.equal(mine, theirs)
    assert not any(weight.shape[:1] == (40,) for weight in encoder.state_dict().values())  # no table of tokens


def test_padding_does_not_matter():
    encoder, batch = two_levels_of(tiny_model()), video_of(random_batch(LENGTHS))
    alone = levels(encoder, **{name: value[1:2, : LENGTHS[1]] for name, value in batch.items()})
    for mine, theirs in zip(levels(encoder, **with_garbage_in_the_padding(batch)), alone, strict=True):
        length = theirs.shape[1]
        assert_close(mine[1:2, :length], theirs, atol=1e-5, rtol=1e-5)
        assert not mine[1, length:].any()


def test_its_features_are_both_levels():
    encoder, clip = two_levels_of(tiny_model()), video_of(random_batch(LENGTHS))
    features = encoder.compute_features(**clip)
    assert encoder.features_size == encoder.config.hidden_size == 24 + 32 and encoder.features_are_frozen
    tokens = encoder.encode_features(features.last_hidden_state, features.attention_mask)
    assert torch.equal(tokens.last_hidden_state, encoder(**clip).last_hidden_state)


def test_frozen_it_stays_as_it_is():
    encoder = two_levels_of(tiny_model())
    before = copy.deepcopy(state_of(encoder))
    encoder.train()
    output = encoder(**video_of(random_batch(LENGTHS)))
    assert not output.last_hidden_state.requires_grad and not encoder.training
    assert all(torch.equal(value, before[name]) for name, value in state_of(encoder).items())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "`text_config` or `adapter_size` must say how wide the second level is, got neither."),
        ({"adapter_size": 8, "prompt_length": 2}, "`prompt_length` needs a text encoder (`text_config`), got 2."),
    ],
)
def test_mistakes_in_the_configuration(values, message):
    with pytest.raises(ValueError) as error:
        TwoLevelConfig(encoder_config=tiny_vision_config(), **values)
    assert message in str(error.value)


def test_the_configuration_keeps_no_vocabulary():
    config = TwoLevelConfig(encoder_config=tiny_vision_config(), text_config=tiny_text_config("mbart"))
    assert config.text_config.vocab_size == 2 and config.hidden_size == 24 + 32  # the padding is row 1
    assert TwoLevelConfig(**config.to_dict()).to_dict() == config.to_dict()
