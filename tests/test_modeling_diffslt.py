"""DiffSLT: what is trained, what a sample depends on, the average of the weights, pseudo-glosses."""

import copy
import sys

import pytest
import torch
from diffusers import DDIMScheduler
from test_pipeline import word_tokenizer
from tiny_models import error_texts, random_batch, state_of, tiny_diffslt, tiny_llava_slt, video_of
from torch.testing import assert_close
from transformers import AutoModelForSeq2SeqLM, GenerationConfig

from modeling_flallm import DiffSltConfig
from modeling_flallm.denoiser_diffslt import Guidance
from modeling_flallm.encoder_two_levels_slt import two_levels_of
from modeling_flallm.modeling_diffslt_autoencoder import normalised
from modeling_flallm.sampling_diffslt import SCHEDULERS

LENGTHS = [12, 9, 16]
WRITING = {"max_new_tokens": 6, "num_return_sequences": 3}


def one_clip(batch: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    return {name: value[row : row + 1, : LENGTHS[row]] for name, value in batch.items()}


def rows_of(sequences: torch.Tensor, row: int, num_samples: int = 3) -> list[list[int]]:
    return [_without_padding(each) for each in sequences[row * num_samples : (row + 1) * num_samples].tolist()]


def _without_padding(sequence: list[int]) -> list[int]:
    return sequence[: next((place + 1 for place in range(len(sequence), 0, -1) if sequence[place - 1] != 1), 0)]


def latents_of(model, clip: dict[str, torch.Tensor], num_samples: int = 3, **options) -> torch.Tensor:
    """-> `(clips, samples, latents, latent size)`, in 3 steps."""
    encoded = model.encode(**clip)
    guidance = Guidance(encoded.last_hidden_state, encoded.attention_mask)
    return model.sample_latents(guidance, num_samples, 3, **options).unflatten(0, (-1, num_samples))


def unlike_each_other(model):
    """Latents far from each other are written differently."""
    torch.nn.init.normal_(model.reconstruction.input.weight, std=2.0)
    return model


# ------------------------------------------------------------------------------------------ samples


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_sample_does_not_depend_on_its_batch(scheduler):
    model, batch = unlike_each_other(tiny_diffslt(scheduler=scheduler)), video_of(random_batch(LENGTHS))
    together, written = latents_of(model, batch), model.generate(**batch, **WRITING)
    assert together.shape == (3, 3, 4, 8) and len(written) == 9
    for row in range(3):
        alone = one_clip(batch, row)
        assert_close(latents_of(model, alone)[0], together[row], atol=1e-4, rtol=1e-4)
        assert rows_of(model.generate(**alone, **WRITING), 0) == rows_of(written, row)
    assert_close(latents_of(model, batch, 4)[:, :3], together, atol=1e-4, rtol=1e-4)


def test_samples_differ_and_are_the_same_again():
    model, batch = unlike_each_other(tiny_diffslt()), video_of(random_batch(LENGTHS))
    latents = latents_of(model, batch)
    assert_close(latents.square().mean(-1), torch.ones(3, 3, 4))
    assert all((latents[0, 0] - other).abs().max() > 0.1 for other in (latents[0, 1], latents[0, 2], latents[1, 0]))
    assert torch.equal(latents_of(model, batch), latents)
    assert torch.equal(model.generate(**batch, **WRITING), model.generate(**batch, **WRITING))


def test_a_generator_gives_the_seeds_and_is_not_changed():
    model, batch = unlike_each_other(tiny_diffslt()), video_of(random_batch(LENGTHS))
    generator = torch.Generator().manual_seed(7)
    first = latents_of(model, batch, generator=generator)
    assert torch.equal(latents_of(model, batch, generator=generator), first)
    alone = latents_of(model, one_clip(batch, 2), generator=torch.Generator().manual_seed(7))
    assert_close(alone[0], first[2], atol=1e-4, rtol=1e-4)
    for other in (latents_of(model, batch, generator=torch.Generator().manual_seed(8)), latents_of(model, batch)):
        assert (first - other).abs().max() > 0.1
    sequences = [
        model.generate(**batch, **WRITING, generator=each) for each in (generator, torch.Generator().manual_seed(7))
    ]
    assert torch.equal(*sequences)


def test_saved_and_loaded_it_writes_the_same(tmp_path):
    model, batch = unlike_each_other(tiny_diffslt()), video_of(random_batch(LENGTHS))
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert loaded.generation_config.num_inference_steps == 3
    assert torch.equal(loaded.generate(**batch, **WRITING), model.generate(**batch, **WRITING))


def test_guidance_weighs_the_clip():
    model, batch = tiny_diffslt(), video_of(random_batch(LENGTHS))
    without = latents_of(model, batch, guidance_scale=0.0)
    assert_close(without[0], without[1], atol=1e-5, rtol=1e-5)  # of another clip
    calls = []
    model.denoiser.register_forward_hook(lambda *_: calls.append(1))
    plain = latents_of(model, batch, guidance_scale=1.0)
    assert len(calls) == 3
    strong = latents_of(model, batch, guidance_scale=3.0)
    assert len(calls) == 9 and (plain - strong).abs().max() > 1e-3


def test_steps_and_guidance_are_read_from_the_generation_configuration():
    model, batch = tiny_diffslt(), video_of(random_batch(LENGTHS))
    calls = []
    model.denoiser.register_forward_hook(lambda *_: calls.append(1))
    model.generate(**batch, max_new_tokens=3)
    assert len(calls) == 2 * 3
    model.generation_config.num_inference_steps, model.generation_config.guidance_scale = 4, 1.0
    model.generate(**batch, max_new_tokens=3)
    assert len(calls) == 2 * 3 + 4
    model.generate(**batch, max_new_tokens=3, num_inference_steps=5)
    assert len(calls) == 2 * 3 + 4 + 5


def test_the_sentence_is_written_as_the_generation_configurations_say(monkeypatch):
    model, batch = tiny_diffslt(), video_of(random_batch(LENGTHS))
    model.generation_config.num_beams, model.generation_config.forced_bos_token_id = 4, 20
    given, write = [], model.text_model.generate
    monkeypatch.setattr(
        model.text_model, "generate", lambda **how: given.append(how["generation_config"]) or write(**how)
    )
    first = model.generate(**batch, max_new_tokens=3)
    other = model.generate(**batch, generation_config=GenerationConfig(max_new_tokens=3, num_beams=2))
    assert [each.num_beams for each in given] == [4, 2] and (first[:, 1] == 20).all() and (other[:, 1] == 20).all()
    assert [each.guidance_scale for each in given] == [1, 1]


def test_it_chooses_among_its_samples():
    model, batch = unlike_each_other(tiny_diffslt()), video_of(random_batch(LENGTHS))
    candidates = model.generate(**batch, **WRITING)
    output = model.generate(
        **batch, max_new_tokens=6, num_candidates=3, choose_by="chrf", tokenizer=word_tokenizer(),
        return_dict_in_generate=True,
    )  # fmt: skip
    assert len(output.sequences) == 3 and (output.sequences_scores <= 0).all()
    for row, chosen in enumerate(output.sequences.tolist()):
        assert _without_padding(chosen) in rows_of(candidates, row)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_inference_steps": 0}, "`num_inference_steps` must be a whole number from 1 to 1000, got 0."),
        ({"num_inference_steps": 1001}, "`num_inference_steps` must be a whole number from 1 to 1000, got 1001."),
        ({"num_inference_steps": 2.5}, "`num_inference_steps` must be a whole number from 1 to 1000, got 2.5."),
        ({"num_return_sequences": 0}, "`num_return_sequences` must be a whole number from 1, got 0."),
        ({"guidance_scale": float("nan")}, "`guidance_scale` must be a number from 0, got nan."),
        ({"guidance_scale": -1.0}, "`guidance_scale` must be a number from 0, got -1.0."),
        (
            {"generator": [torch.Generator()]},
            "`generator` must be one torch.Generator, which gives the seeds of all samples, got list.",
        ),
        ({"scheduler": "euler"}, "`scheduler` must be one of ddim, ddpm, dpm++, got 'euler'."),
    ],
)
def test_mistakes_in_sampling(arguments, message):
    with pytest.raises(ValueError) as error:
        tiny_diffslt().generate(**video_of(random_batch(LENGTHS)), **arguments)
    assert str(error.value) == message


def test_without_diffusers_it_loads_and_says_what_it_needs(monkeypatch, tmp_path):
    model = tiny_diffslt()
    model.save_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    with pytest.raises(ImportError, match="DiffSLT needs diffusers: `pip install diffusers`."):
        loaded.generate(**video_of(random_batch(LENGTHS)))


def test_a_replay_says_what_each_word_was_read_from():
    model, batch = unlike_each_other(tiny_diffslt(pseudo_gloss_ids=[5, 9])), video_of(random_batch(LENGTHS))
    encoded = model.encode(**batch)
    sequences = model.generate(encoder_outputs=encoded, **WRITING)
    log_probabilities, attention = model.replay(sequences, encoder_outputs=encoded)
    num_tokens = model.vision_model(**batch).attention_mask
    assert log_probabilities.shape == (9, sequences.shape[1] - 1) and (log_probabilities <= 0).all()
    assert attention.shape == (*log_probabilities.shape, num_tokens.shape[1])
    sums = attention.sum(-1)
    assert (sums > 0).all() and (sums < 1).all()  # the rest goes to the pseudo-glosses
    assert not attention[3:6, :, num_tokens[1].sum() :].any()  # padding
    alone = one_clip(batch, 1)
    _, of_one = model.replay(sequences[3:6], encoder_outputs=model.encode(**alone))
    assert_close(of_one, attention[3:6, :, : of_one.shape[2]], atol=1e-5, rtol=1e-4)


# ------------------------------------------------------------------------------------------ training


def test_noise_and_velocity_are_those_of_diffusers(monkeypatch):
    model, scheduler = tiny_diffslt(), DDIMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    latents, noise, timesteps = normalised(torch.randn(3, 4, 8)), torch.randn(3, 4, 8), torch.tensor([3, 500, 950])
    read = []
    monkeypatch.setattr(model.denoiser, "forward", lambda noisy, *_: read.append(noisy) or noisy)
    _, velocity = model._denoise_once(latents, None, timesteps, noise, reads_estimate=False)
    assert_close(read[0], scheduler.add_noise(latents, noise, timesteps))
    assert_close(velocity, scheduler.get_velocity(latents, noise, timesteps))
    assert_close(model._estimate(read[0], velocity, timesteps), latents, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("num_steps", [1, 7, 103, 600, 1000])
def test_true_velocities_lead_to_the_latents_in_any_number_of_steps(scheduler, num_steps, monkeypatch):
    """Of them the denoiser sees every timestep once, the first one without anything left of the latents."""
    model, latents, seen = tiny_diffslt(self_conditioning_probability=0.0), normalised(torch.randn(2, 4, 8)), []

    def true_velocity(noisy, timesteps, *_):
        kept = model._kept_shares(timesteps)
        seen.append(int(timesteps[0]))
        noise = (noisy - kept.sqrt() * latents) / (1 - kept).sqrt()
        return kept.sqrt() * noise - (1 - kept).sqrt() * latents

    monkeypatch.setattr(model.denoiser, "forward", true_velocity)
    guidance = Guidance(torch.zeros(2, 1, 16), torch.ones(2, 1))
    sampled = model.sample_latents(guidance, 1, num_steps, guidance_scale=1.0, scheduler=scheduler)
    assert_close(sampled, latents, atol=0.02, rtol=0.02)
    assert seen == sorted(set(seen), reverse=True) and len(seen) == num_steps and seen[0] == 999 and seen[-1] >= 0


def test_ddim_is_that_of_diffusers_where_that_one_keeps_track(monkeypatch):
    model, clip = tiny_diffslt(), video_of(random_batch(LENGTHS))
    encoded = model.encode(**clip)
    guidance = Guidance(encoded.last_hidden_state, encoded.attention_mask)
    ours = model.sample_latents(guidance, 1, 20)
    theirs = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False,
        timestep_spacing="trailing", set_alpha_to_one=True,
    )  # fmt: skip
    theirs.set_timesteps(20)
    monkeypatch.setattr(theirs, "set_timesteps", lambda timesteps: None)
    monkeypatch.setattr(model, "get_scheduler", lambda name=None: theirs)
    assert_close(model.sample_latents(guidance, 1, 20), ours, atol=1e-3, rtol=1e-3)


def test_everything_that_the_denoiser_is_given_changes_what_it_says():
    model, clip = tiny_diffslt(), video_of(random_batch(LENGTHS))
    denoiser, tokens = model.denoiser, model.vision_model(**clip)
    hidden, mask = tokens.last_hidden_state, tokens.attention_mask
    noisy, timesteps, estimate = torch.randn(3, 4, 8), torch.full((3,), 500), torch.randn(3, 4, 8)
    first = model.vision_model.config.level_sizes[0]

    def said(noisy=noisy, timesteps=timesteps, estimate=None, hidden=hidden):
        return denoiser(noisy, timesteps, denoiser.guidance_fusion(hidden, mask), estimate)

    plain = said()
    others = {
        "noisy latents": said(noisy=noisy.flip(0)),
        "timestep": said(timesteps=timesteps + 200),
        "estimate": said(estimate=estimate),
        "first level": said(hidden=torch.cat([hidden[..., :first].flip(0), hidden[..., first:]], dim=-1)),
        "second level": said(hidden=torch.cat([hidden[..., :first], hidden[..., first:].flip(0)], dim=-1)),
        "order in time": said(hidden=hidden.flip(1) * mask[..., None]),
    }
    for name, other in others.items():
        assert (plain - other).abs().max() > 1e-3, name
    skips = [parameter.clone() for parameter in denoiser.skips.parameters()]
    with torch.no_grad():
        denoiser.skips[0].weight[:, 16:] = 0  # what comes from the first half
    assert (said() - plain).abs().max() > 1e-3 and len(skips) == 2


def test_clips_whose_guidance_is_left_out_are_trained_without_it():
    batch = random_batch(LENGTHS)
    for share, differs in ((1.0, False), (0.0, True)):
        model = tiny_diffslt(guidance_dropout=share, denoiser_dropout=0.0, self_conditioning_probability=0.0)
        model.train()
        model.vision_model.eval()
        losses = []
        for clips in (batch, {**batch, "pixel_values_videos": batch["pixel_values_videos"].flip(0)}):
            torch.manual_seed(1)
            losses.append(model(**clips).loss)
        assert (abs(losses[0] - losses[1]) > 1e-4) == differs


def test_training_reads_its_own_estimate_in_the_given_share_of_the_steps():
    for probability, num_calls in ((0.0, 1), (1.0, 2)):
        model, calls = tiny_diffslt(self_conditioning_probability=probability).train(), []
        model.denoiser.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        model(**random_batch(LENGTHS))
        assert len(calls) == num_calls


def test_only_the_denoiser_is_trained():
    model, batch = tiny_diffslt(), random_batch(LENGTHS)
    model.freeze_pretrained_parts()
    model.train()
    before = copy.deepcopy(state_of(model))
    model(**batch).loss.backward()
    torch.optim.SGD([each for each in model.parameters() if each.requires_grad], 1.0).step()
    changed = {name for name, value in state_of(model).items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("denoiser.") for name in changed)
    assert not model.text_model.training and not model.vision_model.training and model.denoiser.training


def test_the_loss_of_an_evaluation_is_that_of_its_clips():
    model, batch = tiny_diffslt(), random_batch(LENGTHS)
    losses = [model(**one_clip(video_of(batch), row), labels=batch["labels"][row : row + 1]).loss for row in range(3)]
    assert_close(model(**batch).loss, torch.stack(losses).mean(), atol=1e-5, rtol=1e-5)
    model.train()
    assert model(**batch).loss != model(**batch).loss


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_trains(scheduler):
    model = tiny_diffslt(scheduler=scheduler).train()
    model(**random_batch(LENGTHS)).loss.backward()
    assert model.denoiser.output.weight.grad.abs().sum() > 0


@pytest.mark.slow
def test_it_learns_to_make_the_latents_of_each_sentence(monkeypatch):
    values = {"denoiser_dropout": 0.0, "guidance_dropout": 0.0, "denoiser_size": 32}
    model, batch = tiny_diffslt(**values), random_batch(LENGTHS)
    model.denoiser.apply(model._init_weights)
    latents = normalised(torch.randn(3, 4, 8))  # an untrained autoencoder's are alike
    monkeypatch.setattr(model, "compress", lambda labels: latents)
    model.freeze_pretrained_parts()
    features = model.vision_model(**video_of(batch))
    clips = {"visual_features": features.last_hidden_state, "visual_attention_mask": features.attention_mask}
    model.train()
    optimizer = torch.optim.Adam(model.denoiser.parameters(), 3e-3)
    for _ in range(400):
        model(**clips, labels=batch["labels"]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    encoded = model.encode(**clips)
    sampled = model.sample_latents(
        Guidance(encoded.last_hidden_state, encoded.attention_mask), num_inference_steps=20, guidance_scale=1.0
    )
    cosines = torch.nn.functional.cosine_similarity(sampled.flatten(1)[:, None], latents.flatten(1)[None], dim=-1)
    others = cosines[~torch.eye(3, dtype=torch.bool)]
    assert cosines.diagonal().mean() > others.mean() + 0.3, cosines


@pytest.mark.parametrize("base", [None, tiny_llava_slt], ids=["encoder-decoder", "decoder-only"])
def test_any_system_may_guide(base):
    model = tiny_diffslt(base=None if base is None else base())
    batch = random_batch(LENGTHS)
    assert model(**batch).loss.isfinite() and len(model.generate(**video_of(batch), max_new_tokens=3)) == 3


def test_mistakes_in_training():
    model, batch = tiny_diffslt(), random_batch(LENGTHS)
    with error_texts("DiffSLT takes a clip and `labels`, got `prompt_ids`."):
        model(**batch, prompt_ids=torch.ones(3, 2))
    with error_texts("Pass exactly one of `pixel_values_videos` and `visual_features`."):
        model(labels=batch["labels"])


def test_a_model_of_its_own_kind_may_guide():
    first = tiny_diffslt()
    visual_side = first.vision_model
    assert two_levels_of(first) is visual_side and visual_side.frozen


def test_the_sentence_that_is_replayed_is_compressed_as_in_training():
    """mBART's labels end with the language, which its decoder reads first; others only shift."""
    labels = torch.tensor([[7, 9, 3, 20], [8, 3, 20, -100]])
    model = tiny_diffslt("mbart")
    generated = torch.tensor([[20, 7, 9, 3], [20, 8, 3, 1]])
    assert torch.equal(model._labels_of(generated), labels)
    labels = torch.tensor([[7, 9, 3], [8, 3, -100]])
    model = tiny_diffslt("t5")
    generated = torch.tensor([[2, 7, 9, 3], [2, 8, 3, 1]])
    assert torch.equal(model._labels_of(generated)[:, :3], labels)
    assert (model._labels_of(generated)[:, 3:] == -100).all()


def test_low_rank_adapters_are_refused():
    with error_texts("DiffSLT's denoiser is trained as a whole: low-rank adapters have no place in it."):
        tiny_diffslt().get_lora_settings()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_parts_may_have_different_dtypes(dtype):
    model = tiny_diffslt()
    model.text_model.to(dtype)
    batch = random_batch(LENGTHS)
    assert model(**batch).loss.isfinite() and len(model.generate(**video_of(batch), max_new_tokens=3)) == 3


# ------------------------------------------------------------------------------------------ average


def test_the_average_follows_the_weights_and_is_what_evaluation_uses():
    model, batch = tiny_diffslt(), random_batch(LENGTHS)
    model.keep_average()  # without one it does nothing
    with error_texts("`ema_decay` must be at least 0 and below 1, got 1.5."):
        model.start_average(1.5)
    model.start_average(0.5)
    weight = model.denoiser.input.weight
    values, expected = [], None
    for step in range(6):
        with torch.no_grad():
            weight.add_(1.0)
        values.append(weight.clone())
        model.update_average()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = weight.clone() if expected is None else decay * expected + (1 - decay) * weight
    assert_close(model.average.module.input.weight.data, expected.data)
    loss = model(**batch).loss
    model.keep_average()
    assert model.config.ema_decay is None and not any("average" in name for name in model.state_dict())
    assert_close(model.denoiser.input.weight.data, expected.data)
    assert_close(model(**batch).loss, loss)


def test_a_checkpoint_has_weights_and_average(tmp_path):
    model, batch = tiny_diffslt(), random_batch(LENGTHS)
    model.start_average(0.9)
    model.update_average()
    with torch.no_grad():
        model.denoiser.input.weight.add_(1.0)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.average.n_averaged == 1
    assert_close(loaded(**batch).loss, model(**batch).loss)
    assert_close(loaded.denoiser.input.weight, model.denoiser.input.weight)


# ------------------------------------------------------------------------------------------ DiffSLT-P


def test_pseudo_glosses_are_learned_and_guide():
    glosses = {"pseudo_gloss_ids": [5, 9, 11, 30], "num_pseudo_glosses": 2}
    model, batch = tiny_diffslt(**glosses), random_batch(LENGTHS)
    plain = video_of(batch)
    encoded = model.encode(**plain)
    num_tokens = model.vision_model(**plain).last_hidden_state.shape[1]
    assert encoded.last_hidden_state.shape == (3, 2 * num_tokens + 2, 16)
    assert encoded.attention_mask[:, -2:].all()
    batch["labels"] = torch.tensor([[5, 7, 3, -100], [11, 9, 5, 3], [8, 3, -100, -100]])
    assert model._pseudo_glosses_of(batch["labels"]).tolist() == [
        [0, -100, -100, -100], [2, 1, 0, -100], [-100, -100, -100, -100]
    ]  # fmt: skip
    model(**batch).loss.backward()
    assert model.denoiser.guidance_fusion.pseudo_gloss_head.weight.grad.abs().sum() > 0
    assert len(model.generate(**plain, max_new_tokens=3)) == 3


def test_values_of_the_configuration_are_checked():
    for values, message in (
        ({"denoiser_layers": 0}, "`denoiser_layers` must be 1 or more, got 0."),
        ({"denoiser_size": 12}, "`denoiser_size` must be a multiple of twice `denoiser_heads`, 16, got 12."),
        ({"guidance_dropout": 1.5}, "`guidance_dropout` must be from 0 to 1, got 1.5."),
        ({"ema_decay": 1.0}, "`ema_decay` must be at least 0 and below 1, got 1.0."),
        ({"pseudo_gloss_weight": -1}, "`pseudo_gloss_weight` must be 0 or more, got -1."),
        ({"num_latents": 0}, "`num_latents` must be 1 or more, got 0."),
    ):
        with pytest.raises(ValueError) as error:
            DiffSltConfig(**values)
        assert message in str(error.value)
