"""Encoders side by side and encoders in front of a temporal module, alone and in both systems."""

import pytest
import torch
from test_pipeline import NO_SPECIAL_TOKENS
from test_pipeline import make_processor as make_flallm_processor
from test_pipeline_llava_slt import make_processor as make_llava_slt_processor
from test_pipeline_llava_slt import random_video
from test_pretrained_vision import clips
from tiny_models import (
    VIDEO_TOKEN,
    assert_gradients_close,
    draw_batch_norm_statistics,
    error_texts,
    gradients_of,
    random_batch,
    random_prompts,
    state_of,
    tiny_language_model_config,
    tiny_text_config,
    video_of,
    with_garbage_in_the_padding,
)
from tiny_vision_models import (
    CONFIGS,
    HALVES,
    UNEVEN,
    draw_weights,
    needs_traceable_configurations,
    save_vision_model,
)
from torch.testing import assert_close
from transformers import AutoModelForSeq2SeqLM
from without_our_packages import run_without_our_packages

from modeling_flallm import (
    FLaLLMConfig,
    FLaLLMForTranslation,
    FLaLLMVisionConfig,
    LlavaSltConfig,
    LlavaSltContrastiveConfig,
    LlavaSltForContrastivePreTraining,
    LlavaSltForTranslation,
    LlavaSltVisualConfig,
    SignLanguageTranslationPipeline,
    VisualFeaturesConfig,
)
from modeling_flallm.configuration_encoder_combined_slt import SideBySideConfig, TemporalConfig
from modeling_flallm.configuration_encoder_pretrained_slt import PretrainedVisionConfig
from modeling_flallm.encoder_combined_slt import SideBySideEncoder, TemporalEncoder
from modeling_flallm.encoders_slt import load_sign_encoder, put_in_front_of_time
from modeling_flallm.sign_encoder_slt import num_tokens_after

LENGTHS = [9, 5, 2]
EVERY_LENGTH = range(1, 20)


def pretrained(name: str, **values) -> PretrainedVisionConfig:
    return PretrainedVisionConfig(backbone_config=CONFIGS[name](), image_size=[32, 32], **values)


def side_by_side(*configs) -> SideBySideEncoder:
    return drawn(SideBySideEncoder(SideBySideConfig(encoder_configs=list(configs))))


def in_front_of_time(config, **values) -> TemporalEncoder:
    return drawn(TemporalEncoder(TemporalConfig(encoder_config=config, **values)))


def drawn(encoder):
    draw_weights(encoder)
    draw_batch_norm_statistics(encoder)
    return encoder.eval()


ENCODERS = {
    "side by side": lambda: side_by_side(pretrained("vit"), pretrained("videomae", window_stride=2)),
    "in front of time": lambda: in_front_of_time(pretrained("vit"), projection_size=16, temporal_blocks=["K5", "P2"]),
    "both": lambda: in_front_of_time(
        SideBySideConfig(encoder_configs=[pretrained("vit"), pretrained("videomae")]),
        projection_size=16,
        temporal_blocks=["K5"],
    ),
}
every_encoder = pytest.mark.parametrize("name", ENCODERS)


# ------------------------------------------------------------------------------------------ properties of all


@every_encoder
def test_a_clip_does_not_depend_on_its_neighbours_or_padding(name):
    encoder = ENCODERS[name]()
    batch = clips(LENGTHS)
    together = encoder(**batch)
    garbage = encoder(**with_garbage_in_the_padding(batch))
    assert_close(garbage.last_hidden_state, together.last_hidden_state, atol=1e-4, rtol=1e-4)
    for index, length in enumerate(LENGTHS):
        alone = encoder(batch["pixel_values_videos"][index : index + 1, :length]).last_hidden_state[0]
        assert_close(together.last_hidden_state[index, : len(alone)], alone, atol=1e-4, rtol=1e-4)
        assert not together.last_hidden_state[index, len(alone) :].any()
        assert together.attention_mask[index].sum() == len(alone) == encoder.get_num_tokens(length)


@every_encoder
def test_the_number_of_tokens_and_features_is_that_of_the_formula(name):
    encoder = ENCODERS[name]()
    for length in range(encoder.get_min_num_frames(), 14):
        batch = clips([length])
        num_tokens = encoder(**batch).last_hidden_state.shape[1]
        features = encoder.compute_features(**batch).last_hidden_state
        assert num_tokens == encoder.get_num_tokens(length) == num_tokens_after(encoder.get_token_steps(), length)
        assert features.shape[1:] == (encoder.get_num_features(length), encoder.features_size)
        assert num_tokens_after(encoder.get_token_steps_of_features(), features.shape[1]) == num_tokens


@every_encoder
def test_forward_is_features_then_tokens(name):
    encoder = ENCODERS[name]()
    batch = clips(LENGTHS)
    features = encoder.compute_features(**batch)
    tokens = encoder.encode_features(features.last_hidden_state, features.attention_mask)
    expected = encoder(**batch)
    assert_close(tokens.last_hidden_state, expected.last_hidden_state)
    assert torch.equal(tokens.attention_mask, expected.attention_mask)
    with error_texts(
        f"`visual_features` must have the shape (batch, features, {encoder.features_size}), got (2, 5, 3)"
    ):
        encoder.encode_features(torch.randn(2, 5, 3))


@every_encoder
def test_frozen_means_neither_weights_nor_buffers_change(name):
    encoder = ENCODERS[name]()
    encoder.freeze()
    before = state_of(encoder)
    output = encoder.train()(**clips(LENGTHS)).last_hidden_state
    assert not output.requires_grad and not any(module.training for module in encoder.modules())
    assert encoder.features_are_frozen and all(part.frozen for part in encoder.parts)
    assert_close(state_of(encoder), before, atol=0, rtol=0)


@every_encoder
def test_a_saved_encoder_gives_the_same(name, tmp_path):
    encoder = ENCODERS[name]()
    encoder.save_pretrained(tmp_path)
    batch = clips(LENGTHS)
    for loaded in (type(encoder).from_pretrained(tmp_path), load_sign_encoder(str(tmp_path), "")):
        assert_close(state_of(loaded), state_of(encoder), atol=0, rtol=0)
        assert_close(loaded(**batch).last_hidden_state, encoder(**batch).last_hidden_state, atol=0, rtol=0)


@every_encoder
def test_chunks_change_neither_outputs_nor_gradients(name):
    encoder = ENCODERS[name]().double()
    batch = {key: value.double() if value.is_floating_point() else value for key, value in clips(LENGTHS).items()}

    def gradients():
        encoder.zero_grad()
        encoder(**batch).last_hidden_state.square().sum().backward()
        return gradients_of(encoder)

    expected = gradients()
    encoder.frames_per_chunk = 4
    assert all(part.frames_per_chunk == 4 for part in encoder.parts) and encoder.frames_per_chunk == 4
    assert_gradients_close(gradients(), expected)


@every_encoder
@pytest.mark.slow
@needs_traceable_configurations
def test_inference_can_be_exported(name):
    encoder = ENCODERS[name]()
    batch = clips(LENGTHS)
    with torch.no_grad():
        expected = encoder(**batch)
        output = torch.export.export(encoder, (), batch).module()(**batch)
    assert_close(output.last_hidden_state, expected.last_hidden_state, atol=1e-4, rtol=1e-4)
    assert torch.equal(output.attention_mask, expected.attention_mask)


# ------------------------------------------------------------------------------------------ side by side


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"name": "vit"}, {"name": "videomae", "window_stride": 2}),
        ({"name": "videomae", "window_stride": 3}, {"name": "vit"}),
        ({"name": "videomae", "window_size": 2, "window_stride": 2}, {"name": "vjepa2", "window_stride": 5}),
        ({"name": "dinov2", "pooling": "patches"}, {"name": "timesformer", "window_stride": 4}),
    ],
)
def test_tokens_are_the_nearest_in_time(first, second):
    encoder = side_by_side(*(pretrained(**values) for values in (first, second)))
    spacings = [part.get_centre_and_spacing()[1] for part in encoder.parts]
    reference = encoder.parts[spacings.index(min(spacings))]
    assert encoder.get_centre_and_spacing() == reference.get_centre_and_spacing()
    batch = clips([7, 11, 1])
    output = encoder(**batch)
    hidden = output.last_hidden_state.split([part.config.hidden_size for part in encoder.parts], dim=2)
    for clip in range(3):
        num_tokens = int(output.attention_mask[clip].sum())
        for part, joined in zip(encoder.parts, hidden, strict=True):
            own = part(**batch)
            tokens = own.last_hidden_state[clip, own.attention_mask[clip].bool()]
            centre, spacing = part.get_centre_and_spacing()
            start, step = encoder.get_centre_and_spacing()
            for index in range(num_tokens):
                distances = [abs(centre + spacing * other - start - step * index) for other in range(len(tokens))]
                smallest = min(distances)
                nearest = next(other for other, each in enumerate(distances) if each < smallest + 1e-5)
                assert_close(joined[clip, index], tokens[nearest])
        assert not output.last_hidden_state[clip, num_tokens:].any()


def test_all_see_the_frames_of_the_first():
    configs = [pretrained("vit", **UNEVEN), pretrained("dinov2", **HALVES, scales=[1, 2]), pretrained("videomae")]
    config = SideBySideConfig(encoder_configs=configs)
    assert config.frame_settings == {"size": 64, **UNEVEN}
    assert [each.input_mean for each in config.encoder_configs] == [UNEVEN["image_mean"]] * 3
    assert config.encoder_configs[1].image_mean == HALVES["image_mean"]
    assert config.hidden_size == 24 + 48 + 24
    again = SideBySideConfig.from_dict(config.to_dict())
    assert again.to_dict() == config.to_dict() and again.encoder_configs[1].input_std == UNEVEN["image_std"]


def test_those_behind_a_temporal_module_see_them_too():
    inner = TemporalConfig(encoder_config=pretrained("dinov2", **HALVES))
    config = SideBySideConfig(encoder_configs=[pretrained("vit", **UNEVEN), inner])
    assert config.encoder_configs[1].encoder_config.input_mean == UNEVEN["image_mean"]


def test_several_names_give_one_encoder(tmp_path):
    for name in ("vit", "vjepa2"):
        save_vision_model(name, tmp_path / name)
    encoder = load_sign_encoder([str(tmp_path / "vit"), str(tmp_path / "vjepa2")], "")
    assert [part.pretrained_source["name"] for part in encoder.parts] == ["vit", "vjepa2"]
    assert encoder.config.encoder_configs[1].input_mean == HALVES["image_mean"]
    assert encoder.config.encoder_configs[1].image_mean == UNEVEN["image_mean"]
    assert not any(value.is_meta for value in encoder.state_dict().values())
    assert type(load_sign_encoder([str(tmp_path / "vit")], "").config) is PretrainedVisionConfig
    encoder.save_pretrained(tmp_path / "ours")
    again = load_sign_encoder(str(tmp_path / "ours"), "")
    batch = clips()
    assert_close(again(**batch).last_hidden_state, encoder(**batch).last_hidden_state)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_the_attention_implementation_stays(implementation, tmp_path):
    for name in ("vit", "videomae"):
        save_vision_model(name, tmp_path / name)
    names = [str(tmp_path / "vit"), str(tmp_path / "videomae")]
    encoder = load_sign_encoder(names, "", attn_implementation=implementation)
    encoder = put_in_front_of_time(encoder, projection_size=8)
    model = FLaLLMForTranslation.from_vision_text_pretrained(encoder, str(text_folder(tmp_path)))
    for part in model.vision_model.encoder.parts:
        assert part.backbone.config._attn_implementation == implementation


def test_side_by_side_needs_two_encoders_of_the_same_inputs():
    with error_texts("`encoder_configs` must be those of two or more sign encoders, got 1."):
        SideBySideConfig(encoder_configs=[pretrained("vit")])
    with error_texts(
        "Sign encoders side by side must take the same inputs, got `pixel_values_videos` and `visual_features`."
    ):
        side_by_side(pretrained("vit"), VisualFeaturesConfig(hidden_size=6))


# ------------------------------------------------------------------------------------------ in front of time


def test_the_rest_is_trained_while_the_encoder_is_frozen():
    encoder = in_front_of_time(pretrained("vit"), projection_size=16, temporal_blocks=["K5"])
    encoder.encoder.freeze()
    assert encoder.features_are_frozen and not encoder.frozen and encoder.features_encoder is encoder.encoder
    before = state_of(encoder.encoder)
    encoder.train()
    assert not encoder.encoder.training and encoder.temporal_module.training
    features = encoder.compute_features(**clips(LENGTHS))
    assert not features.last_hidden_state.requires_grad
    encoder(**clips(LENGTHS)).last_hidden_state.square().sum().backward()
    trained = gradients_of(encoder)
    assert {name.split(".")[0] for name in trained} == {"projection", "temporal_module"}
    assert all(gradient.any() for name, gradient in trained.items() if name.endswith("weight"))
    assert_close(state_of(encoder.encoder), before, atol=0, rtol=0)


def test_places_in_time_behind_the_temporal_module():
    frames = in_front_of_time(pretrained("vit"), temporal_blocks=["K5", "P2"])
    assert frames.get_centre_and_spacing() == (0.5, 2)
    windows = in_front_of_time(pretrained("videomae", window_stride=3), temporal_blocks=["K5", "P2"])
    assert windows.get_centre_and_spacing() == (1.5 + 0.5 * 3, 6)


def test_without_a_linear_layer_and_blocks_it_is_the_encoder():
    encoder = in_front_of_time(pretrained("vit"), temporal_blocks=[])
    batch = clips(LENGTHS)
    assert_close(encoder(**batch).last_hidden_state, encoder.encoder(**batch).last_hidden_state)


def test_a_clip_without_a_token_is_refused():
    encoder = in_front_of_time(pretrained("videomae"), temporal_blocks=["K5", "P2"], temporal_padding="none")
    with error_texts(
        "Clip 1 of the batch is too short: the encoder makes 1 features of it, of which `temporal_blocks`"
    ):
        encoder(**clips([20, 2]))
    with error_texts("`projection_size` must be 0 or more, got -1."):
        TemporalConfig(encoder_config=pretrained("vit"), projection_size=-1)


def test_a_temporal_module_can_be_put_behind_the_cnn_too():
    encoder = in_front_of_time(FLaLLMVisionConfig(backbone_width=8, hidden_size=24), projection_size=8)
    assert encoder(**clips(LENGTHS)).last_hidden_state.shape == (3, 9, 8)


# ------------------------------------------------------------------------------------------ in both systems


def text_folder(folder, kind: str = "t5"):
    AutoModelForSeq2SeqLM.from_config(tiny_text_config(kind)).save_pretrained(folder / "text")
    return folder / "text"


def model_of(system: str, encoder):
    """In evaluation mode, with large weights."""
    if system == "flallm":
        model = FLaLLMForTranslation(
            FLaLLMConfig(vision_config=encoder.config, text_config=tiny_text_config("mbart"), label_smoothing=0.0)
        )
    else:
        text = tiny_language_model_config("llama")
        model = LlavaSltForTranslation(
            LlavaSltConfig(vision_config=encoder.config, text_config=text, video_token_id=VIDEO_TOKEN)
        )
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    model.vision_model.load_state_dict(encoder.state_dict())
    return model.eval()


def batch_for(system: str, model, lengths=LENGTHS) -> dict[str, torch.Tensor]:
    batch = clips(lengths)
    if system == "flallm":
        return {**batch, "labels": torch.randint(4, 20, (len(lengths), 5))}
    numbers = [model.vision_model.get_num_tokens(length) for length in lengths]
    prompts = random_prompts(numbers, answer_lengths=[4] * len(lengths), stride=1)
    return {**batch, **{name: prompts[name] for name in ("input_ids", "attention_mask", "labels")}}


make_processor = {"flallm": make_flallm_processor, "llava_slt": make_llava_slt_processor}
every_system = pytest.mark.parametrize("system", ["flallm", "llava_slt"])


@every_system
@every_encoder
def test_it_trains_translates_and_loads(system, name, tmp_path):
    model = model_of(system, ENCODERS[name]())
    batch = batch_for(system, model)
    expected = model(**batch).logits
    written = model.generate(**batch, max_new_tokens=4)
    assert torch.equal(model.generate(**batch, max_new_tokens=4, use_cache=False), written)
    model.train()(**batch).loss.backward()
    assert gradients_of(model.vision_model)
    model.eval().save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert_close(loaded.eval()(**batch).logits, model(**batch).logits)
    assert expected.isfinite().all()
    empty = type(model).from_pretrained(tmp_path, device_map="meta")
    assert all(value.is_meta for value in empty.parameters())


@every_system
@every_encoder
def test_cached_features_give_the_same(system, name):
    model = model_of(system, ENCODERS[name]())
    batch = batch_for(system, model)
    text = {name: value for name, value in batch.items() if name not in model.vision_model.input_names}
    video = {name: batch[name] for name in model.vision_model.input_names}
    features = model.vision_model.compute_features(**video)
    text |= {"visual_features": features.last_hidden_state, "visual_attention_mask": features.attention_mask}
    assert_close(model(**text).loss, model(**batch).loss)
    assert torch.equal(model.generate(**text, max_new_tokens=5), model.generate(**batch, max_new_tokens=5))
    other = {**text, "visual_features": -features.last_hidden_state}
    assert not torch.allclose(model(**other).loss, model(**batch).loss)


def test_llava_slt_with_a_pretrained_frame_encoder(tmp_path):
    frames = in_front_of_time(pretrained("vit"), projection_size=24, temporal_blocks=["K5"])
    config = LlavaSltVisualConfig(
        frame_config=frames.config,
        word_hidden_size=16,
        word_attention_heads=4,
        word_feed_forward_size=24,
        word_window_size=4,
        dropout=0.0,
    )
    sizes = {"sentence_target_size": 12, "word_target_size": 10, "word_vocabulary_size": 9}
    model = LlavaSltForContrastivePreTraining(LlavaSltContrastiveConfig(vision_config=config, **sizes)).eval()
    model.vision_model.frame_encoder.encoder.freeze()
    batch = {
        **clips(LENGTHS),
        "sentence_embeddings": torch.randn(3, 12),
        "word_ids": torch.randint(0, 9, (3, 3)),
    }
    model.set_word_targets(torch.randn_like(model.word_targets))
    model.train()(**batch).loss.backward()
    trained = gradients_of(model.vision_model)
    assert not any(name.startswith("frame_encoder.encoder.") for name in trained)
    assert any(name.startswith("frame_encoder.temporal_module.") for name in trained)
    model.eval().save_pretrained(tmp_path / "model")
    encoder = load_sign_encoder(str(tmp_path / "model"), "")
    video = clips(LENGTHS)
    assert_close(encoder(**video).pooler_output, model.vision_model(**video).pooler_output)
    with error_texts("`frame_config` must be that of a sign encoder which gives one token per frame of a video, got"):
        LlavaSltForContrastivePreTraining(
            LlavaSltContrastiveConfig(vision_config={"frame_config": pretrained("videomae")})
        )


# ------------------------------------------------------------------------------------------ from a file to a sentence


@every_system
@every_encoder
def test_a_video_becomes_a_sentence_with_times(system, name):
    model = model_of(system, ENCODERS[name]())
    processor = make_processor[system]()
    if system == "llava_slt":
        processor.set_token_steps(model.vision_model.get_token_steps())
    translate = SignLanguageTranslationPipeline(model=model, processor=processor)
    videos = [random_video(24), random_video(14)]
    settings = {"return_timestamps": True, "return_attention": True, "max_new_tokens": 5, "min_new_tokens": 5}
    settings |= NO_SPECIAL_TOKENS
    for answer, video in zip(translate(videos, batch_size=2, **settings), videos, strict=True):
        alone = translate(video, **settings)
        assert answer["translation_text"] == alone["translation_text"] != ""
        num_frames = -(-len(video["video"]) // 2)  # of a sampling rate of 0.5
        num_tokens = model.vision_model.get_num_tokens(num_frames)
        assert answer["attention"].shape == (len(answer["words"]), num_tokens)
        centre, spacing = model.vision_model.get_centre_and_spacing()
        places = [min(max(centre + spacing * index, 0), num_frames - 1) for index in range(num_tokens)]
        times = torch.tensor(answer["token_times"]).float()
        assert len(times) == num_tokens and (times[1:] >= times[:-1]).all()
        assert_close(times, torch.tensor([(2 * place + 0.5) / 12 for place in places]), atol=1 / 12, rtol=0)
        for word in answer["words"]:
            assert 0 <= word["start"] <= word["peak"] <= word["end"] <= len(video["video"]) / 12


LOAD_WITHOUT_US = """
import sys
import torch
from transformers import AutoModelForImageTextToText, AutoModelForSeq2SeqLM

folder, auto_class = sys.argv[1:]
model = globals()[auto_class].from_pretrained(folder, trust_remote_code=True).eval()
torch.save(model(**torch.load(folder + "/batch.pt", weights_only=True)).logits, folder + "/logits.pt")
"""


@pytest.mark.slow
@every_system
def test_a_model_loads_without_our_package(system, tmp_path):
    model = model_of(system, ENCODERS["both"]())
    batch = batch_for(system, model)
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    torch.save(batch, folder / "batch.pt")
    auto_class = {"flallm": "AutoModelForSeq2SeqLM", "llava_slt": "AutoModelForImageTextToText"}[system]
    run_without_our_packages(LOAD_WITHOUT_US, str(folder), auto_class, folder=tmp_path)
    logits = torch.load(folder / "logits.pt", weights_only=True)
    assert_close(logits, model(**batch).logits.detach(), atol=1e-4, rtol=1e-4)


LOAD_ENCODER_WITHOUT_US = """
import sys
import torch
from transformers import AutoConfig, AutoModel

folder = sys.argv[1]
assert AutoConfig.from_pretrained(folder, trust_remote_code=True).hidden_size > 0
encoder = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
torch.save(encoder(**torch.load(folder + "/clips.pt", weights_only=True)).last_hidden_state, folder + "/hidden.pt")
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_of_others_loads_alone_without_our_package(name, tmp_path):
    encoder, inputs = ENCODERS[name]().eval(), video_of(random_batch([9, 12]))
    encoder.save_pretrained(tmp_path / "encoder")
    torch.save(inputs, tmp_path / "encoder" / "clips.pt")
    run_without_our_packages(LOAD_ENCODER_WITHOUT_US, str(tmp_path / "encoder"), folder=tmp_path)
    hidden = torch.load(tmp_path / "encoder" / "hidden.pt", weights_only=True)
    assert_close(hidden, encoder(**inputs).last_hidden_state.detach(), atol=1e-4, rtol=1e-4)
