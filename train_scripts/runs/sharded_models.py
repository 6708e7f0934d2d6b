"""
Models whose parameters FSDP2 or DeepSpeed's ZeRO has split over the processes: which layers are gathered one by one,
how evaluation and checkpoints get whole parameters, and what becomes of low-rank adapters at the end.

FSDP2 leaves `DTensor`s in the modules, and only calls of the model or of one of the chosen layers gather them.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.modules.module import _IncompatibleKeys
from torch.utils._pytree import tree_map_only
from transformers import Trainer
from transformers.integrations.deepspeed import unset_hf_deepspeed_config


def holds_parts(trainer: Trainer) -> bool:
    """Whether the processes have parts of the parameters each, as ZeRO-3, or of the optimizer's state, as ZeRO-2."""
    return trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled


def choose_what_fsdp_gathers(trainer: Trainer) -> None:
    """
    The layers of the language model one by one, unless the run names others. The rest, with the sign encoder, is one
    group: processes with longer clips may run the encoder's parts more often, and each gathering waits for all
    processes. Gathered weights stay in float32, as without FSDP: BatchNorm mixes no others with its statistics.
    """
    if not trainer.is_fsdp_enabled:
        return
    plugin, model = trainer.accelerator.state.fsdp_plugin, trainer.model
    plugin.mixed_precision_policy = None  # autocast computes in bfloat16 where that is safe
    if plugin.transformer_cls_names_to_wrap or plugin.auto_wrap_policy != transformer_auto_wrap_policy:
        return
    text_model = model.get_text_model() if hasattr(model, "get_text_model") else model
    plugin.transformer_cls_names_to_wrap = sorted(_outermost(text_model, set(text_model._no_split_modules or ())))


def _outermost(module: torch.nn.Module, names: set[str]) -> set[str]:
    """Of these classes, those that occur without lying in another of them."""
    found: set[str] = set()
    for child in module.children():
        name = type(child).__name__
        found |= {name} if name in names else _outermost(child, names)
    return found


@contextlib.contextmanager
def embeddings_with_the_rest(model: torch.nn.Module) -> Iterator[None]:
    """
    accelerate makes groups of their own of the embeddings that a model names, but others may have the same weight: the
    encoder and the decoder of mBART each have a layer for it.
    """
    names = ("get_input_embeddings", "get_output_embeddings")
    for name in names:
        setattr(model, name, lambda: None)
    try:
        yield
    finally:
        for name in names:
            delattr(model, name)


def make_vectors_of_numbers(trainer: Trainer) -> list[str]:
    """Parameters without a dimension, such as temperatures, cannot be split: they get one. Returns their names."""
    if not holds_parts(trainer):
        return []
    names = [name for name, parameter in trainer.model.named_parameters() if parameter.ndim == 0]
    _reshape(trainer.model, names, (1,))
    return names


def _reshape(model: torch.nn.Module, names: Sequence[str], shape: tuple[int, ...]) -> None:
    for name in names:
        parent, _, own_name = name.rpartition(".")
        module = model.get_submodule(parent)
        number = getattr(module, own_name)
        setattr(module, own_name, torch.nn.Parameter(number.data.reshape(shape), number.requires_grad))


@contextlib.contextmanager
def whole_parameters(trainer: Trainer) -> Iterator[None]:
    """Each process holds all parameters inside: sentences of different lengths take different numbers of steps."""
    if trainer.is_fsdp_enabled:
        with _gathered_by_fsdp(trainer):
            yield
    elif trainer.is_deepspeed_enabled and _is_zero_3(trainer):
        from deepspeed.runtime.zero import unwrap_model_for_generation

        with unwrap_model_for_generation(trainer.deepspeed):
            yield
    else:
        yield


def _is_zero_3(trainer: Trainer) -> bool:
    return trainer.deepspeed is not None and trainer.accelerator.state.deepspeed_plugin.zero_stage == 3


@contextlib.contextmanager
def _gathered_by_fsdp(trainer: Trainer) -> Iterator[None]:
    modules = [module for module in trainer.model.modules() if isinstance(module, FSDPModule)]
    for module in modules:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        reshards = trainer.accelerator.state.fsdp_plugin.reshard_after_forward
        for module in modules:
            module.set_reshard_after_forward(reshards and module is not trainer.model, recurse=False)
            module.reshard()


def whole_weights(trainer: Trainer) -> dict[str, torch.Tensor] | None:
    """Of a sharded model, in the first process; called by all. `None` if the model holds its weights itself."""
    if not holds_parts(trainer):
        return None
    return trainer.accelerator.get_state_dict(trainer.model if trainer.is_fsdp_enabled else trainer.deepspeed)


@contextlib.contextmanager
def of_its_own_class(model: torch.nn.Module) -> Iterator[None]:
    """FSDP2 gives the model a class of torch, which would be saved with torch's code in place of ours."""
    given = type(model)
    if isinstance(model, FSDPModule):
        model.__class__ = given.__mro__[2]  # behind FSDP's own two
    try:
        yield
    finally:
        model.__class__ = given


def as_saved(weights: dict[str, torch.Tensor], model: torch.nn.Module, numbers: list[str]) -> dict[str, torch.Tensor]:
    """
    Gathered weights as a model that holds them itself would save them: each once, however many names it has, and the
    `numbers` of `make_vectors_of_numbers` without a dimension.
    """
    again = {
        name
        for name, first in model.all_tied_weights_keys.items()
        if name in weights and first in weights and torch.equal(weights[name], weights[first])
    }
    return {
        name: weight.reshape(()) if name in numbers else weight for name, weight in weights.items() if name not in again
    }


@torch.no_grad()
def load_weights(model: torch.nn.Module, folder: Path) -> _IncompatibleKeys:
    """
    Load the safetensors of a checkpoint into a model that FSDP2 has split: of each weight its part alone is copied.
    Returns the names that the checkpoint lacks, and those that the model does not have.
    """
    targets = model.state_dict()
    if isinstance(model, PeftModel):
        targets = get_peft_model_state_dict(model, state_dict=targets)
    found: set[str] = set()
    for path in sorted(folder.glob("*model*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no dictionary
                found.add(name)
                if name in targets:
                    value, target = file.get_tensor(name), targets[name]
                    target.copy_(_part(value, target) if isinstance(target, DTensor) else value)
    return _IncompatibleKeys([name for name in targets if name not in found], sorted(found - targets.keys()))


def optimizer_state(trainer: Trainer) -> dict[str, Any]:
    """Of FSDP2 as of an optimiser that holds it whole: its tensors are in the first process; called by all."""
    keeps = trainer.args.process_index == 0

    def whole(part: DTensor) -> torch.Tensor | None:
        gathered = part.full_tensor()
        return gathered.cpu() if keeps else None

    return tree_map_only(DTensor, whole, trainer.optimizer.state_dict())


def load_optimizer_state(trainer: Trainer, path: Path) -> None:
    """The inverse of `optimizer_state`, from a file, of which each process reads what it needs."""
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    parameters = [parameter for group in trainer.optimizer.param_groups for parameter in group["params"]]
    for index, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.shape == parameters[index].shape:
                values[name] = _part(value, parameters[index])
    trainer.optimizer.load_state_dict(state)


def _part(value: torch.Tensor, like: DTensor) -> DTensor:
    """What this process holds of a whole tensor, split as another one."""
    value = value.to(like.device, like.dtype).reshape(like.shape)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def end_sharding(trainer: Trainer, model: torch.nn.Module | None, numbers: Sequence[str] = ()) -> None:
    """
    Nothing is trained any more: from here on, each process has this whole model. The `numbers` of
    `make_vectors_of_numbers` lose their dimension.
    """
    _reshape(model, numbers, ())
    trainer.accelerator.free_memory()
    trainer.is_fsdp_enabled = trainer.is_deepspeed_enabled = False
    trainer.optimizer = trainer.deepspeed = None
    trainer.model = trainer.model_wrapped = model
    unset_hf_deepspeed_config()


def merge_saved_adapter(trainer: Trainer, base: str, adapter: Path) -> None:
    """
    Low-rank adapters cannot be added to weights that are split: each process loads both again, from the folders that
    the run has saved, and goes on with the whole model.
    """
    trainer.accelerator.wait_for_everyone()
    trained = trainer.accelerator.unwrap_model(trainer.model).get_base_model()
    end_sharding(trainer, None)
    whole = PeftModel.from_pretrained(type(trained).from_pretrained(base), str(adapter)).merge_and_unload()
    whole.config, whole.generation_config = trained.config, trained.generation_config
    trainer.model = trainer.model_wrapped = whole.to(trainer.args.device)
