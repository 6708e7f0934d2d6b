"""The configuration: derived values, rejected values, and the round trip through JSON."""

import json
import re

import pytest
from tiny_models import TEXT_MODELS, tiny_config, tiny_text_config
from transformers import AutoConfig, GPT2Config
from transformers.activations import ACT2FN

from modeling_flallm import FLaLLMConfig, FLaLLMVisionConfig, light_transformer_config
from modeling_flallm.calibration_slt import CALIBRATION_FILE


def test_light_transformer_starts_as_wide_as_its_width_asks():
    assert light_transformer_config().init_std == pytest.approx(512**-0.5)
    assert light_transformer_config(d_model=64).init_std == pytest.approx(0.125)
    assert light_transformer_config(init_std=0.02).init_std == 0.02


def test_light_transformer_takes_further_fields():
    config = light_transformer_config(vocab_size=77, dropout=0.3, decoder_start_token_id=5)
    assert (config.vocab_size, config.dropout, config.decoder_start_token_id) == (77, 0.3, 5)
    assert config.d_model == 512


@pytest.mark.parametrize(
    ("blocks", "stride"), [(["K5"], 1), (["K5", "P2", "K5", "P2"], 4), (["P3", "K1", "P2"], 6), ([], 1)]
)
def test_the_temporal_stride_is_the_product_of_the_poolings(blocks, stride):
    assert FLaLLMVisionConfig(temporal_blocks=blocks).temporal_stride == stride


@pytest.mark.parametrize("backbone", ["resnet101", "vgg11", ""])
def test_an_unknown_backbone_is_refused(backbone):
    message = f"`backbone` must be one of resnet18, resnet34, resnet50, got {backbone!r}."
    with pytest.raises(ValueError, match=re.escape(message)):
        FLaLLMVisionConfig(backbone=backbone)


@pytest.mark.parametrize("name", ["backbone_width", "hidden_size"])
@pytest.mark.parametrize("value", [0, -3])
def test_a_width_below_one_is_refused(name, value):
    with pytest.raises(ValueError, match=re.escape(f"`{name}` must be 1 or more, got {value}.")):
        FLaLLMVisionConfig(**{name: value})


@pytest.mark.parametrize("block", ["K4", "K0", "P0", "k5", "K", "5", "K5x", "P-2", "K05", ""])
def test_a_temporal_block_that_is_none_is_refused(block):
    message = (
        "`temporal_blocks` takes 'K' with an odd kernel size (convolution) and 'P' with a factor (pooling), "
        f"for example ['K5', 'P2'], got {block!r} in {['K5', block]}."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        FLaLLMVisionConfig(temporal_blocks=["K5", block])


@pytest.mark.parametrize(
    ("config_class", "name", "value"),
    [
        (FLaLLMVisionConfig, "temporal_padding", "reflect"),
        (FLaLLMVisionConfig, "temporal_norm", "group_norm"),
        (FLaLLMVisionConfig, "hidden_size", "512"),
        (FLaLLMVisionConfig, "temporal_blocks", "K5"),
        (FLaLLMConfig, "adapter_norm", "no"),
        (FLaLLMConfig, "label_smoothing", "0.2"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_by_name(config_class, name, value):
    with pytest.raises(Exception, match=re.escape(f"'{name}'")) as caught:
        config_class(**{name: value})
    assert str(value) in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"adapter_hidden_size": -1}, "`adapter_hidden_size` must be 0 or more, got -1."),
        ({"label_smoothing": 1.0}, "`label_smoothing` must be at least 0 and below 1, got 1.0."),
        ({"label_smoothing": -0.1}, "`label_smoothing` must be at least 0 and below 1, got -0.1."),
        ({"word_presence_loss_weight": -2}, "`word_presence_loss_weight` must be 0 or more, got -2."),
        ({"word_presence_loss_weight": float("nan")}, "`word_presence_loss_weight` must be 0 or more, got nan."),
        ({"word_presence_loss_weight": float("inf")}, "`word_presence_loss_weight` must be 0 or more, got inf."),
        (
            {"text_config": {"model_type": "mbart", "d_model": -4}},
            "`hidden_size` of the text configuration must be 1 or more, got -4.",
        ),
        (
            {"text_config": {"model_type": "t5", "vocab_size": 0}},
            "`vocab_size` of the text configuration must be 1 or more, got 0.",
        ),
        (
            {"text_config": {"model_type": "mbart", "attention_dropout": float("nan")}},
            "`attention_dropout` of the text configuration must be from 0 to 1, got nan.",
        ),
        ({"adapter_activation": "rleu"}, f"`adapter_activation` must be one of {sorted(ACT2FN)}, got 'rleu'."),
        (
            {"text_config": {"model_type": "mbert"}},
            "`text_config` must name a model type of transformers, got 'mbert'. Encoder-decoders such as 'mbart', "
            "'m2m_100', 'mt5', 't5' or 'bart' are known to work.",
        ),
        ({"vision_config": {"backbone": "alexnet"}}, "`backbone` must be one of resnet18, resnet34, resnet50"),
    ],
)
def test_a_value_out_of_range_is_refused(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        FLaLLMConfig(**values)


CURVE = {"slope": 4.5, "intercept": 1}
LOOK = {"mean_features": [0.5] * 24, "largest_distance": 0.2}


def test_a_model_is_not_calibrated_until_somebody_measures_it():
    assert FLaLLMConfig().confidence_calibration is None


@pytest.mark.parametrize(
    "more", [{}, {"lowest_score": -1.25}, {"highest_score": -0.1}, LOOK, {**LOOK, "lowest_score": -1.25}]
)
def test_a_calibration_is_saved_beside_config_json(more, tmp_path):
    config = tiny_config(confidence_calibration={**CURVE, **more})
    config.save_pretrained(tmp_path)
    texts = [(tmp_path / name).read_text(encoding="utf-8") for name in ("config.json", CALIBRATION_FILE)]
    assert json.loads(texts[1]) == config.confidence_calibration == {**CURVE, **more}
    assert "confidence_calibration" not in json.loads(texts[0])


def test_an_unusable_calibration_is_not_saved(tmp_path):
    config = tiny_config()
    config.confidence_calibration = {**CURVE, "slope": float("nan")}
    with pytest.raises(
        ValueError, match=re.escape("`slope` of `confidence_calibration` must be a number of 0 or more")
    ):
        config.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("config_class", [FLaLLMConfig, AutoConfig])
def test_a_calibration_of_an_earlier_version_is_read_from_config_json(config_class, tmp_path):
    tiny_config().save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**values, "confidence_calibration": {**CURVE, **LOOK}}))
    assert config_class.from_pretrained(tmp_path).confidence_calibration == {**CURVE, **LOOK}


@pytest.mark.parametrize(
    "calibration",
    [
        {},
        {"slope": 1.0},
        {"intercept": 1.0},
        {**CURVE, "temperature": 1.0},
        {**CURVE, "mean_features": [0.5] * 24},
        {**CURVE, "largest_distance": 0.2},
    ],
)
def test_a_calibration_with_missing_or_unknown_keys_is_refused(calibration):
    message = (
        "`confidence_calibration` must hold `slope` and `intercept`, and may hold `lowest_score`, `highest_score` "
        f"and, together, `mean_features` and `largest_distance`, got {sorted(calibration)}. Make it with "
        "flallm calibrate."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny_config(confidence_calibration=calibration)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"slope": -0.5}, "`slope` of `confidence_calibration` must be a number of 0 or more, got -0.5."),
        ({"slope": float("nan")}, "`slope` of `confidence_calibration` must be a number of 0 or more, got nan."),
        ({"intercept": float("inf")}, "`intercept` of `confidence_calibration` must be a number, got inf."),
        ({"intercept": "1"}, "`intercept` of `confidence_calibration` must be a number, got '1'."),
        ({"lowest_score": None}, "`lowest_score` of `confidence_calibration` must be a number, got None."),
        ({"highest_score": float("inf")}, "`highest_score` of `confidence_calibration` must be a number, got inf."),
        ({"lowest_score": True}, "`lowest_score` of `confidence_calibration` must be a number, got True."),
        (
            {**LOOK, "largest_distance": [0.2]},
            "`largest_distance` of `confidence_calibration` must be a number, got [0.2].",
        ),
    ],
)
def test_a_calibration_with_a_value_that_is_no_number_is_refused(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny_config(confidence_calibration={**CURVE, **values})


@pytest.mark.parametrize(
    ("features", "got"),
    [
        ([0.5] * 23, "23 values, 23 of them finite numbers"),
        ([0.5] * 23 + [float("nan")], "24 values, 23 of them finite numbers"),
        (0.5, "0.5"),
        ("x" * 24, repr("x" * 24)),
    ],
)
def test_a_mean_look_of_the_wrong_width_or_kind_is_refused(features, got):
    message = (
        "`mean_features` of `confidence_calibration` must be a list of 24 numbers, as many as `hidden_size` of the "
        f"vision configuration, got {got}."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny_config(confidence_calibration={**CURVE, **LOOK, "mean_features": features})


@pytest.mark.parametrize("text_config", [{"model_type": "gpt2"}, GPT2Config(), {"model_type": "bert"}])
def test_a_text_model_that_is_no_encoder_decoder_is_refused(text_config):
    model_type = text_config["model_type"] if isinstance(text_config, dict) else text_config.model_type
    message = (
        "The text model of FLa-LLM must be an encoder-decoder (mBART, NLLB/M2M100, mT5/T5, BART, ...), got model type "
        f"{model_type!r}, which is not one."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        FLaLLMConfig(text_config=text_config)


def test_a_text_configuration_is_mbart_unless_it_says_otherwise():
    values = {"d_model": 32, "vocab_size": 50}
    config = FLaLLMConfig(text_config=values)
    assert config.text_config.model_type == "mbart"
    assert (config.text_config.d_model, config.text_config.vocab_size) == (32, 50)
    assert values == {"d_model": 32, "vocab_size": 50}


@pytest.mark.parametrize("text", TEXT_MODELS)
def test_it_goes_to_json_and_back(text, tmp_path):
    vision = {"temporal_blocks": ["K3", "P2"], "temporal_padding": "replicate", "temporal_norm": "layer_norm"}
    config = tiny_config(text, vision, label_smoothing=0, adapter_norm=True, word_presence_loss_weight=10)
    config.save_pretrained(tmp_path)
    for loaded in (FLaLLMConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is FLaLLMConfig
        assert type(loaded.vision_config) is FLaLLMVisionConfig
        assert type(loaded.text_config) is type(tiny_text_config(text))
        assert json.loads(loaded.to_json_string()) == json.loads(config.to_json_string())


def test_the_defaults_go_to_json_and_back(tmp_path):
    config = FLaLLMConfig()
    config.save_pretrained(tmp_path)
    assert json.loads(FLaLLMConfig.from_pretrained(tmp_path).to_json_string()) == json.loads(config.to_json_string())


def test_the_vision_configuration_alone_goes_to_json_and_back(tmp_path):
    config = FLaLLMVisionConfig(backbone="resnet50", temporal_blocks=("K5", "P2"))
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is FLaLLMVisionConfig
    assert (loaded.backbone, list(loaded.temporal_blocks)) == ("resnet50", ["K5", "P2"])


def test_a_field_of_a_saved_part_can_be_overridden(tmp_path):
    tiny_config("t5").save_pretrained(tmp_path)
    loaded = FLaLLMConfig.from_pretrained(tmp_path, text_config={"dropout_rate": 0.3}, label_smoothing=0.1)
    assert (loaded.text_config.dropout_rate, loaded.label_smoothing) == (0.3, 0.1)
    assert loaded.text_config.d_model == tiny_config("t5").text_config.d_model
