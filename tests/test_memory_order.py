"""
The order in which the CNN has its frames and weights in memory: by channels, but for a narrow CNN by rows.

torch's convolutions of fewer than eight channels write beyond their memory in the backward pass if it is by channels,
and give wrong gradients, on processors without AVX-512. What could crash therefore runs in processes of its own.
"""

import copy
import json
import os
import subprocess
import sys

import pytest
import torch
from test_machine import AVX2_ALONE, REPOSITORY
from tiny_corpus import WITHOUT_EVALUATION, stage1_flags, trained_model
from tiny_models import tiny_llava_slt, tiny_model, tiny_vision_model
from torch import nn

from modeling_flallm import FLaLLMVisionModel
from train_scripts.arguments.training_arguments import FLaLLMTrainingArguments
from train_scripts.runs.quantization import load_to_translate
from train_scripts.runs.trained_models import load_trained
from train_scripts.runs.training import prepare_visual_encoder

NARROW, WIDE = (1, 2, 4, 7), (8, 12, 16)
ORDERS = {True: torch.channels_last, False: torch.contiguous_format}
WIDTHS_ON_AVX2 = (2, 4, 8, 16)
NUMBERS_OF_THREADS = (1, 2)  # one after the other in the same process, as importing takes longer than the rest
TRAIN_EACH = """
import json, sys
from train_scripts.stages import visual_initialing
for argv in json.loads(sys.argv[1]):
    assert visual_initialing.main(argv) == 0
"""
# Of gradients, relative to their norm; BatchNorm with the statistics of the batch amplifies rounding.
TOLERANCES = {"evaluation": 1e-4, "training": 5e-4}
every_width = pytest.mark.parametrize("width", (*NARROW, *WIDE))


def assert_order(vision_model: nn.Module, width: int) -> None:
    """Of the weights, and of what reaches each convolution when frames run through them."""
    expected, other = ORDERS[width >= WIDE[0]], ORDERS[width < WIDE[0]]
    backbone = vision_model.backbone
    assert backbone.conv1.out_channels == width and backbone.memory_format == expected
    weights = [parameter for parameter in backbone.parameters() if parameter.ndim == 4]
    assert len(weights) > 10 and all(weight.is_contiguous(memory_format=expected) for weight in weights)
    assert not backbone.conv1.weight.is_contiguous(memory_format=other)
    inputs: list[torch.Tensor] = []
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0]))
    pixels = torch.randn(2, 16, 3, 32, 32, dtype=backbone.conv1.weight.dtype)
    vision_model(pixels)
    assert len(inputs) >= len(weights) and all(each.is_contiguous(memory_format=expected) for each in inputs)
    assert not inputs[0].is_contiguous(memory_format=other)


@every_width
def test_a_narrow_backbone_keeps_its_weights_and_frames_by_rows(width):
    model = tiny_vision_model(backbone_width=width)
    model.backbone.choose_memory_format()
    assert_order(model, width)


@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("kind", ["FLa-LLM", "LLaVA-SLT"])
def test_a_training_prepares_the_visual_encoder_in_its_order(kind, width, tmp_path):
    frames = {"backbone_width": width}
    if kind == "FLa-LLM":
        model = tiny_model(vision=frames)
    else:
        model = tiny_llava_slt(vision={"frame_config": tiny_vision_model(**frames).config})
    prepare_visual_encoder(model, FLaLLMTrainingArguments(output_dir=str(tmp_path), use_cpu=True))
    assert_order(model.vision_model, width)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("width", [4, 8])
def test_a_model_is_loaded_to_translate_in_its_order(width, dtype, tmp_path):
    model, processor = load_trained(str(trained_model()))
    model.config.vision_config.backbone_width = width
    type(model)(model.config).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, _ = load_to_translate(str(tmp_path), torch.device("cpu"), dtype)
    assert_order(loaded.vision_model, width)


# ------------------------------------------------------------------------------------------ gradients


def smooth(model: FLaLLMVisionModel) -> FLaLLMVisionModel:
    """Without kinks, where rounding may decide the side."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.GELU())
    model.backbone.maxpool = nn.AvgPool2d(3, 2, 1)
    return model


def gradients_of_backbone(
    model: FLaLLMVisionModel, pixels: torch.Tensor, weights: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Of the weighted sum of the features of all frames."""
    features = model._encode_frames(pixels, torch.ones(pixels.shape[:2], dtype=torch.bool))
    (features * weights).sum().backward()
    return {name: parameter.grad for name, parameter in model.backbone.named_parameters()}


def largest_error_of_gradients(width: int, mode: str) -> float:
    """Of the norms of the gradients, against those in double precision by rows, which other code of torch computes."""
    model = smooth(tiny_vision_model(backbone_width=width)).train(mode == "training")
    plain = copy.deepcopy(model).double()
    plain.backbone.memory_format = torch.contiguous_format
    model.backbone.choose_memory_format()
    pixels, weights = torch.randn(3, 12, 3, 32, 32), torch.randn(36, model.backbone.num_features)
    gradients = gradients_of_backbone(model, pixels, weights)
    expected = gradients_of_backbone(plain, pixels.double(), weights.double())
    return max(((gradients[name] - each).norm() / each.norm()).item() for name, each in expected.items())


@pytest.mark.parametrize("mode", TOLERANCES)
@pytest.mark.parametrize("width", [8, 16])
def test_gradients_of_a_wide_backbone_are_those_by_rows(width, mode):
    assert largest_error_of_gradients(width, mode) < TOLERANCES[mode]


def run_on_avx2(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Python with these arguments, told that the processor has no AVX-512."""
    environment = {**os.environ, **AVX2_ALONE, "OMP_NUM_THREADS": str(max(NUMBERS_OF_THREADS))}
    environment["OMP_WAIT_POLICY"] = "PASSIVE"  # waiting threads leave their core to other tests
    environment["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_gradients_on_a_processor_without_avx512(seed):
    finished = run_on_avx2([__file__, str(seed)])
    assert finished.returncode == 0, finished.stdout + finished.stderr
    errors = [line.split() for line in finished.stdout.splitlines()]
    assert [tuple(names) for *names, _ in errors] == [
        (str(num_threads), str(width), mode)
        for num_threads in NUMBERS_OF_THREADS
        for width in WIDTHS_ON_AVX2
        for mode in TOLERANCES
    ]
    assert all(float(error) < TOLERANCES[mode] for _, _, mode, error in errors), errors


@pytest.mark.slow
def test_the_first_stage_trains_a_narrow_backbone_on_a_processor_without_avx512(tmp_path):
    values = {"backbone_width": 4, "max_steps": 6, **WITHOUT_EVALUATION}
    folders = {number: tmp_path / f"{number} threads" for number in NUMBERS_OF_THREADS}
    trainings = [stage1_flags(folder, **values, num_threads=number) for number, folder in folders.items()]
    finished = run_on_avx2(["-c", TRAIN_EACH, json.dumps(trainings)])
    assert finished.returncode == 0, finished.stdout + finished.stderr
    for number, folder in folders.items():
        assert f"in {number} thread(s) on " in finished.stdout
        model, _ = load_trained(str(folder))
        assert model.config.vision_config.backbone_width == 4
        assert all(parameter.isfinite().all() for parameter in model.parameters())


def print_errors(seed: int) -> None:
    for num_threads in NUMBERS_OF_THREADS:
        torch.set_num_threads(num_threads)
        torch.manual_seed(seed)
        for width in WIDTHS_ON_AVX2:
            for mode in TOLERANCES:
                print(num_threads, width, mode, largest_error_of_gradients(width, mode), flush=True)


if __name__ == "__main__":
    print_errors(int(sys.argv[1]))
