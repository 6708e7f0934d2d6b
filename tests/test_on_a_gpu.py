"""What only a GPU can show: every test is skipped without one. Whatever runs on a CPU, too, is tested elsewhere."""

import math

import pytest
import torch
from signing_pictures import signing
from test_quantization import folder, linear_layers_of_text_model  # noqa: F401, the fixture
from test_streaming_translation import PLAN, at_25, finals, said
from tiny_corpus import load, stage1_flags, stage2_flags, trained_llava_slt, trained_model, tuning_flags
from tiny_models import (
    random_batch,
    random_pose_batch,
    random_prompts,
    tiny_diffslt,
    tiny_llava_slt,
    tiny_mmslt,
    tiny_model,
    tiny_uni_sign,
    video_of,
)
from transformers import CLIPVisionConfig, Dinov2Config, ResNetConfig, SwinConfig, VideoMAEConfig, ViTConfig
from video_files import counting_frames, write_video

from modeling_flallm import (
    FLaLLMForTranslation,
    PretrainedVisionConfig,
    PretrainedVisionEncoder,
    SideBySideConfig,
    SideBySideEncoder,
    SignLanguageTranslationPipeline,
    TemporalConfig,
    TemporalEncoder,
)
from train_scripts.runs.quantization import load_to_translate
from train_scripts.stages import llm_fine_tuning, visual_initialing, visual_language_tuning

pytestmark = [pytest.mark.gpu, pytest.mark.slow]
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
BACKBONES = {
    "vit": ViTConfig(**SMALL, intermediate_size=64),
    "dinov2": Dinov2Config(**SMALL),
    "clip": CLIPVisionConfig(**SMALL, intermediate_size=64),
    "swin": SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4),
    "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1]),
    "videomae": VideoMAEConfig(**SMALL, intermediate_size=64, num_frames=4),
}
LENGTHS = [9, 6, 12]
SYSTEMS = {
    "llava_slt": lambda: (tiny_llava_slt(), random_prompts(LENGTHS)),
    "uni_sign": lambda: (tiny_uni_sign(has_prompt=False), random_pose_batch(LENGTHS)),
    "mmslt": lambda: (tiny_mmslt(), random_batch(LENGTHS)),
    "diffslt": lambda: (tiny_diffslt(), random_batch(LENGTHS)),
}


@pytest.fixture(autouse=True)
def exact_products(monkeypatch):
    """Without TensorFloat-32, whose products have ten bits, a GPU and a CPU can be compared."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


def pretrained(name: str) -> PretrainedVisionConfig:
    return PretrainedVisionConfig(backbone_config=BACKBONES[name].to_dict(), image_size=32)


def encoders() -> dict[str, torch.nn.Module]:
    both = SideBySideConfig(encoder_configs=[pretrained("vit"), pretrained("videomae")])
    in_time = TemporalConfig(encoder_config=pretrained("clip"), projection_size=16, temporal_blocks=["K5", "P2"])
    single = {name: PretrainedVisionEncoder(pretrained(name)) for name in BACKBONES}
    return {**single, "side by side": SideBySideEncoder(both), "temporal": TemporalEncoder(in_time)}


@pytest.mark.parametrize("name", [*BACKBONES, "side by side", "temporal"])
def test_an_encoder_computes_what_it_computes_on_a_cpu(name):
    encoder, clips = encoders()[name].eval(), video_of(random_batch(LENGTHS))
    expected = encoder(**clips)
    output = encoder.cuda()(**{name: value.cuda() for name, value in clips.items()})
    assert output.last_hidden_state.is_cuda
    assert output.attention_mask.tolist() == expected.attention_mask.tolist()
    torch.testing.assert_close(output.last_hidden_state.cpu(), expected.last_hidden_state, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("frames_per_chunk", [None, 4])
@pytest.mark.parametrize("name", ["vit", "videomae", "temporal"])
def test_gradients_of_an_encoder_are_those_of_a_cpu(name, frames_per_chunk):
    encoder, clips = encoders()[name].eval(), video_of(random_batch(LENGTHS))
    encoder(**clips).last_hidden_state.square().sum().backward()
    expected = {name: value.grad.clone() for name, value in encoder.named_parameters() if value.grad is not None}
    encoder.zero_grad()
    encoder.cuda().frames_per_chunk = frames_per_chunk
    encoder(**{name: value.cuda() for name, value in clips.items()}).last_hidden_state.square().sum().backward()
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(encoder.get_parameter(name).grad.cpu(), gradient, atol=1e-4 * largest, rtol=1e-2)


@pytest.mark.parametrize("text", ["mbart", "t5"])
def test_flallm_writes_the_same_as_on_a_cpu(text):
    model, batch = tiny_model(text).eval(), random_batch(LENGTHS)
    clips = {name: value for name, value in batch.items() if name.startswith("pixel")}
    loss, sentences = model(**batch).loss.item(), model.generate(**clips, num_beams=3, max_new_tokens=6)
    batch, clips = ({name: value.cuda() for name, value in each.items()} for each in (batch, clips))
    model.cuda()
    assert model(**batch).loss.item() == pytest.approx(loss, abs=1e-3)
    assert model.generate(**clips, num_beams=3, max_new_tokens=6).tolist() == sentences.tolist()


@pytest.mark.parametrize("system", SYSTEMS)
def test_other_systems_write_the_same_as_on_a_cpu(system):
    if system == "diffslt":
        pytest.importorskip("diffusers")
    model, inputs = SYSTEMS[system]()
    inputs.pop("labels", None)

    def written() -> list[list[int]]:
        torch.manual_seed(0)  # a diffusion begins with noise, which is drawn on the CPU
        on_device = {name: value.to(model.device) for name, value in inputs.items()}
        return model.generate(**on_device, num_beams=1 if system == "diffslt" else 3, max_new_tokens=6).tolist()

    expected = written()
    model.cuda()
    assert written() == expected


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_a_language_model_in_fewer_bits_stays_near_the_whole_one(quantization, folder):  # noqa: F811
    pytest.importorskip("bitsandbytes")
    clip = torch.randn(2, 9, 24, device="cuda")
    whole, _ = load_to_translate(str(folder), torch.device("cuda"), "float16", None)
    model, _ = load_to_translate(str(folder), torch.device("cuda"), "float16", quantization)
    smaller = model.text_model.get_memory_footprint() / whole.text_model.get_memory_footprint()
    assert smaller < 0.9 and len(linear_layers_of_text_model(whole)) > 10
    labels = torch.randint(4, 40, (2, 5), device="cuda")
    logits, expected = (each(visual_features=clip.half(), labels=labels).logits.float() for each in (model, whole))
    assert 0 < (logits - expected).norm() < 0.3 * expected.norm()
    assert model.generate(visual_features=clip.half(), max_new_tokens=6).is_cuda


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_stream_on_a_gpu_says_what_a_call_says(dtype):
    model, processor = load(trained_model())
    translator = SignLanguageTranslationPipeline(model=model.to(dtype), processor=processor, device="cuda")
    frames = signing(PLAN)
    answers = finals(translator.translate_stream(at_25(frames), num_beams=2))
    assert len(answers) == 3
    for answer in answers:
        assert answer["translation_text"] == said(translator, frames, answer, num_beams=2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_compute_in_the_precision_of_their_weights(dtype):
    model = tiny_model().eval().to("cuda", dtype)
    batch = {name: value.cuda() for name, value in random_batch(LENGTHS).items()}
    output = model(**batch)
    assert output.logits.dtype == dtype and output.loss.isfinite()
    assert tiny_llava_slt("llama").to("cuda", dtype).dtype == dtype


def test_a_model_is_loaded_onto_a_gpu_by_itself(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    model = FLaLLMForTranslation.from_pretrained(tmp_path, device_map="auto", dtype=torch.bfloat16)
    assert {parameter.device.type for parameter in model.parameters()} == {"cuda"}
    clips = video_of(random_batch(LENGTHS))
    clips = {name: value.cuda() for name, value in clips.items()}
    assert len(model.generate(**clips, max_new_tokens=4)) == len(LENGTHS)


def test_the_pipeline_translates_on_a_gpu(tmp_path):
    path = str(write_video(tmp_path / "clip.mp4", counting_frames(40)))
    model, processor = load(trained_model())
    expected = SignLanguageTranslationPipeline(model=model, processor=processor)(path)
    on_gpu = SignLanguageTranslationPipeline(model=model, processor=processor, device="cuda")
    assert on_gpu.device.type == "cuda" and on_gpu(path) == expected
    assert len(on_gpu([path, path, path], batch_size=2)) == 3


@pytest.mark.parametrize("precision", [{"bf16": True}, {"fp16": True}, {"bf16": False}])
@pytest.mark.parametrize("preprocess_on_device", [False, True])
def test_stage_1_trains_on_a_gpu(tmp_path, precision, preprocess_on_device):
    argv = stage1_flags(tmp_path, max_steps=2, preprocess_on_device=preprocess_on_device, **precision)
    assert math.isfinite(visual_initialing.train(argv)["eval_loss"])


@pytest.mark.parametrize("cache_features", [False, True])
def test_stage_2_trains_on_a_gpu(tmp_path, cache_features):
    cache = {"cache_features": True, "feature_cache_dir": tmp_path / "cache"} if cache_features else {}
    assert math.isfinite(
        llm_fine_tuning.train(stage2_flags(tmp_path / "run", max_steps=2, lora=True, **cache))["eval_loss"]
    )


def test_the_connector_of_llava_slt_trains_on_a_gpu(tmp_path):
    assert trained_llava_slt().is_dir()
    argv = tuning_flags(tmp_path, max_steps=2, dataloader_num_workers=2)
    assert math.isfinite(visual_language_tuning.train(argv)["eval_loss"])
