"""Large linear layers of few rows: the same results, and only where it is faster."""

from contextlib import nullcontext

import pytest
import torch
from tiny_models import random_batch, random_prompts, tiny_diffslt, tiny_llava_slt, tiny_model
from torch import nn

from modeling_flallm import linear_layers_slt
from modeling_flallm.linear_layers_slt import FEWEST_WEIGHTS, MOST_ROWS, few_rows_in_onednn

LARGE = nn.Linear(1024, FEWEST_WEIGHTS // 1024)
pytestmark = pytest.mark.skipif(not linear_layers_slt._has_onednn(), reason="needs oneDNN on x86")


@pytest.fixture
def calls(monkeypatch) -> list[torch.Size]:
    """The shapes of what oneDNN was given."""
    shapes: list[torch.Size] = []
    real = torch.ops.mkldnn._linear_pointwise

    def counted(values, *others):
        shapes.append(values.shape)
        return real(values, *others)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", counted)
    return shapes


@torch.no_grad()
@pytest.mark.parametrize("shape", [(1, 1024), (5, 1, 1024), (3, 4, 1024), (1024,), (MOST_ROWS, 1024)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_few_rows_are_the_same_in_onednn(shape, has_bias, calls):
    layer = nn.Linear(1024, 1500, bias=has_bias)
    values = torch.randn(shape)
    expected = layer(values)
    with few_rows_in_onednn(layer):
        got = layer(values)
    assert calls == [torch.Size(shape)]
    assert got.shape == expected.shape
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_rows_that_are_not_contiguous_are_read_right(calls):
    values = torch.randn(1024, 6).T[::2]
    with few_rows_in_onednn(LARGE):
        got = LARGE(values)
    assert len(calls) == 1
    torch.testing.assert_close(got, LARGE(values), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_all_else_is_computed_as_always(calls):
    small, half = nn.Linear(8, 8), nn.Linear(1024, 1024).to(torch.bfloat16)
    rows, many = torch.randn(2, 1024), torch.randn(MOST_ROWS + 1, 1024)
    with few_rows_in_onednn(nn.ModuleList([LARGE, small])):
        small(torch.randn(2, 8))
        half(rows.bfloat16())
        assert LARGE(many[:0]).shape == (0, 1024)
        assert torch.equal(LARGE(many), nn.functional.linear(many, LARGE.weight, LARGE.bias))
        with torch.autocast("cpu", torch.bfloat16):
            assert LARGE(rows).dtype is torch.bfloat16
        with torch.enable_grad():
            assert LARGE(rows).requires_grad
    assert calls == []


@pytest.mark.parametrize(
    "layer",
    [nn.Linear(8, 8), nn.Linear(1024, 1024, dtype=torch.bfloat16), nn.Linear(1024, 1024, device="meta")],
    ids=["small", "in bfloat16", "on another device"],
)
def test_a_model_that_it_does_not_concern_is_left_alone(layer):
    """Watching each function would cost a GPU more than a little time, which waits for Python."""
    assert isinstance(few_rows_in_onednn(layer), nullcontext)
    assert not isinstance(few_rows_in_onednn(nn.ModuleList([layer, LARGE])), nullcontext)


@torch.no_grad()
def test_nothing_changes_where_there_is_no_onednn(calls, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with few_rows_in_onednn(LARGE):
        LARGE(torch.randn(2, 1024))
    assert calls == []


WRITERS = {
    "an encoder and decoder": (tiny_model, lambda: random_batch([9, 6])),
    "a prompted model": (tiny_llava_slt, lambda: random_prompts([9, 6])),
    "an autoencoder": (tiny_diffslt, lambda: random_batch([9, 6])),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_models_write_the_same_with_it(writer, monkeypatch, calls):
    build, inputs_of = WRITERS[writer]
    model, inputs = build(), inputs_of()
    inputs.pop("labels", None)
    settings = {"num_beams": 3, "max_new_tokens": 5, "min_new_tokens": 5}

    def write() -> torch.Tensor:
        torch.manual_seed(0)  # of the noise that DiffSLT begins with
        return model.generate(**inputs, **settings)

    expected = write()
    assert calls == []
    monkeypatch.setattr(linear_layers_slt, "FEWEST_WEIGHTS", 1)
    assert torch.equal(write(), expected)
    assert calls != []
