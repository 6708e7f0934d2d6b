"""Puts an exported model together: graphs, settings, tokenizer, and the program that runs them; and tries it."""

import importlib.util
import inspect
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel
from transformers.dynamic_module_utils import get_relative_imports

import exported_runner
from modeling_flallm.own_processing import FLaLLMProcessor

from ..machine.atomic_files import write_json
from .exported_formats import FORMATS
from .exported_graphs import MORE_FRAMES, Graph, graphs_of
from .exported_settings import (
    GUIDANCE_SCALE,
    NUM_INFERENCE_STEPS,
    generation_settings,
    prompt_settings,
)

RUNNER_FOLDER, SETTINGS_FILE, TOKENIZER_FILE = "flallm_runner", "export.json", "tokenizer.json"
DIFFUSION_FILE = "diffusion.safetensors"
SHORT = 12  # tokens of the sentences that are written to try an exported model
LENGTHS_TO_TRY = ((0, 7, 3), (2,))  # frames above the shortest clip, of each clip of a batch
TOKENS_TO_TRY = 2000


def fill_folder(
    folder: Path, model: PreTrainedModel, processor: FLaLLMProcessor, format_name: str, dtype: str
) -> tuple[int, int]:
    """
    Write a translation model in evaluation mode, with float32 weights on the CPU, and its processor; then translate
    random clips with both.

    Args:
        format_name: one of `FORMATS`.
        dtype: "float32", "float16" or "int8".

    Returns:
        How many of the sentences were equal, and of how many.

    Raises:
        ValueError: for a model that an exported one cannot stand for, with what to do; for one in float32 that writes
            other sentences.
    """
    settings = {
        "format": format_name,
        "dtype": dtype,
        "model_type": model.config.model_type,
        "kind": "prompted" if model.is_prompted else "encoder_decoder",
        "input_names": list(processor.modality.input_names),
        "clips": {"modality": processor.modality.argument, **processor.modality.exported_settings()},
        "generation": generation_settings(model),
        **prompt_settings(model, processor),
        "token_steps": [list(step) for step in model.vision_model.get_token_steps()],
        # A model that continues a prompt counts the tokens of the prompt, and one that it writes.
        "max_num_tokens": model.get_max_num_tokens() if model.is_prompted else model.get_max_num_input_tokens(),
        # Of a model that continues a prompt, what its prompt leaves is computed for each clip.
        "max_target_tokens": None if model.is_prompted else model.get_max_num_tokens(),
        "token_ids_left_out": list(getattr(processor.tokenizer, "lang_code_to_id", {}).values()),
    }
    _save_tokenizer(processor, folder)
    if model.draws_samples:
        settings["diffusion"] = _save_diffusion(model, folder)
    settings["graphs"] = []
    for graph in graphs_of(model, example_clips(model, processor, (MORE_FRAMES, 0))):
        FORMATS[format_name](graph, folder, dtype)
        settings["graphs"].append(graph.name)
        if graph.name == "decoder":
            settings["cache_shapes"] = _cache_shapes(graph)
    copy_runner(folder / RUNNER_FOLDER)
    if model.is_prompted:
        settings["prompt"]["first_token_ids"] = _first_token_ids(processor, settings["prompt"], folder)
    write_json(folder / SETTINGS_FILE, settings, indent=2)
    with runner_of(folder) as runner:
        translator = runner.load()
        _check_tokenizer(translator, processor)
        return _try(translator, model, processor, must_be_equal=dtype == "float32")


def _cache_shapes(decoder: Graph) -> dict[str, list[int]]:
    """Heads and head size of the keys and values."""
    past = {name: value for name, value in decoder.inputs.items() if name.startswith("past.")}
    return {name: [value.shape[1], value.shape[3]] for name, value in past.items()}


def example_clips(
    model: PreTrainedModel, processor: FLaLLMProcessor, more_frames: tuple[int, ...]
) -> dict[str, torch.Tensor]:
    """Random clips with their mask, `more_frames` longer than the shortest that the model reads, and at least 2."""
    least = max(model.vision_model.get_min_num_frames(), 2)
    lengths = [least + more for more in more_frames]
    shape = processor.modality.exported_settings()["value_shape"]
    values = torch.randn(len(lengths), max(lengths), *shape)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    values = values * mask.view(*mask.shape, *[1] * len(shape))
    return dict(zip(processor.modality.input_names, (values, mask), strict=True))


# ------------------------------------------------------------------------------------- tokenizer


def _save_tokenizer(processor: FLaLLMProcessor, folder: Path) -> None:
    backend = getattr(processor.tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(
            f"The tokenizer {type(processor.tokenizer).__name__} is not one of the `tokenizers` library, with which an "
            "exported model reads and writes. Save the model with a fast tokenizer, or use the model itself."
        )
    backend.save(str(folder / TOKENIZER_FILE))


def _first_token_ids(processor: FLaLLMProcessor, prompt: dict[str, Any], folder: Path) -> list[int]:
    """What the processor puts in front of a prompt beside the tokens of its text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    text = prompt["text"].replace("{spoken_language}", processor.spoken_language)
    plain = tokenizer.encode(text, add_special_tokens=False).ids
    wanted = processor(num_visual_tokens=[1])["input_ids"][0].tolist()
    if wanted[len(wanted) - len(plain) :] != plain:
        raise ValueError(
            "The saved tokenizer splits the prompt in another way than the processor. Use the model itself, and report "
            "the tokenizer."
        )
    return wanted[: len(wanted) - len(plain)]


def _check_tokenizer(translator: Any, processor: FLaLLMProcessor) -> None:
    """Raise a `ValueError` unless the saved tokenizer writes and reads as the processor does."""
    token_ids = torch.randint(len(processor.tokenizer), (TOKENS_TO_TRY // 20, 20))
    sentences = [processor.decode(row) for row in token_ids]
    is_equal = [translator.decode(row) for row in token_ids.numpy()] == sentences
    prompt = translator.settings.get("prompt")
    if prompt is not None and translator.settings["kind"] != "prompted":
        wanted = processor(num_visual_tokens=[1])["prompt_ids"][0].tolist()
        is_equal &= translator._encoder_prompts(1, None)["prompt_ids"][0].tolist() == wanted
    if not is_equal:
        raise ValueError(
            f"The tokenizer {type(processor.tokenizer).__name__} does more than its file tokenizer.json says, so an "
            "exported model would write other sentences. Use the model itself, and report the tokenizer."
        )


# ------------------------------------------------------------------------------------- diffusion


def _save_diffusion(model: PreTrainedModel, folder: Path) -> dict[str, Any]:
    """
    Save the noise that the model starts from, what is left of latents at each timestep, and the state without guidance.

    Raises:
        ValueError: for a scheduler other than DDIM.
    """
    if model.config.scheduler != "ddim":
        raise ValueError(
            f"An exported DiffSLT samples with ddim, and this one with {model.config.scheduler}. Set `scheduler` in "
            "its config.json, or use the model itself."
        )
    size = (model.config.num_latents, model.config.latent_size)
    arrays = {
        "noise": torch.randn(size, generator=torch.Generator().manual_seed(0)),
        "kept_shares": model.get_scheduler("ddpm").alphas_cumprod.float(),
        "no_guidance": model.denoiser.guidance_fusion.no_guidance.detach().float(),
    }
    save_file({name: each.contiguous() for name, each in arrays.items()}, folder / DIFFUSION_FILE)
    defaults = inspect.signature(model.sample_latents).parameters
    named = {
        name: getattr(model.generation_config, name, None) or defaults[name].default
        for name in (NUM_INFERENCE_STEPS, GUIDANCE_SCALE)
    }
    return {**named, "reads_estimate": bool(model.config.self_conditioning_probability)}


# ------------------------------------------------------------------------------------- the program that runs it


def copy_runner(folder: Path) -> None:
    """Copy `exported_runner`, and of `processing` the files that it imports, into a folder."""
    folder.mkdir()
    own = Path(inspect.getfile(exported_runner)).parent
    readers = Path(inspect.getfile(FLaLLMProcessor)).parent
    todo, done = sorted(own.glob("*.py")), set()
    while todo:
        path = todo.pop()
        if path.name in done:
            continue
        done.add(path.name)
        shutil.copyfile(path, folder / path.name)
        for name in get_relative_imports(path):
            source = own / f"{name}.py"
            todo.append(source if source.is_file() else readers / f"{name}.py")


@contextmanager
def runner_of(folder: Path) -> Iterator[Any]:
    """The package `flallm_runner` of an exported folder, under a name of its own."""
    package = folder / RUNNER_FOLDER
    name = f"{RUNNER_FOLDER}_of_{id(folder)}"
    spec = importlib.util.spec_from_file_location(
        name, package / "__init__.py", submodule_search_locations=[str(package)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        for loaded in [each for each in sys.modules if each == name or each.startswith(f"{name}.")]:
            del sys.modules[loaded]


def _try(translator: Any, model: PreTrainedModel, processor: FLaLLMProcessor, must_be_equal: bool) -> tuple[int, int]:
    """Translate random clips with the exported model and with the model: how many sentences are equal, of how many."""
    num_equal = num_tried = 0
    for more_frames in LENGTHS_TO_TRY:
        for num_beams in (1, 3):
            clips = example_clips(model, processor, more_frames)
            how = {"num_beams": num_beams, "max_new_tokens": SHORT}
            wanted = generated(model, processor, clips, **how)
            got = translator.generate({name: each.numpy() for name, each in clips.items()}, **how)
            pairs = zip(wanted, got, strict=True)
            num_equal += sum(processor.decode(one) == translator.decode(other) for one, other in pairs)
            num_tried += len(wanted)
    if must_be_equal and num_equal < num_tried:
        raise ValueError(
            f"The exported model writes {num_tried - num_equal} of {num_tried} sentences of random clips otherwise "
            "than the model. Use the model itself, and report its text model and sign encoder."
        )
    return num_equal, num_tried


def generated(
    model: PreTrainedModel, processor: FLaLLMProcessor, clips: dict[str, torch.Tensor], **generation: Any
) -> torch.Tensor:
    """Token ids `(clips, length)` of prepared clips from the model, with the prompts of the processor."""
    prompts = {}
    if model.prompt_input_names:
        mask = clips[processor.modality.input_names[1]]
        num_tokens = [model.vision_model.get_num_tokens(int(row.sum())) for row in mask]
        given = processor(num_visual_tokens=num_tokens)
        prompts = {name: given[name] for name in model.prompt_input_names}
    return model.generate(**clips, **prompts, **generation)
