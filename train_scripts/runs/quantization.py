"""Prepares trained models for translation: weights in a smaller dtype, and the language model in 8 or 4 bits."""

import importlib.util
import warnings
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from ..arguments import flag_values
from ..machine.machine import fastest_dtype
from .trained_models import load_trained

DTYPES = {name: getattr(torch, name) for name in flag_values.DTYPES}


def load_to_translate(
    name_or_path: str, device: torch.device, dtype: str | None = None, quantization: str | None = None
) -> tuple[PreTrainedModel, Any]:
    """
    A trained model on `device`, in evaluation mode, and its processor.

    Args:
        dtype: one of `DTYPES`; default: `fastest_dtype`.
        quantization: "int8" or "int4": number of bits per weight in the linear layers of the language model. The visual
            encoder, the adapter, the embeddings and the output layer keep `dtype`. On a CPU, "int8" uses torch's own
            implementation with the rest of the language model in float32; everything else uses bitsandbytes.

    Raises:
        ValueError: if it is not a trained model, or bitsandbytes is needed and missing.
    """
    chosen = fastest_dtype(device) if dtype is None else DTYPES[dtype]
    if quantization == "int8" and device.type == "cpu":
        model, processor = load_trained(name_or_path, dtype=torch.float32)
        quantize_on_cpu(model)
        model.vision_model.to(chosen)
    elif quantization is not None:
        config = bitsandbytes_config(quantization, chosen)
        model, processor = load_trained(name_or_path, dtype=chosen, quantization_config=config, device_map=str(device))
    else:
        model, processor = load_trained(name_or_path, dtype=chosen)
        model.to(device)
    model.vision_model.choose_memory_format()
    return model, processor


def quantize_on_cpu(model: PreTrainedModel) -> None:
    """
    Replace, in place, the linear layers of the float32 language model by torch layers that hold int8 weights and
    quantize their inputs to int8 on the fly. The model cannot be trained or saved after that.
    """
    quantize_linear_layers(model.get_text_model(), model.get_output_embeddings())
    model.save_pretrained = _refuse_to_save


def quantize_linear_layers(text_model: torch.nn.Module, head: torch.nn.Module | None) -> None:
    """As `quantize_on_cpu`, of all but the output layer `head`."""
    linear = {
        name
        for name, module in text_model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    kind = torch.ao.quantization.per_channel_dynamic_qconfig
    with warnings.catch_warnings():
        # torch recommends torchao as the successor, whose layers are no faster than float32 unless compiled.
        warnings.simplefilter("ignore")
        torch.ao.quantization.quantize_dynamic(text_model, dict.fromkeys(linear, kind), inplace=True)


def _refuse_to_save(*args: Any, **kwargs: Any) -> None:
    raise NotImplementedError(
        "A model with torch's dynamic int8 layers cannot be saved. Save the model it was made from, or load that one "
        "with `quantization_config=BitsAndBytesConfig(load_in_8bit=True)`, which can be saved."
    )


def bitsandbytes_config(quantization: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    """
    Args:
        quantization: "int8" or "int4".
        dtype: in which int4 computes.

    Raises:
        ValueError: if bitsandbytes is missing.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(
            f"--quantization {quantization} needs the package bitsandbytes here, which is not installed. Run "
            '`pip install "flallm[quantization]"`, or leave the flag out.'
        )
    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
