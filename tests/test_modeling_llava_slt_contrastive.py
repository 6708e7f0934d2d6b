"""The visual encoder of LLaVA-SLT and its contrastive pretraining: padding, losses, memory bank, wrong input."""

import copy
import inspect
from datetime import timedelta

import pytest
import torch
import torch.distributed as distributed
from tiny_models import (
    VIDEO,
    error_texts,
    let_windows_mix,
    loss_and_gradients,
    random_batch,
    state_of,
    tiny_contrastive_model,
    tiny_visual_config,
    with_garbage_in_the_padding,
)
from torch.testing import assert_close
from two_processes import in_two_processes

from modeling_flallm import (
    LlavaSltContrastiveConfig,
    LlavaSltForContrastivePreTraining,
    LlavaSltVisualConfig,
    LlavaSltVisualEncoder,
)

# ------------------------------------------------------------------------------------------ visual encoder


@pytest.mark.parametrize("window", [(4, 2), (5, 3), (1, 1), (8, 2)], ids=str)
def test_words_do_not_depend_on_padding(window):
    size, stride = window
    model = tiny_contrastive_model(vision={"word_window_size": size, "word_window_stride": stride}).vision_model
    batch = {name: value for name, value in random_batch([9, 1, 6, 7]).items() if name in VIDEO}
    with torch.no_grad():
        together = model(**with_garbage_in_the_padding(batch))
        for row, length in enumerate([9, 1, 6, 7]):
            alone = model(batch["pixel_values_videos"][row : row + 1, :length])
            num_words = model.get_num_tokens(length)
            assert num_words == -(-length // stride) == alone.last_hidden_state.shape[1]
            assert_close(together.last_hidden_state[row, :num_words], alone.last_hidden_state[0], atol=1e-4, rtol=1e-4)
            assert_close(together.pooler_output[row], alone.pooler_output[0], atol=1e-4, rtol=1e-4)
            assert (together.last_hidden_state[row, num_words:] == 0).all()
            assert together.attention_mask[row].sum() == num_words == together.attention_mask[row, :num_words].sum()


def test_the_layers_over_the_windows_begin_as_the_identity():
    with_layers = LlavaSltVisualEncoder(tiny_visual_config())
    without = LlavaSltVisualEncoder(tiny_visual_config(word_layers=0))
    without.load_state_dict(with_layers.state_dict(), strict=False)
    pixels = random_batch([6])["pixel_values_videos"]
    expected = without.eval()(pixels).last_hidden_state
    assert_close(with_layers.eval()(pixels).last_hidden_state, expected)
    let_windows_mix(with_layers)
    assert (with_layers(pixels).last_hidden_state - expected).abs().max() > 1e-3


def test_padded_frames_cost_no_work_and_enter_no_statistic():
    model = tiny_contrastive_model().vision_model.train()
    twin = copy.deepcopy(model)
    batch = {name: value for name, value in random_batch([6, 6]).items() if name in VIDEO}
    num_frames = []
    model.backbone.register_forward_pre_hook(lambda module, inputs: num_frames.append(len(inputs[0])))
    model(**with_garbage_in_the_padding(batch))
    twin(**batch)
    assert num_frames == [12]
    assert_close(state_of(model), state_of(twin))


def test_the_frozen_encoder_stays_as_it_is():
    model = tiny_contrastive_model(vision={"dropout": 0.5}).vision_model
    batch = {name: value for name, value in random_batch([6, 9]).items() if name in VIDEO}
    expected, before = model(**batch), state_of(model)
    model.freeze()
    output = model.train()(**batch)
    assert not output.last_hidden_state.requires_grad and not model.training
    assert_close(output.last_hidden_state, expected.last_hidden_state, atol=1e-4, rtol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in state_of(model).items())


def test_the_middle_of_a_window_is_where_the_pipeline_says():
    """Changing a frame changes the words whose windows contain it: those around it, at the distance of the stride."""
    sizes = {"word_window_size": 5, "word_window_stride": 2, "word_layers": 0}
    frames = {"backbone_width": 8, "hidden_size": 24, "temporal_blocks": ["K1"]}
    model = tiny_contrastive_model(vision={**sizes, "frame_config": frames}).vision_model
    pixels = random_batch([12])["pixel_values_videos"]
    other = pixels.clone()
    other[:, 6] += 1
    change = (model(other).last_hidden_state - model(pixels).last_hidden_state).abs().sum(2)[0]
    assert (change > 1e-4).nonzero().flatten().tolist() == [2, 3, 4]  # words around the frames 4, 6 and 8


def test_the_visual_encoder_has_the_contract_of_flallm(tmp_path):
    model = LlavaSltVisualEncoder(tiny_visual_config())
    assert model.config.hidden_size == 16
    assert model.get_num_tokens(torch.tensor([1, 2, 5])).tolist() == [1, 1, 3]
    model.frames_per_chunk = 3
    assert model.frame_encoder.frames_per_chunk == 3 == model.frames_per_chunk
    assert model.backbone is model.frame_encoder.backbone
    assert not any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in inspect.signature(model.forward).parameters.values()
    )
    model.save_pretrained(tmp_path)
    assert_close(state_of(LlavaSltVisualEncoder.from_pretrained(tmp_path)), state_of(model))


# ------------------------------------------------------------------------------------------ contrastive pretraining


def contrastive_batch(model: LlavaSltForContrastivePreTraining, lengths: list[int]) -> dict[str, torch.Tensor]:
    batch = {name: value for name, value in random_batch(lengths).items() if name in VIDEO}
    batch["sentence_embeddings"] = torch.randn(len(lengths), model.config.sentence_target_size)
    batch["word_ids"] = torch.randint(0, model.config.word_vocabulary_size, (len(lengths), 4))
    batch["word_ids"][0, 2:] = -100
    return batch


def test_the_contrastive_loss_does_not_depend_on_padding():
    model = tiny_contrastive_model()
    batch = contrastive_batch(model, [6, 9, 4])
    output = model(**batch)
    padded = model(**{**batch, **with_garbage_in_the_padding({name: batch[name] for name in VIDEO})})
    batch["word_ids"] = torch.nn.functional.pad(batch["word_ids"], (0, 3), value=-100)
    for other in (padded, model(**batch)):
        assert_close((other.loss, other.word_loss), (output.loss, output.word_loss), atol=1e-4, rtol=1e-4)
    weight = model.config.word_alignment_weight
    assert_close(output.loss, output.sentence_loss + weight * output.word_loss)
    assert_close(output.video_embeddings.norm(dim=1), torch.ones(3))


def test_the_loss_of_sentences_is_the_symmetric_infonce():
    model = tiny_contrastive_model(word_alignment_weight=0.0)
    batch = contrastive_batch(model, [6, 9, 4])
    output = model(**{name: value for name, value in batch.items() if name != "word_ids"})
    logits = output.logits_per_video
    expected = -(logits.log_softmax(0).diag().mean() + logits.log_softmax(1).diag().mean()) / 2
    assert output.word_loss is None
    assert_close(output.loss, expected)
    sentences = torch.nn.functional.normalize(batch["sentence_embeddings"], dim=1)
    assert_close(logits, output.video_embeddings @ sentences.T / 0.07)


def test_the_loss_of_words_is_the_cross_entropy_of_the_set_of_words():
    model = tiny_contrastive_model()
    batch = contrastive_batch(model, [6, 1])
    batch["word_ids"] = torch.tensor([[3, 3, 5], [8, -100, -100]])
    vision_output = model.vision_model(**{name: batch[name] for name in VIDEO})
    expected = 0
    for row, words in enumerate([{3, 5}, {8}]):
        num_words = int(vision_output.attention_mask[row].sum())
        shown = model.word_projection(vision_output.last_hidden_state[row, :num_words])
        cosines = torch.nn.functional.cosine_similarity(shown[:, None], model.word_targets[None], dim=-1)
        scores = (10 * cosines - 6).exp().sum(0).log()
        present = torch.tensor([float(word in words) for word in range(9)])
        loss = torch.nn.functional.binary_cross_entropy_with_logits(scores, present, reduction="sum")
        expected = expected + loss / len(words) / 2
    assert_close(model(**batch).word_loss, expected, atol=1e-4, rtol=1e-4)


def test_bfloat16_leaves_the_contrastive_loss_in_float32():
    model = tiny_contrastive_model(memory_bank_size=3).train()
    batch = contrastive_batch(model, [6, 9, 4])
    expected = loss_after_backward(copy.deepcopy(model), batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_after_backward(copy.deepcopy(model), batch)
    assert loss.dtype == torch.float32
    assert_close(loss, expected, atol=0.3, rtol=0.1)
    assert_close(loss_after_backward(model.to(torch.bfloat16), batch), expected, atol=0.3, rtol=0.1)


def loss_after_backward(model: LlavaSltForContrastivePreTraining, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    loss = model(**batch).loss
    loss.backward()
    return loss


def test_a_sentence_that_occurs_twice_is_no_negative():
    model = tiny_contrastive_model(word_alignment_weight=0.0)
    batch = contrastive_batch(model, [6, 9, 4])
    del batch["word_ids"]
    batch["sentence_embeddings"][2] = 3 * batch["sentence_embeddings"][0]  # of another norm, but the same
    output = model(**batch)
    logits = output.logits_per_video.clone()
    logits[0, 2] = logits[2, 0] = -torch.inf
    own = torch.arange(3)
    expected = torch.nn.functional.cross_entropy(logits, own) + torch.nn.functional.cross_entropy(logits.T, own)
    assert_close(output.loss, expected / 2)


def test_the_memory_bank_holds_the_newest_sentences_as_negatives(tmp_path):
    model = tiny_contrastive_model(word_alignment_weight=0.0, memory_bank_size=5).train()
    seen = []
    for _ in range(3):
        batch = contrastive_batch(model, [4, 4])
        del batch["word_ids"]
        model(**batch)
        seen.append(torch.nn.functional.normalize(batch["sentence_embeddings"], dim=1))
    newest = torch.cat(seen)[-5:]
    assert all((model.memory_bank - sentence).abs().amax(1).min() < 1e-6 for sentence in newest)
    batch["sentence_embeddings"] = torch.randn(2, 12)
    batch["sentence_embeddings"][1] = newest[0]  # one of the bank: not a negative
    model.save_pretrained(tmp_path)
    model = LlavaSltForContrastivePreTraining.from_pretrained(tmp_path)
    output = model.train()(**batch)
    scale = 1 / 0.07
    of_bank = scale * output.video_embeddings @ newest.T
    of_bank[1, 0] = -torch.inf
    logits, own = output.logits_per_video, torch.arange(2)
    loss_of_videos = torch.nn.functional.cross_entropy(torch.cat([logits, of_bank], 1), own)
    assert_close(output.loss, (loss_of_videos + torch.nn.functional.cross_entropy(logits.T, own)) / 2)
    bank = model.memory_bank.clone()
    output = model.eval()(**batch)  # without a memory, and nothing is remembered
    logits = output.logits_per_video
    cross_entropy = torch.nn.functional.cross_entropy
    assert_close(output.loss, (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2)
    assert torch.equal(model.memory_bank, bank)


@pytest.mark.slow
def test_training_makes_retrieval_better():
    """12 clips in as many colours: after training each one's nearest sentence is its own."""
    model = tiny_contrastive_model(word_vocabulary_size=12).train()
    num_clips = 12
    colors = torch.stack(torch.meshgrid(*[torch.tensor([-1.5, 1.5])] * 3, indexing="ij"), -1).view(8, 3)
    colors = torch.cat([colors, colors[:4] / 3])
    pixels = colors[:, None, :, None, None].expand(num_clips, 4, 3, 16, 16).contiguous()
    batch = {
        "pixel_values_videos": pixels,
        "sentence_embeddings": torch.nn.functional.normalize(torch.randn(num_clips, 12), dim=1),
        "word_ids": torch.arange(num_clips)[:, None],
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(80):
        output = model(**batch)
        losses.append((output.sentence_loss.item(), output.word_loss.item()))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    nearest = output.logits_per_video.argmax(1)
    assert (nearest == torch.arange(num_clips)).float().mean() >= 0.9
    assert losses[-1][0] < losses[0][0] / 2 and losses[-1][1] < losses[0][1] / 2


def test_videos_alone_give_embeddings_for_retrieval():
    model = tiny_contrastive_model()
    batch = contrastive_batch(model, [6, 9])
    output = model(**{name: batch[name] for name in VIDEO})
    assert output.loss is None
    assert_close(output.video_embeddings, model(**batch).video_embeddings)


def train_in_process(rank: int, folder: str) -> None:
    """One step with this process's share of the batch, 2 clips or 1; its loss, gradients and bank go to a file."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", f"file://{folder}/rendezvous", timeout=timedelta(seconds=60), rank=rank, world_size=2
    )
    model = LlavaSltForContrastivePreTraining.from_pretrained(f"{folder}/model").train()
    batch = torch.load(f"{folder}/batch.pt", weights_only=True)
    own = slice(0, 2) if rank == 0 else slice(2, 3)
    loss, gradients = loss_and_gradients(model, {name: value[own] for name, value in batch.items()})
    for gradient in gradients.values():
        distributed.all_reduce(gradient)
    averaged = {name: gradient / 2 for name, gradient in gradients.items()}
    torch.save({"loss": loss, "gradients": averaged, "bank": model.memory_bank}, f"{folder}/result_{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_train_what_one_would(tmp_path):
    # In float64: gradients of random weights are large, and rounding would tip a ReLU here and there.
    model = tiny_contrastive_model(memory_bank_size=4, word_alignment_weight=1.0).double()
    model.save_pretrained(tmp_path / "model")
    batch = contrastive_batch(model, [6, 6, 4])
    torch.save(batch, tmp_path / "batch.pt")
    in_two_processes(train_in_process, str(tmp_path))
    loss, gradients = loss_and_gradients(model.train(), batch)
    for rank in range(2):
        result = torch.load(tmp_path / f"result_{rank}.pt", weights_only=True)
        assert_close(result["loss"], loss, atol=1e-5, rtol=1e-5)
        assert_close(result["bank"], model.memory_bank)
        for name, gradient in gradients.items():
            assert_close(result["gradients"][name], gradient, atol=1e-3, rtol=1e-3)


# ------------------------------------------------------------------------------------------ wrong input


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            {"frame_config": {"temporal_blocks": ["K5", "P2"]}},
            "The frame level must give one token per frame: `temporal_padding` 'zero' and no pooling in "
            "`temporal_blocks`, got 'zero' and ['K5', 'P2'].",
        ),
        ({"frame_config": {"temporal_padding": "none"}}, "got 'none' and ['K5']."),
        ({"word_window_size": 1}, "`word_window_size` 1 is smaller than `word_window_stride` 2"),
        ({"word_window_stride": 0}, "`word_window_stride` must be 1 or more, got 0."),
        ({"word_layers": -1}, "`word_layers` must be 0 or more, got -1."),
        ({"word_attention_heads": 7}, "`word_hidden_size` 512 must be a multiple of `word_attention_heads` 7."),
        ({"dropout": 1.0}, "`dropout` must be at least 0 and below 1, got 1.0."),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_visual_configurations(values, text):
    with error_texts(text):
        LlavaSltVisualConfig(**values)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_the_weight_of_the_word_level_is_a_finite_number(value):
    with error_texts(f"`word_alignment_weight` must be 0 or more, got {value}."):
        LlavaSltContrastiveConfig(word_alignment_weight=value)


def test_wrong_inputs_of_contrastive_pretraining():
    model = tiny_contrastive_model()
    batch = contrastive_batch(model, [4, 4])
    with error_texts("`sentence_embeddings` must have the shape (batch, sentence_target_size) = (2, 12), got (2, 11)."):
        model(**{**batch, "sentence_embeddings": batch["sentence_embeddings"][:, 1:]})
    with error_texts("The model has a word level: pass `word_ids` beside `sentence_embeddings`."):
        model(**{**batch, "word_ids": None})
    with error_texts("`word_ids` must have the shape (batch, words) with 2 rows, got (1, 4)."):
        model(**{**batch, "word_ids": batch["word_ids"][:1]})
    with error_texts("`word_ids` must be rows of the 9 word targets, or -100 for padding, got 9."):
        model(**{**batch, "word_ids": batch["word_ids"].fill_(9)})
    with error_texts("The word targets must have the shape (9, 10) (word_vocabulary_size, word_target_size), got"):
        model.set_word_targets(torch.zeros(9, 9))
    with error_texts("The model has no word level"):
        tiny_contrastive_model(word_vocabulary_size=0).set_word_targets(torch.zeros(9, 10))
