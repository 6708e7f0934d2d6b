"""DiffSLT's text autoencoder as a model: its latents, what is written from them, and how it is saved and loaded."""

import json
import random
import re
from pathlib import Path

import pytest
import torch
from tiny_models import END, START, VOCABULARY_SIZE, every_text_model, tiny_autoencoder, tiny_text_config
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForSeq2SeqLM, GenerationConfig
from without_our_packages import run_without_our_packages

from modeling_flallm import DiffSltAutoencoder, DiffSltAutoencoderConfig
from modeling_flallm.modeling_diffslt_autoencoder import normalised

IGNORED = -100
LOAD = """
import json, sys
import torch
from transformers import AutoConfig, AutoModel

config = AutoConfig.from_pretrained("model", trust_remote_code=True)
model = AutoModel.from_pretrained("model", trust_remote_code=True).eval()
labels = torch.tensor(json.loads(sys.argv[1]))
latents = model.compress(labels)
print(json.dumps([
    type(config).__name__,
    type(model).__module__.split(".")[0],
    latents.flatten().tolist(),
    model.write(latents, max_new_tokens=6).tolist(),
]))
"""


def random_labels(lengths: list[int]) -> torch.Tensor:
    """Sentences of these lengths with their end tokens, padded with -100."""
    labels = torch.randint(4, VOCABULARY_SIZE, (len(lengths), max(lengths)))
    for row, length in zip(labels, lengths, strict=True):
        row[length - 1], row[length:] = END, IGNORED
    return labels


# ------------------------------------------------------------------------------------------ latents


@every_text_model
def test_every_latent_has_one_norm_and_differs_from_sentence_to_sentence(text):
    model = tiny_autoencoder(text)
    latents = model.compress(random_labels([7, 4, 2]))
    assert latents.shape == (3, 3, 6)
    assert_close(latents.norm(dim=-1), torch.full((3, 3), 6**0.5))
    assert (latents[0] - latents[1]).abs().max() > 0.01
    assert (latents[:, 0] - latents[:, 1]).abs().max() > 0.01  # nor do all latents of a sentence say the same


@every_text_model
def test_latents_do_not_depend_on_neighbours_or_padding(text):
    model = tiny_autoencoder(text)
    labels = random_labels([7, 4, 2])
    together = model.compress(torch.nn.functional.pad(labels, (0, 5), value=IGNORED))
    for row, length in enumerate((7, 4, 2)):
        assert_close(model.compress(labels[row : row + 1, :length])[0], together[row], atol=1e-5, rtol=1e-4)


@every_text_model
def test_the_order_of_words_is_in_the_latents(text):
    model = tiny_autoencoder(text)
    one = torch.tensor([[5, 6, 7, 8, END]])
    assert (model.compress(one) - model.compress(one[:, [3, 1, 2, 0, 4]])).abs().max() > 0.01


def test_only_the_direction_of_a_latent_is_read():
    model = tiny_autoencoder()
    latents = torch.randn(2, 3, 6)
    scales = torch.rand(2, 3, 1) + 0.5
    one, other = (model.reconstruct(each) for each in (latents, scales * latents))
    assert_close(one.last_hidden_state, other.last_hidden_state)
    assert one.last_hidden_state.shape == (2, 3, 32) and one.attention_mask.tolist() == [[1] * 3] * 2
    assert_close(normalised(latents).square().mean(-1), torch.ones(2, 3))


def test_a_sentence_longer_than_the_positions_of_the_text_model():
    message = "A sentence has 65 tokens, but the text model 'mbart' reads at most 64. Shorten or split the sentence."
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny_autoencoder("mbart").compress(random_labels([65]))
    assert tiny_autoencoder("t5").compress(random_labels([65])).shape == (1, 3, 6)


# ------------------------------------------------------------------------------------------ loss and training


@every_text_model
def test_the_loss_is_the_cross_entropy_of_all_tokens(text):
    model = tiny_autoencoder(text)
    labels = random_labels([7, 4, 2])
    output = model(labels=labels)
    expected = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
    assert_close(output.loss, expected)
    assert_close(model(labels=labels, num_items_in_batch=26).loss, output.loss * 13 / 26)
    from_latents = model(labels=labels, latents=model.compress(labels))
    assert_close(from_latents.logits, output.logits)


def test_all_that_the_decoder_knows_of_the_sentence_is_in_the_latents():
    """Other latents change the first token's logits, and with the same latents, other labels do not."""
    model = tiny_autoencoder()
    one, other = random_labels([6]), random_labels([6])
    latents = model.compress(one)
    assert_close(model(labels=other, latents=latents).logits[:, 0], model(labels=one, latents=latents).logits[:, 0])
    first = model(labels=one, latents=model.compress(other)).logits[:, 0]
    assert (first - model(labels=one, latents=latents).logits[:, 0]).abs().max() > 1e-3


@every_text_model
def test_both_networks_learn_and_a_frozen_text_model_does_not(text):
    model = tiny_autoencoder(text)
    model.freeze_text_model()
    model.train()
    assert not model.text_model.training and model.compression.training
    model(labels=random_labels([7, 4, 2])).loss.backward()
    for name, parameter in model.named_parameters():
        if name.startswith("text_model."):
            assert not parameter.requires_grad, name
        else:
            assert name.startswith(("compression.", "reconstruction.")) and parameter.grad is not None, name
    assert tiny_autoencoder(text).train().text_model.training


def test_noise_only_in_training():
    model = tiny_autoencoder(latent_noise=0.5)
    labels = random_labels([7, 4, 2])
    assert_close(model(labels=labels).loss, model(labels=labels).loss)
    model.train()
    losses = [model(labels=labels).loss for _ in range(2)]
    assert (losses[0] - losses[1]).abs() > 1e-4
    silent = tiny_autoencoder().train()
    assert_close(silent(labels=labels).loss, silent(labels=labels).loss)


# ------------------------------------------------------------------------------------------ writing


@every_text_model
def test_writing_is_greedy_unless_told_otherwise(text):
    model = tiny_autoencoder(text)
    model.generation_config.num_beams, model.generation_config.do_sample = 4, True
    latents = torch.randn(3, 3, 6)
    written = model.write(latents, max_new_tokens=7)
    assert written.tolist() == model.generate(latents=latents, max_new_tokens=7).tolist()
    states = model.reconstruct(latents)
    tokens = torch.full((3, 1), START)
    for _ in range(7):  # by hand
        logits = model.text_model(encoder_outputs=states, decoder_input_ids=tokens).logits[:, -1]
        tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], 1)
    for ours, expected in zip(written.tolist(), tokens.tolist(), strict=True):
        upto = ours.index(END) if END in ours else 7
        assert ours[:upto] == expected[:upto]
    beams = model.write(latents, max_new_tokens=7, num_beams=3, num_return_sequences=2)
    assert len(beams) == 6
    settings = GenerationConfig(decoder_start_token_id=START, eos_token_id=END, pad_token_id=1, max_length=4)
    assert model.write(latents, generation_config=settings).shape[1] <= 4
    assert model.generation_config.num_beams == 4  # untouched


@every_text_model
def test_sentences_come_from_labels_through_latents(text):
    model = tiny_autoencoder(text)
    labels = random_labels([7, 4])
    from_labels = model.generate(labels=labels, max_new_tokens=5)
    assert from_labels.tolist() == model.write(model.compress(labels), max_new_tokens=5).tolist()


def test_what_is_passed_to_it():
    model, labels = tiny_autoencoder(), random_labels([4])
    for inputs in ({}, {"labels": labels, "latents": torch.zeros(1, 3, 6)}):
        with pytest.raises(ValueError, match="^Pass exactly one of `labels` and `latents`.$"):
            model.generate(**inputs)
    with pytest.raises(ValueError, match="^Pass `labels`, or `latents` and `decoder_input_ids`.$"):
        model(latents=torch.zeros(1, 3, 6))
    logits = model(latents=model.compress(labels), decoder_input_ids=torch.tensor([[START, 5]])).logits
    assert logits.shape == (1, 2, VOCABULARY_SIZE)


# ------------------------------------------------------------------------------------------ configuration and files


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_latents": 0}, "`num_latents` must be 1 or more, got 0."),
        ({"latent_size": -1}, "`latent_size` must be 1 or more, got -1."),
        ({"autoencoder_layers": 0}, "`autoencoder_layers` must be 1 or more, got 0."),
        ({"autoencoder_heads": 5}, "`autoencoder_heads` must divide the text model's width, 32, got 5."),
        ({"latent_noise": -0.1}, "`latent_noise` must be 0 or more, got -0.1."),
        ({"text_config": {"model_type": "gpt2"}}, "must be an encoder-decoder"),
    ],
)
def test_mistaken_configurations(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        DiffSltAutoencoderConfig(**{"text_config": tiny_text_config("mbart"), "autoencoder_heads": 4, **values})


def test_the_defaults_are_those_of_latent_diffusion_for_language():
    config = DiffSltAutoencoderConfig()
    assert (config.num_latents, config.latent_size, config.autoencoder_layers) == (32, 64, 3)
    assert config.text_config.model_type == "mbart" and config.latent_noise == 0


@every_text_model
def test_put_into_a_saved_text_model(text, tmp_path):
    text_model = AutoModelForSeq2SeqLM.from_config(tiny_text_config(text)).eval()
    text_model.generation_config.max_length = random.randint(5, 50)
    text_model.save_pretrained(tmp_path / "text")
    model = DiffSltAutoencoder.from_text_pretrained(
        str(tmp_path / "text"), num_latents=2, latent_size=5, autoencoder_heads=4
    )
    assert not model.training and model.config.text_config.name_or_path == ""
    assert model.generation_config.max_length == text_model.generation_config.max_length
    for name, weight in text_model.state_dict().items():
        assert torch.equal(model.text_model.state_dict()[name], weight), name
    assert all(weight.isfinite().all() and not weight.is_meta for weight in model.parameters())
    assert model.compress(random_labels([5])).shape == (1, 2, 5)


@every_text_model
def test_a_saved_model_loads_with_auto_model(text, tmp_path):
    model = tiny_autoencoder(text)
    model.generation_config.max_length = 9
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is DiffSltAutoencoder and loaded.generation_config.max_length == 9
    labels = random_labels([6, 3])
    assert_close(loaded.compress(labels), model.compress(labels), atol=0, rtol=0)
    assert loaded.generate(labels=labels).tolist() == model.generate(labels=labels).tolist()
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == {
        "AutoConfig": "configuration_diffslt_autoencoder.DiffSltAutoencoderConfig",
        "AutoModel": "modeling_diffslt_autoencoder.DiffSltAutoencoder",
    }


def test_a_missing_weight_is_an_error(tmp_path):
    model = tiny_autoencoder()
    del model.compression.layers[1]
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is no complete DiffSltAutoencoder. Of its weights, compression.layers.1"):
        DiffSltAutoencoder.from_pretrained(tmp_path)


@pytest.mark.slow
def test_it_loads_where_nothing_of_ours_is(tmp_path):
    model = tiny_autoencoder()
    model.save_pretrained(tmp_path / "model")
    labels = random_labels([5, 5])
    name, package, latents, written = json.loads(
        run_without_our_packages(LOAD, json.dumps(labels.tolist()), folder=tmp_path).splitlines()[-1]
    )
    assert (name, package) == ("DiffSltAutoencoderConfig", "transformers_modules")
    assert_close(torch.tensor(latents), model.compress(labels).flatten(), atol=1e-5, rtol=1e-4)
    assert written == model.generate(labels=labels, max_new_tokens=6).tolist()


def test_a_push_without_a_card_says_what_it_is():
    card = tiny_autoencoder()._short_card("me/sentences")
    assert "turns a sentence into 3 latent vectors of 6 numbers" in card
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    compile(code, "card", "exec")
    assert code.count('"me/sentences"') == 2 and Path("sentences").name in card
