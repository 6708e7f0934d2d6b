"""Left-handed signers: clips in a mirror, a glance at them, which hand it finds, and what the pipeline says of it."""

import math
import re

import pytest
import torch
from pose_sources import moving
from test_combined_encoders import ENCODERS
from test_pipeline import make_pipeline, random_clip
from test_pipeline_llava_slt import make_pipeline as make_prompted_pipeline
from test_pose_extractor import as_values
from test_translate_long import ready_piece
from tiny_models import (
    random_batch,
    random_pose_batch,
    random_prompts,
    tiny_config,
    tiny_described_config,
    tiny_diffslt,
    tiny_llava_slt,
    tiny_mmslt,
    tiny_model,
    tiny_pose_encoder,
    tiny_uni_sign,
    tiny_vision_model,
    tiny_visual_config,
    video_of,
)
from torch.testing import assert_close

from modeling_flallm import LlavaSltVisualEncoder
from modeling_flallm.configuration_features_slt import VisualFeaturesConfig
from modeling_flallm.encoder_combined_slt import TemporalEncoder
from modeling_flallm.encoder_features_slt import VisualFeaturesEncoder
from modeling_flallm.handedness_slt import direction_of_hands
from processing.hand_crops_slt import HandCrops, pad_hand_crops
from processing.pose_normalisation_slt import mirrored_poses, normalised_poses

LENGTHS = [12, 9]
FRAME_ENCODERS = {
    **ENCODERS,
    "frames": lambda: tiny_vision_model(),
    "words": lambda: LlavaSltVisualEncoder(tiny_visual_config()).eval(),
    "described": lambda: TemporalEncoder(tiny_described_config()).eval(),
}
MODELS = {
    "flallm": tiny_model,
    "llava_slt": tiny_llava_slt,
    "mmslt": tiny_mmslt,
    "uni_sign": tiny_uni_sign,
    "diffslt": tiny_diffslt,
}
every_model = pytest.mark.parametrize("system", MODELS)


def inputs_for(system: str) -> dict[str, torch.Tensor]:
    if system == "llava_slt":
        return random_prompts(LENGTHS)
    batch = random_batch(LENGTHS)
    if system == "uni_sign":
        batch = random_pose_batch(LENGTHS) | {"prompt_ids": torch.randint(4, 20, (2, 3))}
    return {name: values for name, values in batch.items() if name != "labels"}


def in_a_mirror(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    encoder = model.vision_model
    return inputs | encoder.mirrored({name: inputs[name] for name in encoder.input_names if name in inputs})


# ------------------------------------------------------------------------------------------ a mirror


@pytest.mark.parametrize("name", FRAME_ENCODERS)
def test_a_mirror_swaps_the_sides_of_each_picture(name):
    clip = video_of(random_batch(LENGTHS))
    mirrored = FRAME_ENCODERS[name]().mirrored(clip)
    assert torch.equal(mirrored["pixel_values_videos"], clip["pixel_values_videos"].flip(-1))
    assert torch.equal(mirrored["pixel_attention_mask"], clip["pixel_attention_mask"])


def test_mirrored_inputs_are_those_of_mirrored_poses():
    """What the model mirrors and what training mirrors is one thing."""
    scores = torch.rand(20, 133).where(torch.rand(20, 133) > 0.1, 0.0)
    poses = as_values(moving(20) * (scores.numpy() > 0)[..., None], scores.numpy())
    expected = normalised_poses(mirrored_poses(poses), 0.3)
    given = {"pose_values": normalised_poses(poses, 0.3)[None], "pose_attention_mask": torch.ones(1, 20)}
    mirrored = tiny_pose_encoder().mirrored(given)
    assert_close(mirrored["pose_values"][0], expected, atol=1e-5, rtol=0)
    assert not torch.allclose(expected, given["pose_values"][0], atol=1e-2)


def test_hand_crops_are_mirrored_with_the_poses():
    crops = HandCrops(
        torch.randint(0, 256, (2, 3, 3, 112, 112), dtype=torch.uint8),
        torch.tensor([[0, 4, 7], [2, 5, 8]]),
        torch.rand(2, 3, 21, 2),
    )
    encoder = tiny_pose_encoder()
    batch = random_pose_batch([9]) | pad_hand_crops([crops])
    mirrored = encoder.mirrored(batch)
    for name, values in pad_hand_crops([crops.mirrored()]).items():
        assert_close(mirrored[name], values)
    for name, values in encoder.mirrored(mirrored).items():
        assert_close(values, batch[name])


# ------------------------------------------------------------------------------------------ a glance


@pytest.mark.parametrize("name", FRAME_ENCODERS)
@torch.no_grad()
def test_a_glance_holds_the_middle_one_of_some_frames(name):
    encoder, clip = FRAME_ENCODERS[name](), video_of(random_batch(LENGTHS))
    assert_close(
        encoder.glance(1, **clip).last_hidden_state,
        encoder.compute_features(**clip).last_hidden_state,
        atol=1e-5,
        rtol=0,
    )
    at_a_glance = encoder.glance(4, **clip)
    assert at_a_glance.last_hidden_state.shape == encoder.compute_features(**clip).last_hidden_state.shape
    alone = encoder.glance(4, **{key: values[1:, : LENGTHS[1]] for key, values in clip.items()})
    length = alone.last_hidden_state.shape[1]
    assert_close(at_a_glance.last_hidden_state[1:, :length], alone.last_hidden_state, atol=1e-4, rtol=1e-4)
    assert not at_a_glance.last_hidden_state[1, length:].any()


@pytest.mark.parametrize("name", ["frames", "words"])
@torch.no_grad()
def test_what_is_held_is_what_a_clip_of_held_frames_gives(name):
    encoder, clip = FRAME_ENCODERS[name](), video_of(random_batch([11]))
    held = clip["pixel_values_videos"][:, [2, 2, 2, 2, 6, 6, 6, 6, 10, 10, 10]]
    expected = encoder.compute_features(pixel_values_videos=held)
    assert_close(encoder.glance(4, **clip).last_hidden_state, expected.last_hidden_state, atol=1e-5, rtol=0)


def test_a_glance_looks_at_one_of_eight_frames(monkeypatch):
    encoder, looked_at = tiny_vision_model(), []
    monkeypatch.setattr(
        encoder.backbone,
        "forward",
        lambda frames: looked_at.append(len(frames)) or frames.mean((2, 3)).repeat(1, 8)[:, :16],
    )
    encoder.backbone.num_features = 16
    monkeypatch.setattr(encoder, "_over_time", lambda features, lengths: features)
    encoder.glance(8, **video_of(random_batch([40, 17])))
    assert sum(looked_at) == 5 + 3


# ------------------------------------------------------------------------------------------ generate


@every_model
def test_generate_mirrors_all_some_or_no_clips(system):
    model, inputs = MODELS[system](), inputs_for(system)
    arguments = {"max_new_tokens": 6}
    mirrored = in_a_mirror(model, inputs)
    plain, other = model.generate(**inputs, **arguments), model.generate(**mirrored, **arguments)
    assert torch.equal(model.generate(**inputs, left_handed=False, **arguments), plain)
    assert torch.equal(model.generate(**inputs, left_handed=True, **arguments), other)
    mixed = {name: torch.stack([mirrored[name][0], inputs[name][1]]) for name in inputs}
    expected = model.generate(**mixed, **arguments)
    assert torch.equal(model.generate(**inputs, left_handed=torch.tensor([True, False]), **arguments), expected)


@every_model
@pytest.mark.parametrize("knows_direction", [False, True])
def test_the_surer_way_wins_or_the_one_that_looks_right(knows_direction, system):
    model, inputs = MODELS[system](), inputs_for(system)
    if knows_direction:
        model.config.handedness_direction = torch.randn(model.config.vision_config.hidden_size).tolist()
    margins = model.hand_margins(**inputs)
    assert margins.shape == (2,) and margins.abs().min() > 0
    assert_close(model.hand_margins(**in_a_mirror(model, inputs)), -margins, atol=1e-4, rtol=1e-3)
    expected = model.generate(**inputs, left_handed=margins > 0, max_new_tokens=6)
    assert torch.equal(model.generate(**inputs, left_handed="auto", max_new_tokens=6, num_beams=1), expected)


def test_the_margin_is_that_of_the_mean_log_probabilities():
    model, inputs = tiny_model(), inputs_for("flallm")
    model.generation_config.update(forced_eos_token_id=None)
    means = []
    for clip in (inputs, in_a_mirror(model, inputs)):
        output = model.generate(**clip, max_new_tokens=8, num_beams=1, return_dict_in_generate=True, output_scores=True)
        scores = model.compute_transition_scores(output.sequences, output.scores, normalize_logits=True)
        words = output.sequences[:, -scores.shape[1] :]
        are_ends = words == model.generation_config.eos_token_id
        ends = [row.nonzero()[0].item() + 1 if row.any() else len(row) for row in are_ends]
        means.append(torch.stack([row[:end].mean() for row, end in zip(scores, ends, strict=True)]))
    assert_close(model.hand_margins(**inputs), means[1] - means[0], atol=1e-4, rtol=1e-3)


def test_at_a_glance_the_margin_is_the_difference_along_the_direction(tmp_path):
    model, inputs = tiny_model(), inputs_for("flallm")
    direction = torch.randn(model.config.vision_config.hidden_size)
    model.config.handedness_direction = direction.tolist()
    means = []
    for clip in (inputs, in_a_mirror(model, inputs)):
        tokens = model.vision_model.tokens_at_a_glance(5, **clip)
        pairs = zip(tokens.last_hidden_state, tokens.attention_mask, strict=True)
        means.append([row[mask.bool()].mean(0) for row, mask in pairs])
    expected = (torch.stack(means[1]) - torch.stack(means[0])) @ direction
    assert_close(model.hand_margins(**inputs), expected, atol=1e-5, rtol=1e-4)
    model.save_pretrained(tmp_path)
    assert_close(type(model).from_pretrained(tmp_path).hand_margins(**inputs), expected, atol=1e-5, rtol=1e-4)


def test_the_direction_weighs_what_differs_in_every_clip():
    differences = torch.tensor([[-1.0, 4.0], [-1.0, -4.0], [-1.0, 2.0], [-1.0, -2.0]])
    assert_close(torch.tensor(direction_of_hands(differences)), torch.tensor([1.0, 0.0]))
    differences = torch.tensor([[-2.0, -1.0], [-2.0, -3.0]])  # variances 0 and 1, mean square 4.5
    expected = torch.tensor([2 / 4.5, 2 / 5.5])
    assert_close(torch.tensor(direction_of_hands(differences)), expected / expected.norm())
    assert torch.isfinite(torch.tensor(direction_of_hands(torch.randn(1, 5)))).all()


@pytest.mark.parametrize("direction", [[0.5], [math.nan] * 24])
def test_a_direction_that_is_none(direction):
    message = (
        "`handedness_direction` must be a list of 24 finite numbers, as many as `hidden_size` of the vision "
        f"configuration, got {len(direction)} values."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny_config(handedness_direction=direction)


def test_what_cannot_be_mirrored_is_refused():
    model, inputs = tiny_model(), inputs_for("flallm")
    with pytest.raises(ValueError, match=re.escape("`left_handed` must be True, False or \"auto\", got 'yes'.")):
        model.generate(**inputs, left_handed="yes")
    features = model.get_video_features(**inputs).last_hidden_state
    message = (
        "`left_handed` mirrors a clip, but these are features of one. Mirror the video before its features are "
        "extracted."
    )
    for given in ({"visual_features": features}, {"encoder_outputs": model.encode(**inputs)}):
        with pytest.raises(ValueError, match=re.escape(message)):
            model.generate(**given, left_handed=True)
    message = "this model reads ready-made visual features, which cannot be mirrored. Mirror the videos before they are"
    with pytest.raises(ValueError, match=re.escape(message)):
        VisualFeaturesEncoder(VisualFeaturesConfig(hidden_size=4)).mirrored({"visual_features": torch.zeros(1, 2, 4)})


# ------------------------------------------------------------------------------------------ the pipeline


def test_the_pipeline_mirrors_and_says_so():
    translator, clip = make_pipeline(), random_clip(30)
    plain = translator(clip, source_fps=10)
    assert "left_handed" not in plain
    of_mirror = translator(clip.flip(-1), source_fps=10)["translation_text"]
    answer = translator(clip, source_fps=10, left_handed=True, return_timestamps=True)
    assert answer.pop("left_handed") is True and answer["translation_text"] == of_mirror
    assert translator(clip, source_fps=10, left_handed="auto")["left_handed"] in (True, False)
    assert translator(clip, left_handed=False) == plain
    for words in answer["words"]:
        assert 0 <= words["start"] <= words["peak"] <= words["end"] <= 3
    with pytest.raises(ValueError, match=re.escape("`left_handed` must be True, False or \"auto\", got 'left'.")):
        translator(clip, left_handed="left")


@pytest.mark.parametrize("make", [make_pipeline, make_prompted_pipeline])
def test_auto_gives_each_clip_of_a_batch_the_answer_that_it_has_alone(make):
    translator = make()
    clips = [{"video": random_clip(length), "source_fps": 10.0} for length in (30, 18, 24)]
    together = translator(clips, batch_size=3, left_handed="auto")
    assert together == [translator(clip, left_handed="auto") for clip in clips]
    margins = [translator.hand_margins([translator.read_clip(**clip)])[0] for clip in clips]
    assert [answer["left_handed"] for answer in together] == [margin > 0 for margin in margins]


@pytest.mark.parametrize("is_left", [True, False])
def test_one_hand_for_a_whole_long_video(is_left, monkeypatch):
    translator = make_pipeline()
    pieces = [ready_piece(index, index + 1) for index in range(7)]
    margins = iter([0.5, -0.2, -0.2, 0.1, 0.1 if is_left else -0.4])
    monkeypatch.setattr(translator, "hand_margins", lambda clips, language=None: [next(margins)])
    answers = list(translator.translate_pieces(pieces, left_handed="auto"))
    assert [answer["left_handed"] for answer in answers] == [is_left] * 7
    assert [answer["start"] for answer in answers] == list(range(7))
    expected = [answer["translation_text"] for answer in translator.translate_pieces(pieces, left_handed=is_left)]
    assert [answer["translation_text"] for answer in answers] == expected
