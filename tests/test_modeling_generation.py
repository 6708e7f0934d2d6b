"""Generation with every kind of text model: caches, beams, sampling, and every form of a video."""

import copy
import logging

import pytest
import torch
from tiny_models import (
    PAD,
    START,
    VOCABULARY_SIZE,
    every_text_model,
    random_batch,
    tiny_model,
    video_of,
    visual_features_of,
)
from torch.testing import assert_close

from modeling_flallm import FLaLLMForTranslation

GENERATION = {
    "greedy": {"max_new_tokens": 8},
    "beams": {"max_new_tokens": 8, "num_beams": 4},
    "beams, several sentences": {"max_new_tokens": 8, "num_beams": 4, "num_return_sequences": 3},
}
every_generation = pytest.mark.parametrize("generation", GENERATION.values(), ids=GENERATION.keys())


def exact_model(text: str) -> FLaLLMForTranslation:
    """In double precision, so that rounding does not decide between two close tokens."""
    return tiny_model(text).double()


@every_text_model
@every_generation
def test_cached_decoding_equals_uncached(text, generation):
    model = exact_model(text)
    batch = video_of(random_batch([9, 5]))
    settings = {**generation, "return_dict_in_generate": True, "output_scores": True, "suppress_tokens": [PAD]}
    # A padding token within a sentence has no position in M2M100, but has one with a cache. Trained models make none.
    cached = model.generate(**batch, **settings, use_cache=True)
    uncached = model.generate(**batch, **settings, use_cache=False)
    assert cached.past_key_values is not None and uncached.past_key_values is None
    assert torch.equal(cached.sequences, uncached.sequences)
    assert len(cached.scores) == len(uncached.scores)
    if generation.get("num_beams"):  # the scores of single beams have no fixed order once some have ended
        assert_close(cached.sequences_scores, uncached.sequences_scores, atol=1e-4, rtol=1e-5)
    else:
        assert_close(cached.scores, uncached.scores, atol=1e-4, rtol=1e-5)


@every_text_model
def test_a_decoding_step_equals_the_forward_pass(text):
    model = tiny_model(text)
    batch = video_of(random_batch([9, 5]))
    generated = model.generate(
        **batch,
        max_new_tokens=6,
        min_new_tokens=6,
        suppress_tokens=[PAD],
        return_dict_in_generate=True,
        output_logits=True,
    )
    logits = model(**batch, decoder_input_ids=generated.sequences[:, :-1]).logits
    assert generated.sequences[:, 0].tolist() == [START, START]
    assert_close(torch.stack(generated.logits, dim=1), logits, atol=1e-4, rtol=1e-5)


@every_text_model
@every_generation
def test_every_form_of_a_video_gives_the_same_sentences(text, generation):
    model = exact_model(text)
    batch = random_batch([9, 5])
    features = visual_features_of(model, batch)
    settings = {**generation, "return_dict_in_generate": True, "output_logits": True}
    expected = model.generate(**video_of(batch), **settings)
    forms = (
        features,
        {"encoder_outputs": model.encode(**video_of(batch))},
        {"encoder_outputs": model.encode(**features)},
    )
    for form in forms:
        output = model.generate(**form, **settings)
        assert torch.equal(output.sequences, expected.sequences)
        assert_close(output.logits, expected.logits, atol=1e-4, rtol=1e-5)
    num_sequences = 2 * generation.get("num_return_sequences", 1)
    assert expected.sequences.shape[0] == num_sequences


@every_text_model
def test_every_form_of_a_video_gives_the_same_loss(text):
    model = tiny_model(text)
    batch = random_batch([9, 5])
    expected = model(**batch)
    for form in (visual_features_of(model, batch), {"encoder_outputs": model.encode(**video_of(batch))}):
        output = model(**form, labels=batch["labels"])
        assert_close(output.logits, expected.logits, atol=1e-4, rtol=1e-5)
        assert_close(output.loss, expected.loss, atol=1e-5, rtol=1e-5)


@every_text_model
def test_labels_beside_the_video_do_not_change_the_sentences(text):
    model = exact_model(text)
    batch = random_batch([9, 5])  # the Trainer passes the whole batch to `generate`
    expected = model.generate(**video_of(batch), num_beams=2, max_new_tokens=5)
    assert torch.equal(model.generate(**batch, num_beams=2, max_new_tokens=5), expected)


@every_text_model
def test_sampling_follows_the_seed(text):
    model = tiny_model(text)
    batch = video_of(random_batch([9, 5, 7]))

    def sample(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return model.generate(**batch, do_sample=True, temperature=5.0, min_new_tokens=12, max_new_tokens=12, top_k=0)

    assert torch.equal(sample(1), sample(1))
    assert not torch.equal(sample(1), sample(2))


def test_several_samples_per_clip_belong_to_their_clip():
    model = tiny_model("mbart")
    batch = random_batch([9, 5])
    output = model.generate(
        **video_of(batch),
        do_sample=True,
        num_return_sequences=3,
        max_new_tokens=4,
        return_dict_in_generate=True,
        output_logits=True,
    )
    expected = model(**video_of(batch), decoder_input_ids=torch.full((2, 1), START)).logits[:, 0]
    assert_close(output.logits[0], expected.repeat_interleave(3, dim=0), atol=1e-4, rtol=1e-5)


@every_text_model
@pytest.mark.parametrize("form", ["pixels", "features"])
def test_beams_encode_the_video_once(text, form):
    model = tiny_model(text)
    batch = random_batch([9, 5])
    video = video_of(batch) if form == "pixels" else visual_features_of(model, batch)
    counted = {"vision": [], "text": []}
    model.vision_model.register_forward_hook(lambda module, inputs, output: counted["vision"].append(1))
    model.text_model.get_encoder().register_forward_hook(
        lambda module, inputs, output: counted["text"].append(len(output.last_hidden_state))
    )
    model.generate(**video, num_beams=4, max_new_tokens=4)
    assert counted == {"vision": [1] if form == "pixels" else [], "text": [2]}


@every_text_model
def test_generation_returns_scores_and_attentions(text):
    model = tiny_model(text)
    model.set_attn_implementation("eager")
    batch = video_of(random_batch([9, 5]))
    output = model.generate(
        **batch,
        num_beams=3,
        num_return_sequences=2,
        max_new_tokens=5,
        min_new_tokens=5,
        return_dict_in_generate=True,
        output_scores=True,
        output_attentions=True,
        output_hidden_states=True,
    )
    assert output.sequences.shape == (2 * 2, 1 + 5)
    assert output.sequences_scores.shape == (2 * 2,)
    assert [scores.shape for scores in output.scores] == [(2 * 3, VOCABULARY_SIZE)] * 5
    assert [attentions.shape for attentions in output.encoder_attentions] == [(2, 4, 9, 9)] * 2
    assert [hidden.shape for hidden in output.encoder_hidden_states] == [(2, 9, 32)] * 3
    assert len(output.cross_attentions) == 5
    for layers in output.cross_attentions:
        assert [attentions.shape for attentions in layers] == [(2 * 3, 4, 1, 9)] * 2
        for attentions in layers:
            assert_close(attentions.sum(-1), torch.ones(2 * 3, 4, 1))
            assert (attentions[3:, ..., 5:] == 0).all()  # the padding of the second clip


def test_generation_follows_its_own_configuration():
    model = tiny_model("mbart")
    batch = video_of(random_batch([9, 5]))
    settings = copy.deepcopy(model.generation_config)
    settings.update(num_beams=3, max_new_tokens=3, return_dict_in_generate=True, output_hidden_states=True)
    output = model.generate(**batch, generation_config=settings)
    assert output.sequences.shape == (2, 4)
    assert output.encoder_hidden_states is not None
    assert torch.equal(output.sequences, model.generate(**batch, num_beams=3, max_new_tokens=3))


def test_asked_for_new_tokens_go_before_the_saved_length_without_a_warning(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    model = tiny_model()
    model.generation_config.max_length = 9
    batch = video_of(random_batch([9, 5]))
    assert model.generate(**batch, max_new_tokens=4, min_new_tokens=4).shape == (2, 1 + 4)
    assert model.generate(**batch, min_new_tokens=8).shape == (2, 9)
    assert "max_length" not in caplog.text
    assert model.generate(**batch, max_new_tokens=4, min_new_tokens=4, max_length=3).shape == (2, 1 + 4)
    assert "`max_length`(=3) seem to have been set" in caplog.text


def test_an_unknown_generation_argument_is_refused():
    with pytest.raises(ValueError, match="num_beam"):
        tiny_model().generate(**video_of(random_batch([4])), num_beam=3)
