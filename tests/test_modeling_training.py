"""Losses and gradients with every kind of text model: word presence, freezing, checkpointing, precision."""

import copy

import pytest
import torch
from tiny_models import (
    PAD,
    START,
    VOCABULARY_SIZE,
    assert_gradients_close,
    every_text_model,
    every_visual_encoder,
    gradients_of,
    random_batch,
    random_video_batch,
    state_of,
    tiny_config,
    tiny_model,
    video_of,
    visual_features_of,
)
from torch import nn
from torch.testing import assert_close

from modeling_flallm import FLaLLMForTranslation


def rows_of(batch: dict[str, torch.Tensor], rows: slice) -> dict[str, torch.Tensor]:
    return {name: value[rows] for name, value in batch.items()}


# ------------------------------------------------------------------------------------------ loss


@every_text_model
def test_the_decoder_reads_what_the_text_model_would_make_of_the_labels(text):
    model = tiny_model(text)
    batch = random_batch([9, 5, 7])
    labels = batch["labels"].clone()
    decoder_input_ids = model.prepare_decoder_input_ids_from_labels(batch["labels"])
    for row, sentence in zip(decoder_input_ids.tolist(), labels.tolist(), strict=True):
        first = [token for token in sentence if token != -100][-1] if text == "mbart" else START
        assert row == [first] + [PAD if token == -100 else token for token in sentence[:-1]]
    assert torch.equal(batch["labels"], labels)
    encoder_outputs = model.encode(**video_of(batch))
    own = model.text_model(
        encoder_outputs=encoder_outputs, attention_mask=encoder_outputs.attention_mask, labels=batch["labels"]
    )
    assert_close(model(**batch).logits, own.logits, atol=1e-4, rtol=1e-5)


@every_text_model
@pytest.mark.parametrize("label_smoothing", [0, 0.2])
def test_the_loss_is_smoothed_in_training_only(text, label_smoothing):
    model = tiny_model(text, label_smoothing=label_smoothing)
    batch = random_batch([9, 5, 7])
    labels = batch["labels"].flatten()
    for training in (True, False):
        output = model.train(training)(**batch)
        expected = nn.functional.cross_entropy(
            output.logits.flatten(0, 1), labels, label_smoothing=label_smoothing if training else 0.0
        )
        assert_close(output.loss, expected, atol=1e-5, rtol=1e-5)


@every_text_model
@pytest.mark.parametrize("word_presence_loss_weight", [0, 10])
def test_ignored_labels_have_no_influence(text, word_presence_loss_weight):
    model = tiny_model(text, word_presence_loss_weight=word_presence_loss_weight).double()
    batch = random_batch([9, 5, 7])
    longer = {**batch, "labels": nn.functional.pad(batch["labels"], (0, 4), value=-100)}
    assert_close(model(**longer).loss, model(**batch).loss, atol=1e-5, rtol=1e-5)
    gradients = []
    for inputs in (batch, longer):
        model.zero_grad()
        model(**inputs).loss.backward()
        gradients.append(gradients_of(model))
    assert_gradients_close(*gradients)


@every_text_model
@pytest.mark.parametrize("word_presence_loss_weight", [0, 10])
def test_gradients_do_not_depend_on_how_a_batch_is_split(text, word_presence_loss_weight):
    model = tiny_model(text, word_presence_loss_weight=word_presence_loss_weight).double().train()
    model.vision_model.eval()  # batch statistics depend on the batch
    batch = random_batch([9, 5, 7, 8])
    num_items_in_batch = (batch["labels"] != -100).sum()
    whole = model(**batch)
    whole.loss.backward()
    expected = gradients_of(model)
    model.zero_grad()
    total = 0.0
    for rows, number in ((slice(0, 2), num_items_in_batch), (slice(2, 4), int(num_items_in_batch))):
        loss = model(**rows_of(batch, rows), num_items_in_batch=number).loss
        loss.backward()
        total += loss.detach()
    assert_close(total, whole.loss.detach(), atol=1e-5, rtol=1e-5)
    assert_gradients_close(gradients_of(model), expected)


def word_score(model: FLaLLMForTranslation, visual_embedding: torch.Tensor, word: int) -> torch.Tensor:
    head = model.word_presence_head
    return visual_embedding @ head.weight[word] + head.bias[word]


def word_presence_loss_by_hand(model: FLaLLMForTranslation, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean over clips, weighted by their label tokens, of the cross entropy per different word of the sentence."""
    features = visual_features_of(model, batch)
    embeddings = model.adapter(features["visual_features"])
    total, num_labels = torch.zeros((), dtype=torch.float64), 0
    for row, sentence in enumerate(batch["labels"].tolist()):
        tokens = [token for token in sentence if token != -100]
        num_visual_tokens = int(features["visual_attention_mask"][row].sum())
        terms = []
        for word in range(VOCABULARY_SIZE):
            scores = [word_score(model, embeddings[row, time], word) for time in range(num_visual_tokens)]
            score = torch.stack(scores).exp().sum().log()
            # -log(sigmoid(score)) of a present word, -log(1 - sigmoid(score)) of an absent one
            terms.append(torch.log1p(torch.exp((-score if word in tokens else score).double())))
        total = total + torch.stack(terms).sum() / len(set(tokens)) * len(tokens)
        num_labels += len(tokens)
    return total / num_labels


@pytest.mark.parametrize("text", ["mbart", "t5"])
def test_the_word_presence_loss_equals_a_plain_loop(text):
    model = tiny_model(text, label_smoothing=0, word_presence_loss_weight=2.5)
    nn.init.normal_(model.word_presence_head.bias)
    batch = random_batch([9, 5, 7])
    output = model(**batch)
    cross_entropy = nn.functional.cross_entropy(output.logits.flatten(0, 1), batch["labels"].flatten())
    expected = cross_entropy + 2.5 * word_presence_loss_by_hand(model, batch)
    assert_close(output.loss.double(), expected, atol=1e-4, rtol=1e-5)


@every_visual_encoder
def test_visual_padding_has_no_influence_on_the_word_presence_loss(vision):
    model = tiny_model("bart", vision, word_presence_loss_weight=100)
    batch = random_video_batch()
    losses = []
    for row, length in enumerate(batch["pixel_attention_mask"].sum(1)):
        alone = model(batch["pixel_values_videos"][row : row + 1, :length], labels=batch["labels"][row : row + 1])
        losses.append(alone.loss * (batch["labels"][row] != -100).sum())
    expected = torch.stack(losses).sum() / (batch["labels"] != -100).sum()
    assert_close(model(**batch).loss, expected, atol=1e-3, rtol=1e-5)


def test_the_word_presence_head_exists_only_with_its_loss():
    assert not any("word_presence" in name for name in tiny_model().state_dict())
    assert any("word_presence" in name for name in tiny_model(word_presence_loss_weight=1).state_dict())


def test_the_word_presence_head_starts_with_all_words_absent():
    head = FLaLLMForTranslation(tiny_config(word_presence_loss_weight=1)).word_presence_head
    assert head.bias.tolist() == [-6] * VOCABULARY_SIZE


@every_text_model
def test_the_word_presence_loss_trains_the_visual_side_only(text):
    model = tiny_model(text, word_presence_loss_weight=10).double()
    batch = random_batch([9, 5, 7])
    gradients = {}
    for weight in (10, 0):
        model.config.word_presence_loss_weight = weight
        model.zero_grad()
        model(**batch).loss.backward()
        gradients[weight] = gradients_of(model)
    for name in gradients[0]:
        same = torch.equal(gradients[0][name], gradients[10][name])
        assert same == name.startswith("text_model."), name


# ------------------------------------------------------------------------------------------ training


@every_text_model
@pytest.mark.parametrize("word_presence_loss_weight", [0, 10])
def test_every_parameter_gets_a_gradient(text, word_presence_loss_weight):
    model = tiny_model(text, word_presence_loss_weight=word_presence_loss_weight).train()
    model(**random_batch([9, 5, 7])).loss.backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []
    assert all(gradient.isfinite().all() for gradient in gradients_of(model).values())


@every_text_model
def test_a_frozen_encoder_stays_as_it_is_and_everything_else_moves(text):
    model = tiny_model(text)
    model.freeze_visual_encoder()
    before = state_of(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)
    for _ in range(2):
        model.train()
        model(**random_batch([9, 5, 7])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.vision_model.parameters())
    after = model.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert not {name for name in changed if name.startswith("vision_model.")}
    assert {name for name, _ in model.named_parameters() if not name.startswith("vision_model.")} <= changed


@every_text_model
def test_in_stage_one_everything_moves(text):
    model = tiny_model(text, word_presence_loss_weight=1).train()
    before = state_of(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    for _ in range(2):
        model(**random_batch([9, 5, 7])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = model.state_dict()
    unchanged = {name for name, value in before.items() if torch.equal(value, after[name])}
    assert unchanged <= {"text_model.final_logits_bias"}  # a buffer of MBart and BART that is never trained


@every_text_model
def test_checkpointing_changes_neither_loss_nor_gradients_nor_statistics(text):
    model = tiny_model(text, word_presence_loss_weight=1).double().train()
    checkpointed = copy.deepcopy(model)
    getattr(checkpointed, "activation_checkpointing_enable", checkpointed.gradient_checkpointing_enable)()
    counted = {"cnn": 0, "text encoder": 0}

    def count(name: str):
        counted[name] += 1

    encoder = checkpointed.text_model.get_encoder()
    linear = next(module for module in encoder.modules() if isinstance(module, nn.Linear))
    checkpointed.vision_model.backbone.layer2[0].register_forward_pre_hook(lambda *inputs: count("cnn"))
    linear.register_forward_pre_hook(lambda *inputs: count("text encoder"))

    batch = random_batch([9, 5, 7])
    losses = []
    for each in (model, checkpointed):
        losses.append(each(**batch).loss)
        losses[-1].backward()
    assert counted == {"cnn": 2, "text encoder": 2}  # both are computed again in the backward pass
    assert_close(losses[1], losses[0], atol=1e-6, rtol=1e-6)
    assert_gradients_close(gradients_of(checkpointed), gradients_of(model))
    assert_close(state_of(checkpointed), state_of(model), atol=0, rtol=0)


def test_checkpointing_works_behind_a_frozen_encoder():
    model = tiny_model("mbart")
    model.freeze_visual_encoder()
    model.train()
    batch = random_batch([9, 5, 7])
    model(**batch).loss.backward()
    expected = gradients_of(model)
    model.zero_grad()
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    model(**batch).loss.backward()
    assert_gradients_close(gradients_of(model), expected)


@every_text_model
def test_it_works_in_bfloat16(text):
    model = tiny_model(text, word_presence_loss_weight=1).to(torch.bfloat16)
    batch = random_batch([9, 5, 7])
    features = visual_features_of(model.float(), batch)  # 32-bit features from a cache
    model = model.to(torch.bfloat16)
    for video in (video_of(batch), features):
        output = model(**video, labels=batch["labels"])
        assert output.logits.dtype == torch.bfloat16
        assert output.loss.dtype == torch.float32 and output.loss.isfinite()
        assert model.generate(**video, num_beams=2, max_new_tokens=4).shape[0] == 3
    model.train()(**batch).loss.backward()
    assert all(gradient.isfinite().all() for gradient in gradients_of(model).values())


@every_text_model
def test_autocast_gives_nearly_the_same_loss(text):
    model = tiny_model(text, word_presence_loss_weight=1)
    batch = random_batch([9, 5, 7])
    expected = model(**batch).loss
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**batch).loss
        training_loss = model.train()(**batch).loss
    assert loss.dtype == torch.float32
    assert_close(loss, expected, rtol=0.05, atol=0)
    training_loss.backward()
    assert all(gradient.isfinite().all() for gradient in gradients_of(model).values())
