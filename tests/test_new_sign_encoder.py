"""A sign encoder that the models do not know works in both systems once it is registered."""

import pytest
import torch
from tiny_models import (
    VIDEO_TOKEN,
    error_texts,
    random_batch,
    random_prompts,
    state_of,
    tiny_config,
    tiny_contrastive_model,
    tiny_language_model_config,
    tiny_llava_slt,
    tiny_model,
    tiny_text_config,
)
from torch import nn
from torch.testing import assert_close
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BertConfig,
    PreTrainedConfig,
)

from modeling_flallm import (
    FLaLLMConfig,
    FLaLLMForTranslation,
    LlavaSltConfig,
    LlavaSltForContrastivePreTraining,
    LlavaSltForTranslation,
    SignEncoder,
    SignEncoderOutput,
)
from modeling_flallm.configuration_llava_slt import LlavaSltContrastiveConfig
from modeling_flallm.sign_encoder_slt import checked_mask


class PointConfig(PreTrainedConfig):
    model_type = "points_of_a_test"
    base_config_key = "vision_config"
    hidden_size: int = 6
    num_points: int = 3


class PointEncoder(SignEncoder):
    """One token for every pose, and its own loss."""

    config_class = PointConfig
    input_names = ("pose_values", "pose_attention_mask")
    main_input_name = "pose_values"

    def __init__(self, config: PointConfig):
        super().__init__(config)
        self.layer = nn.Linear(config.num_points, config.hidden_size)
        self.post_init()

    def get_centre_and_spacing(self):
        return 0, 1

    def forward(self, pose_values, pose_attention_mask=None):
        mask = checked_mask(pose_attention_mask, pose_values, "pose_attention_mask", "(batch, poses)")
        hidden = self.layer(pose_values) * mask[..., None]
        losses = {"size": hidden.square().mean(), "sign": hidden.abs().mean()} if self.training else None
        return SignEncoderOutput(last_hidden_state=hidden, attention_mask=mask.long(), losses=losses)


AutoConfig.register(PointConfig.model_type, PointConfig, exist_ok=True)
AutoModel.register(PointConfig, PointEncoder, exist_ok=True)

POSES = ("pose_values", "pose_attention_mask")


def poses(lengths: list[int]) -> dict[str, torch.Tensor]:
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    return {"pose_values": torch.randn(len(lengths), max(lengths), 3), "pose_attention_mask": mask.long()}


def with_poses(system: str) -> tuple[FLaLLMForTranslation | LlavaSltForTranslation, dict[str, torch.Tensor]]:
    """A model in evaluation mode and a batch with labels for it."""
    if system == "flallm":
        model = FLaLLMForTranslation(FLaLLMConfig(vision_config=PointConfig(), text_config=tiny_text_config("mbart")))
        return model.eval(), {"labels": random_batch([5, 3])["labels"], **poses([5, 3])}
    config = LlavaSltConfig(
        vision_config=PointConfig(), text_config=tiny_language_model_config("llama"), video_token_id=VIDEO_TOKEN
    )
    prompts = random_prompts([5, 3], answer_lengths=[4, 2], stride=1)
    prompts = {name: prompts[name] for name in ("input_ids", "attention_mask", "labels")}
    return LlavaSltForTranslation(config).eval(), {**prompts, **poses([5, 3])}


every_system = pytest.mark.parametrize("system", ["flallm", "llava_slt"])


@every_system
def test_it_trains_translates_and_loads(system, tmp_path):
    model, batch = with_poses(system)
    before = state_of(model.vision_model)
    model.train()(**batch).loss.backward()
    assert model.vision_model.layer.weight.grad.abs().sum() > 0
    assert_close(state_of(model.eval().vision_model), before)
    written = model.generate(**batch, max_new_tokens=4)
    assert torch.equal(model.generate(**batch, max_new_tokens=4, use_cache=False), written)
    tokens = model.vision_model(**{name: batch[name] for name in POSES})
    text = {name: value for name, value in batch.items() if name not in POSES}
    features = {"visual_features": tokens.last_hidden_state, "visual_attention_mask": tokens.attention_mask}
    assert_close(model(**text, **features).logits, model(**batch).logits)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert type(loaded.vision_model) is PointEncoder
    assert_close(loaded(**batch).logits, model(**batch).logits)


@every_system
def test_its_losses_are_added_and_do_not_depend_on_how_a_batch_is_split(system):
    model, batch = with_poses(system)
    model.config.label_smoothing = 0.0
    expected = model(**batch).loss
    loss = model.train()(**batch).loss
    losses = model.vision_model(**{name: batch[name] for name in POSES}).losses
    assert_close(loss, expected + losses["size"] + losses["sign"])
    num_labels = (batch["labels"] != -100).sum()
    assert_close(model(**batch, num_items_in_batch=2 * num_labels).loss, loss / 2)
    model.freeze_visual_encoder()
    assert model.vision_model(**{name: batch[name] for name in POSES}).losses is None


@every_system
def test_other_inputs_than_its_own_are_refused(system):
    model, batch = with_poses(system)
    pixels = torch.randn(2, 5, 3, 32, 32)
    expected = (
        "The sign encoder of this model, PointEncoder, takes `pose_values` and `pose_attention_mask`, got "
        "`pixel_values_videos`."
    )
    for call in (model, model.generate):
        with error_texts(expected):
            call(**batch, pixel_values_videos=pixels)
        with error_texts("Pass exactly one of `pose_values`"):
            call(**{name: value for name, value in batch.items() if name not in POSES})
        with error_texts("Pass exactly one of `pose_values`"):
            call(**batch, visual_features=torch.randn(2, 5, 6))


@every_system
def test_it_is_put_together_from_the_encoder_or_its_folder(system, tmp_path):
    if system == "flallm":
        text = AutoModelForSeq2SeqLM.from_config(tiny_text_config("t5"))
        build = FLaLLMForTranslation.from_vision_text_pretrained
    else:
        text = AutoModelForCausalLM.from_config(tiny_language_model_config("gpt2"))

        def build(*parts):
            return LlavaSltForTranslation.from_vision_text_pretrained(*parts, video_token_id=VIDEO_TOKEN)

    text.save_pretrained(tmp_path / "text")
    encoder = PointEncoder(PointConfig(hidden_size=7))
    encoder.save_pretrained(tmp_path / "encoder")
    for vision in (encoder, str(tmp_path / "encoder")):
        model = build(vision, str(tmp_path / "text"))
        assert_close(state_of(model.vision_model), state_of(encoder), atol=0, rtol=0)
        assert model.get_adapter().first.in_features == 7
        assert (model.vision_model is encoder) == (vision is encoder)
    model.save_pretrained(tmp_path / "whole")
    assert type(build(str(tmp_path / "whole"), str(tmp_path / "text")).vision_model) is PointEncoder
    assert_close(state_of(PointEncoder.from_pretrained(tmp_path / "whole")), state_of(encoder), atol=0, rtol=0)


def test_options_of_a_part_go_to_its_from_pretrained(tmp_path):
    encoder = PointEncoder(PointConfig())
    AutoModelForSeq2SeqLM.from_config(tiny_text_config("t5")).save_pretrained(tmp_path / "text")
    model = FLaLLMForTranslation.from_vision_text_pretrained(
        encoder, str(tmp_path / "text"), text_dtype=torch.bfloat16, text_attn_implementation="eager"
    )
    assert model.text_model.dtype == model.adapter.first.weight.dtype == torch.bfloat16
    assert model.vision_model.dtype == torch.float32
    assert model.config.text_config._attn_implementation == "eager"


@every_system
def test_the_model_starts_from_the_encoder_of_the_other_system(system, tmp_path):
    """A sign encoder works whichever system trained it."""
    source = tiny_contrastive_model() if system == "flallm" else tiny_model()
    source.save_pretrained(tmp_path / "vision")
    if system == "flallm":
        AutoModelForSeq2SeqLM.from_config(tiny_text_config("mbart")).save_pretrained(tmp_path / "text")
        model = FLaLLMForTranslation.from_vision_text_pretrained(str(tmp_path / "vision"), str(tmp_path / "text"))
        assert model(**random_batch([6, 5])).loss.isfinite()
    else:
        AutoModelForCausalLM.from_config(tiny_language_model_config("llama")).save_pretrained(tmp_path / "text")
        model = LlavaSltForTranslation.from_vision_text_pretrained(
            str(tmp_path / "vision"), str(tmp_path / "text"), VIDEO_TOKEN
        )
        assert model(**random_prompts([6, 5], [3, 3], stride=1)).loss.isfinite()
    assert_close(state_of(model.vision_model), state_of(source.vision_model), atol=0, rtol=0)


def test_contrastive_pretraining_needs_a_vector_of_the_clip():
    model = LlavaSltForContrastivePreTraining(LlavaSltContrastiveConfig(vision_config=PointConfig()))
    with error_texts(
        "Contrastive pretraining needs a sign encoder with a `pooler_output`, one vector for the whole clip, but "
        "PointEncoder gives none. Use `LlavaSltVisualEncoder`."
    ):
        model(**poses([4, 3]))


@pytest.mark.parametrize(
    ("vision_config", "got"),
    [
        ({"model_type": "nothing"}, "got model type 'nothing', which is not registered. Known: ["),
        ({"model_type": "bert"}, "got model type 'bert', whose model BertModel is not a `SignEncoder`. Known: ["),
        (BertConfig(), "got model type 'bert', whose model BertModel is not a `SignEncoder`. Known: ["),
    ],
    ids=["unknown", "values of another model", "configuration of another model"],
)
def test_other_vision_configurations_are_refused(vision_config, got):
    for build in (
        lambda: FLaLLMConfig(vision_config=vision_config),
        lambda: LlavaSltConfig(
            vision_config=vision_config, text_config=tiny_language_model_config("llama"), video_token_id=1
        ),
        lambda: LlavaSltContrastiveConfig(vision_config=vision_config),
    ):
        with error_texts("`vision_config` must be that of a sign encoder, " + got):
            build()


def test_values_without_a_model_type_are_those_of_the_usual_encoder():
    assert FLaLLMConfig(vision_config={"hidden_size": 8}).vision_config.model_type == "flallm_vision"
    config = LlavaSltContrastiveConfig(vision_config={"word_hidden_size": 8})
    assert config.vision_config.model_type == "llava_slt_visual"
    assert FLaLLMConfig(vision_config={"model_type": "llava_slt_visual"}).vision_config.hidden_size == 512


@pytest.mark.parametrize(
    ("model", "is_prompted", "text_model", "adapter"),
    [(tiny_model, False, "text_model", "adapter"), (tiny_llava_slt, True, "language_model", "connector")],
)
def test_facts_of_a_model_are_on_its_class(model, is_prompted, text_model, adapter):
    model = model()
    assert type(model).is_prompted is is_prompted
    assert model.get_text_model() is getattr(model, text_model) and model.get_adapter() is getattr(model, adapter)
    assert model.get_lora_settings()["modules_to_save"] == [adapter, "vision_model"]
    model.freeze_visual_encoder()
    assert model.get_lora_settings()["modules_to_save"] == [adapter]
    with_head = tiny_config(word_presence_loss_weight=1.0)
    assert "word_presence_head" in FLaLLMForTranslation(with_head).get_lora_settings()["modules_to_save"]
