"""FLa-LLM as a whole, with every kind of text model: outputs, generation, loss, training, saving, both stages."""

import copy
import re
from pathlib import Path

import pytest
import torch
from tiny_models import (
    PAD,
    SHORTEST_CLIP_IN_FRAMES,
    START,
    TEXT_MODELS,
    VOCABULARY_SIZE,
    random_batch,
    tiny_config,
    tiny_model,
    tiny_text_config,
    tiny_vision_model,
)
from torch import nn
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, GPT2Config, GPT2LMHeadModel

from modeling_flallm import FLaLLMConfig, FLaLLMForTranslation

every_text_model = pytest.mark.parametrize("text", TEXT_MODELS)
VISUAL_ENCODERS = {
    "paper": {},
    "sltbaselines": {"temporal_blocks": ["K5", "P2", "K5", "P2"], "temporal_padding": "replicate"},
    "layer norm, no padding": {
        "temporal_blocks": ["K5", "P2", "K5", "P2"],
        "temporal_padding": "none",
        "temporal_norm": "layer_norm",
    },
    "K3": {"temporal_blocks": ["K3"], "temporal_norm": "layer_norm"},
}
every_visual_encoder = pytest.mark.parametrize("vision", VISUAL_ENCODERS.values(), ids=VISUAL_ENCODERS.keys())
GENERATION = {
    "greedy": {"max_new_tokens": 8},
    "beams": {"max_new_tokens": 8, "num_beams": 4},
    "beams, several sentences": {"max_new_tokens": 8, "num_beams": 4, "num_return_sequences": 3},
}
every_generation = pytest.mark.parametrize("generation", GENERATION.values(), ids=GENERATION.keys())


def video_of(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: batch[name] for name in ("pixel_values_videos", "pixel_attention_mask")}


def rows_of(batch: dict[str, torch.Tensor], rows: slice) -> dict[str, torch.Tensor]:
    return {name: value[rows] for name, value in batch.items()}


def random_video_batch(**values) -> dict[str, torch.Tensor]:
    """Three clips of unequal lengths that are long enough for every visual encoder here."""
    return random_batch((torch.randperm(12)[:3] + SHORTEST_CLIP_IN_FRAMES).tolist(), **values)


def visual_features_of(model: FLaLLMForTranslation, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    output = model.vision_model(**video_of(batch))
    return {"visual_features": output.last_hidden_state, "visual_attention_mask": output.attention_mask}


def without_end_padding(sequence: torch.Tensor) -> list[int]:
    tokens = sequence.tolist()
    while tokens and tokens[-1] == PAD:
        tokens.pop()
    return tokens


def state_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def gradients_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_gradients_close(gradients: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """1e-5 of the largest entry of each gradient, and of 1 where they are small."""
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        tolerance = 1e-5 * max(1.0, gradient.abs().max().item())
        assert_close(gradients[name], gradient, atol=tolerance, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


# ------------------------------------------------------------------------------------------ padding


@every_text_model
@every_visual_encoder
def test_logits_do_not_depend_on_the_batch_or_padding(text, vision):
    model = tiny_model(text, vision)
    batch = random_video_batch()
    padding = batch["pixel_attention_mask"][..., None, None, None] == 0
    batch["pixel_values_videos"] += padding * torch.randn_like(batch["pixel_values_videos"]) * 1e4
    with torch.no_grad():
        logits = model(**batch).logits
        for row, length in enumerate(batch["pixel_attention_mask"].sum(1)):
            alone = model(batch["pixel_values_videos"][row : row + 1, :length], labels=batch["labels"][row : row + 1])
            assert_close(logits[row], alone.logits[0], atol=1e-4, rtol=1e-5)
    assert (logits[0, 0] - logits[1, 0]).abs().max() > 1e-3  # the video is seen at all


@every_text_model
@every_visual_encoder
@pytest.mark.parametrize("num_beams", [1, 4])
def test_sentences_do_not_depend_on_the_batch_or_padding(text, vision, num_beams):
    model = tiny_model(text, vision)
    batch = video_of(random_video_batch())
    settings = {"num_beams": num_beams, "max_new_tokens": 8, "return_dict_in_generate": True, "output_scores": True}
    together = model.generate(**batch, **settings)
    for row, length in enumerate(batch["pixel_attention_mask"].sum(1)):
        alone = model.generate(batch["pixel_values_videos"][row : row + 1, :length], **settings)
        assert without_end_padding(together.sequences[row]) == without_end_padding(alone.sequences[0])
        if num_beams > 1:
            assert_close(together.sequences_scores[row], alone.sequences_scores[0], atol=1e-4, rtol=0)
        else:
            assert_close(together.scores[0][row], alone.scores[0][0], atol=1e-4, rtol=1e-5)


# ------------------------------------------------------------------------------------------ generation


@every_text_model
@every_generation
def test_cached_decoding_equals_uncached(text, generation):
    model = tiny_model(text)
    batch = video_of(random_batch([9, 5]))
    settings = {**generation, "return_dict_in_generate": True, "output_scores": True, "suppress_tokens": [PAD]}
    # A padding token within a sentence has no position in M2M100, but has one with a cache. Trained models make none.
    cached = model.generate(**batch, **settings, use_cache=True)
    uncached = model.generate(**batch, **settings, use_cache=False)
    assert cached.past_key_values is not None and uncached.past_key_values is None
    assert torch.equal(cached.sequences, uncached.sequences)
    assert len(cached.scores) == len(uncached.scores)
    if generation.get("num_beams"):  # the scores of single beams are in no fixed order once some have ended
        assert_close(cached.sequences_scores, uncached.sequences_scores, atol=1e-4, rtol=1e-5)
    else:
        assert_close(cached.scores, uncached.scores, atol=1e-4, rtol=1e-5)


@every_text_model
def test_a_decoding_step_equals_the_forward_pass(text):
    model = tiny_model(text)
    batch = video_of(random_batch([9, 5]))
    generated = model.generate(
        **batch,
        max_new_tokens=6,
        min_new_tokens=6,
        suppress_tokens=[PAD],
        return_dict_in_generate=True,
        output_logits=True,
    )
    logits = model(**batch, decoder_input_ids=generated.sequences[:, :-1]).logits
    assert generated.sequences[:, 0].tolist() == [START, START]
    assert_close(torch.stack(generated.logits, dim=1), logits, atol=1e-4, rtol=1e-5)


@every_text_model
@every_generation
def test_every_form_of_a_video_gives_the_same_sentences(text, generation):
    model = tiny_model(text)
    batch = random_batch([9, 5])
    features = visual_features_of(model, batch)
    settings = {**generation, "return_dict_in_generate": True, "output_logits": True}
    expected = model.generate(**video_of(batch), **settings)
    forms = (
        features,
        {"encoder_outputs": model.encode(**video_of(batch))},
        {"encoder_outputs": model.encode(**features)},
    )
    for form in forms:
        output = model.generate(**form, **settings)
        assert torch.equal(output.sequences, expected.sequences)
        assert_close(output.logits, expected.logits, atol=1e-4, rtol=1e-5)
    num_sequences = 2 * generation.get("num_return_sequences", 1)
    assert expected.sequences.shape[0] == num_sequences


@every_text_model
def test_every_form_of_a_video_gives_the_same_loss(text):
    model = tiny_model(text)
    batch = random_batch([9, 5])
    expected = model(**batch)
    for form in (visual_features_of(model, batch), {"encoder_outputs": model.encode(**video_of(batch))}):
        output = model(**form, labels=batch["labels"])
        assert_close(output.logits, expected.logits, atol=1e-4, rtol=1e-5)
        assert_close(output.loss, expected.loss, atol=1e-5, rtol=1e-5)


@every_text_model
def test_labels_beside_the_video_do_not_change_the_sentences(text):
    model = tiny_model(text)
    batch = random_batch([9, 5])  # the Trainer hands the whole batch to `generate`
    expected = model.generate(**video_of(batch), num_beams=2, max_new_tokens=5)
    assert torch.equal(model.generate(**batch, num_beams=2, max_new_tokens=5), expected)


@every_text_model
def test_sampling_follows_the_seed(text):
    model = tiny_model(text)
    batch = video_of(random_batch([9, 5, 7]))

    def sample(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return model.generate(**batch, do_sample=True, temperature=5.0, min_new_tokens=12, max_new_tokens=12, top_k=0)

    assert torch.equal(sample(1), sample(1))
    assert not torch.equal(sample(1), sample(2))


def test_several_samples_per_clip_belong_to_their_clip():
    model = tiny_model("mbart")
    batch = random_batch([9, 5])
    output = model.generate(
        **video_of(batch),
        do_sample=True,
        num_return_sequences=3,
        max_new_tokens=4,
        return_dict_in_generate=True,
        output_logits=True,
    )
    expected = model(**video_of(batch), decoder_input_ids=torch.full((2, 1), START)).logits[:, 0]
    assert_close(output.logits[0], expected.repeat_interleave(3, dim=0), atol=1e-4, rtol=1e-5)


@every_text_model
@pytest.mark.parametrize("form", ["pixels", "features"])
def test_beams_encode_the_video_once(text, form):
    model = tiny_model(text)
    batch = random_batch([9, 5])
    video = video_of(batch) if form == "pixels" else visual_features_of(model, batch)
    counted = {"vision": [], "text": []}
    model.vision_model.register_forward_hook(lambda module, inputs, output: counted["vision"].append(1))
    model.text_model.get_encoder().register_forward_hook(
        lambda module, inputs, output: counted["text"].append(len(output.last_hidden_state))
    )
    model.generate(**video, num_beams=4, max_new_tokens=4)
    assert counted == {"vision": [1] if form == "pixels" else [], "text": [2]}


@every_text_model
def test_generation_returns_scores_and_attentions(text):
    model = tiny_model(text)
    model.set_attn_implementation("eager")
    batch = video_of(random_batch([9, 5]))
    output = model.generate(
        **batch,
        num_beams=3,
        num_return_sequences=2,
        max_new_tokens=5,
        min_new_tokens=5,
        return_dict_in_generate=True,
        output_scores=True,
        output_attentions=True,
        output_hidden_states=True,
    )
    assert output.sequences.shape == (2 * 2, 1 + 5)
    assert output.sequences_scores.shape == (2 * 2,)
    assert [scores.shape for scores in output.scores] == [(2 * 3, VOCABULARY_SIZE)] * 5
    assert [attentions.shape for attentions in output.encoder_attentions] == [(2, 4, 9, 9)] * 2
    assert [hidden.shape for hidden in output.encoder_hidden_states] == [(2, 9, 32)] * 3
    assert len(output.cross_attentions) == 5
    for layers in output.cross_attentions:
        assert [attentions.shape for attentions in layers] == [(2 * 3, 4, 1, 9)] * 2
        for attentions in layers:
            assert_close(attentions.sum(-1), torch.ones(2 * 3, 4, 1))
            assert (attentions[3:, ..., 5:] == 0).all()  # the padding of the second clip


def test_generation_follows_its_own_configuration():
    model = tiny_model("mbart")
    batch = video_of(random_batch([9, 5]))
    settings = copy.deepcopy(model.generation_config)
    settings.update(num_beams=3, max_new_tokens=3, return_dict_in_generate=True, output_hidden_states=True)
    output = model.generate(**batch, generation_config=settings)
    assert output.sequences.shape == (2, 4)
    assert output.encoder_hidden_states is not None
    assert torch.equal(output.sequences, model.generate(**batch, num_beams=3, max_new_tokens=3))


def test_an_unknown_generation_argument_is_refused():
    with pytest.raises(ValueError, match="num_beam"):
        tiny_model().generate(**video_of(random_batch([4])), num_beam=3)


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
    model.vision_model.eval()  # batch statistics are those of a batch
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
            # -log(sigmoid(score)) of a word that is there, -log(1 - sigmoid(score)) of one that is not
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


# ------------------------------------------------------------------------------------------ errors


def test_exactly_one_form_of_a_video_is_taken():
    model = tiny_model()
    batch = random_batch([4, 3])
    message = "Pass exactly one of `pixel_values_videos`, `visual_features` and `encoder_outputs`."
    for video in ({}, {**video_of(batch), **visual_features_of(model, batch)}):
        for call in (model, model.generate, model.encode):
            with pytest.raises(ValueError, match=re.escape(message)):
                call(**video)


def test_two_forms_of_a_video_are_refused_beside_encoder_outputs():
    model = tiny_model()
    batch = random_batch([4, 3])
    encoder_outputs = model.encode(**video_of(batch))
    message = "Pass exactly one of `pixel_values_videos`, `visual_features` and `encoder_outputs`."
    for video in (video_of(batch), visual_features_of(model, batch)):
        for call in (model, model.generate):
            with pytest.raises(ValueError, match=re.escape(message)):
                call(**video, encoder_outputs=encoder_outputs)


@pytest.mark.parametrize("shape", [(2, 5, 23), (5, 24), (2, 5, 24, 1)])
def test_visual_features_of_the_wrong_shape_are_refused(shape):
    message = f"`visual_features` must have the shape (batch, tokens, 24), got {shape}."
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny_model()(visual_features=torch.randn(shape), decoder_input_ids=torch.ones(2, 1, dtype=torch.long))


@pytest.mark.parametrize("text", ["mbart", "bart"])
def test_more_tokens_than_learned_positions_are_refused(text):
    model = tiny_model(text)
    decoder_input_ids = torch.full((1, 1), START)
    assert model(visual_features=torch.randn(1, 64, 24), decoder_input_ids=decoder_input_ids).logits.isfinite().all()
    message = (
        f"The video gives 65 visual tokens, but the text model {text!r} takes at most 64. Lower `max_num_frames` or "
        "`frame_sampling_rate` of the video processor, or cut the video with `start` and `end`."
    )
    for video in ({"pixel_values_videos": torch.randn(1, 65, 3, 32, 32)}, {"visual_features": torch.randn(1, 65, 24)}):
        with pytest.raises(ValueError, match=re.escape(message)):
            model(**video, decoder_input_ids=decoder_input_ids)
        with pytest.raises(ValueError, match=re.escape(message)):
            model.generate(**video)


@pytest.mark.parametrize("text", ["mbart", "bart"])
def test_a_sentence_too_long_for_learned_positions_is_refused(text):
    model, batch = tiny_model(text), random_batch([6, 5])
    longest = model.config.text_config.max_position_embeddings
    model(**{**batch, "labels": torch.randint(4, VOCABULARY_SIZE, (2, longest))})
    message = (
        f"A sentence of the batch has {longest + 1} tokens, but the text model {text!r} writes at most {longest}. "
        "Shorten or split the sentence."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        model(**{**batch, "labels": torch.randint(4, VOCABULARY_SIZE, (2, longest + 1))})


@pytest.mark.parametrize("text", ["t5", "mt5", "m2m_100"])
def test_more_tokens_than_positions_are_taken_where_positions_are_computed(text):
    model = tiny_model(text)
    sentences = model.generate(visual_features=torch.randn(1, 150, 24), max_new_tokens=3)
    assert sentences.shape[0] == 1
    assert model(visual_features=torch.randn(1, 150, 24), decoder_input_ids=sentences).logits.isfinite().all()


# ------------------------------------------------------------------------------------------ saving and loading


def assert_same_model(loaded: FLaLLMForTranslation, model: FLaLLMForTranslation, batch: dict) -> None:
    assert type(loaded) is FLaLLMForTranslation
    assert not loaded.training
    assert_close(state_of(loaded), state_of(model), atol=0, rtol=0)
    output, expected = loaded(**batch), model(**batch)
    assert torch.equal(output.logits, expected.logits)
    assert torch.equal(output.loss, expected.loss)
    generation = {**video_of(batch), "num_beams": 2, "max_new_tokens": 4}
    assert torch.equal(loaded.generate(**generation), model.generate(**generation))


@every_text_model
@pytest.mark.parametrize(
    ("dtype", "max_shard_size"),
    [(torch.float32, "5GB"), (torch.bfloat16, "60KB")],
    ids=["one file", "bfloat16 in shards"],
)
def test_it_is_saved_and_loaded(text, dtype, max_shard_size, tmp_path):
    model = tiny_model(text, {"temporal_blocks": ["K3", "P2"]}, word_presence_loss_weight=1).to(dtype)
    model.generation_config.repetition_penalty = 1.7
    model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    weights = {path.suffix for path in tmp_path.iterdir()} - {".json", ".py"}
    assert weights == {".safetensors"}
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (max_shard_size == "60KB")
    for auto_class in (FLaLLMForTranslation, AutoModel, AutoModelForSeq2SeqLM):
        loaded = auto_class.from_pretrained(tmp_path, dtype=dtype)
        assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
        assert loaded.generation_config.repetition_penalty == 1.7
        assert_same_model(loaded, model, random_batch([9, 5]))
    assert type(AutoConfig.from_pretrained(tmp_path)) is FLaLLMConfig


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_the_implementation_of_attention_can_be_chosen(implementation, tmp_path):
    model, inputs = tiny_model(), random_batch([9, 5])
    model.save_pretrained(tmp_path)
    loaded = FLaLLMForTranslation.from_pretrained(tmp_path, attn_implementation=implementation)
    assert loaded.text_model.config._attn_implementation == implementation
    torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits, atol=1e-5, rtol=1e-4)


@every_text_model
def test_a_saved_precision_is_kept_and_another_can_be_asked_for(text, tmp_path):
    tiny_model(text).to(torch.bfloat16).save_pretrained(tmp_path)
    for asked_for, expected in (("auto", torch.bfloat16), (torch.float32, torch.float32)):
        loaded = FLaLLMForTranslation.from_pretrained(tmp_path, dtype=asked_for)
        assert {parameter.dtype for parameter in loaded.parameters()} == {expected}
        assert loaded(**random_batch([5])).loss.isfinite()


@every_text_model
def test_tied_weights_stay_tied(text, tmp_path):
    model = tiny_model(text)
    model.save_pretrained(tmp_path)
    loaded = FLaLLMForTranslation.from_pretrained(tmp_path)
    for each in (model, loaded):
        embeddings = each.get_input_embeddings().weight
        tied = each.get_output_embeddings().weight.data_ptr() == embeddings.data_ptr()
        assert tied == each.text_model.config.tie_word_embeddings
        for side in (each.text_model.get_encoder(), each.text_model.get_decoder()):
            assert side.embed_tokens.weight.data_ptr() == embeddings.data_ptr()
    assert loaded.num_parameters() == model.num_parameters()
    assert tiny_model("mbart").text_model.config.tie_word_embeddings


@every_text_model
@pytest.mark.parametrize("vocabulary_size", [VOCABULARY_SIZE + 9, VOCABULARY_SIZE - 9])
def test_the_embeddings_can_be_resized(text, vocabulary_size, tmp_path):
    model = tiny_model(text)
    model.resize_token_embeddings(vocabulary_size)
    batch = random_batch([9, 5])
    batch["labels"].clamp_(max=vocabulary_size - 1)
    assert model(**batch).logits.shape[-1] == vocabulary_size
    assert model.config.text_config.vocab_size == vocabulary_size
    if hasattr(model.text_model, "final_logits_bias"):
        assert model.text_model.final_logits_bias.shape == (1, vocabulary_size)
    model.save_pretrained(tmp_path)
    assert_same_model(FLaLLMForTranslation.from_pretrained(tmp_path), model, batch)


def test_the_embeddings_cannot_be_resized_under_a_word_presence_head():
    message = (
        "The word-presence head is bound to the vocabulary. Build the model with `word_presence_loss_weight=0`, or "
        "with a text model whose embeddings have been resized."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny_model(word_presence_loss_weight=1).resize_token_embeddings(50)


@every_text_model
def test_two_models_from_one_configuration_share_nothing(text):
    config = tiny_config(text)
    before = config.to_json_string()
    first, second = FLaLLMForTranslation(config).eval(), FLaLLMForTranslation(config).eval()
    first.resize_token_embeddings(VOCABULARY_SIZE + 5)
    first.set_attn_implementation("eager")
    first.config.vision_config.hidden_size = 1
    assert second.config.text_config.vocab_size == VOCABULARY_SIZE
    assert second.config._attn_implementation != "eager"
    assert second(**random_batch([5])).logits.shape[-1] == VOCABULARY_SIZE
    assert config.to_json_string() == before
    addresses = [{parameter.data_ptr() for parameter in each.parameters()} for each in (first, second)]
    assert not addresses[0] & addresses[1]


# ------------------------------------------------------------------------------------------ from stage 1 to stage 2


def save_text_model(text: str, folder: Path, **values) -> nn.Module:
    model = AutoModelForSeq2SeqLM.from_config(tiny_text_config(text, **values))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.generation_config.num_beams = 3
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("text", ["t5", "mt5"])
def test_output_embeddings_of_their_own_stay_so(text, tmp_path):
    """Those of mT5 and T5 v1.1: transformers ties by configuration only where a checkpoint does not hold both."""
    tiny_vision_model().save_pretrained(tmp_path / "stage1")
    text_model = AutoModelForSeq2SeqLM.from_config(tiny_text_config(text, tie_word_embeddings=False)).eval()
    text_model.lm_head.weight = torch.nn.Parameter(torch.randn_like(text_model.lm_head.weight))
    text_model.save_pretrained(tmp_path / "text")
    model = FLaLLMForTranslation.from_vision_text_pretrained(str(tmp_path / "stage1"), str(tmp_path / "text"))
    model.save_pretrained(tmp_path / "stage2")
    for each in (model, FLaLLMForTranslation.from_pretrained(tmp_path / "stage2")):
        assert_close(state_of(each.text_model), state_of(text_model), atol=0, rtol=0)
        assert each.get_output_embeddings().weight is not each.get_input_embeddings().weight


@pytest.mark.parametrize(
    ("stage_one", "text"), [("visual encoder", "mbart"), *(("whole model", text) for text in TEXT_MODELS)]
)
def test_stage_two_starts_from_both_checkpoints(stage_one, text, tmp_path):
    first_stage = tiny_model("mbart", {"temporal_blocks": ["K3", "P2"]}, word_presence_loss_weight=1)
    saved = first_stage if stage_one == "whole model" else first_stage.vision_model
    saved.save_pretrained(tmp_path / "stage1")
    text_model = save_text_model(text, tmp_path / "text", vocab_size=55)

    model = FLaLLMForTranslation.from_vision_text_pretrained(
        str(tmp_path / "stage1"), str(tmp_path / "text"), label_smoothing=0.1, adapter_hidden_size=28
    )
    assert_close(state_of(model.vision_model), state_of(first_stage.vision_model), atol=0, rtol=0)
    assert_close(state_of(model.text_model), state_of(text_model), atol=0, rtol=0)
    assert model.adapter.first.weight.shape == (28, 24)
    assert model.adapter.first.weight.flatten()[0] != first_stage.adapter.first.weight.flatten()[0]
    assert (model.config.label_smoothing, model.config.word_presence_loss_weight) == (0.1, 0)
    assert list(model.config.vision_config.temporal_blocks) == ["K3", "P2"]
    assert model.config.text_config.vocab_size == 55
    assert model.generation_config.num_beams == 3

    model.eval().save_pretrained(tmp_path / "stage2")
    assert_same_model(FLaLLMForTranslation.from_pretrained(tmp_path / "stage2"), model, random_batch([9, 5]))


@every_text_model
def test_the_word_presence_head_of_stage_two_starts_from_the_token_embeddings(text, tmp_path):
    tiny_model("mbart").save_pretrained(tmp_path / "stage1")
    embeddings = save_text_model(text, tmp_path / "text").get_input_embeddings().weight
    model = FLaLLMForTranslation.from_vision_text_pretrained(
        str(tmp_path / "stage1"), str(tmp_path / "text"), word_presence_loss_weight=1
    )
    assert_close(model.word_presence_head.weight, 4 * embeddings / embeddings.norm(dim=1, keepdim=True))
    assert model.word_presence_head.weight.data_ptr() != model.get_input_embeddings().weight.data_ptr()


@every_text_model
def test_stage_two_is_in_single_precision_whatever_its_parts_were_saved_in(text, tmp_path):
    tiny_model("mbart").to(torch.bfloat16).save_pretrained(tmp_path / "stage1")
    AutoModelForSeq2SeqLM.from_config(tiny_text_config(text)).to(torch.bfloat16).save_pretrained(tmp_path / "text")
    model = FLaLLMForTranslation.from_vision_text_pretrained(str(tmp_path / "stage1"), str(tmp_path / "text"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    model(**random_batch([9, 5])).loss.backward()
    model.save_pretrained(tmp_path / "stage2")
    assert_same_model(FLaLLMForTranslation.from_pretrained(tmp_path / "stage2"), model.eval(), random_batch([9, 5]))


def test_stage_two_needs_a_stage_one_checkpoint(tmp_path):
    save_text_model("bart", tmp_path / "text")
    (tmp_path / "empty").mkdir()
    expected = (
        "Expected {!r} to be a stage-1 checkpoint (a folder or Hub id with a config.json of model type 'flallm' or "
        "'flallm_vision')"
    )
    reasons = {
        "empty": ", but it has no config.json that names a model type.",
        "missing": ", but it cannot be read: ",
        "text": ", got model type 'bart'. Train stage 1 of FLa-LLM first "
        "(flallm-visual-initialing), or name its output folder.",
    }
    for folder, reason in reasons.items():
        name = str(tmp_path / folder)
        with pytest.raises(ValueError, match=re.escape(expected.format(name) + reason)):
            FLaLLMForTranslation.from_vision_text_pretrained(name, str(tmp_path / "text"))


def test_stage_two_needs_an_encoder_decoder(tmp_path):
    tiny_model().save_pretrained(tmp_path / "stage1")
    config = GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20, n_positions=8)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    message = (
        "The text model of FLa-LLM must be an encoder-decoder (mBART, NLLB/M2M100, mT5/T5, BART, ...), got model type "
        "'gpt2', which is none."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        FLaLLMForTranslation.from_vision_text_pretrained(str(tmp_path / "stage1"), str(tmp_path / "gpt2"))


def test_stage_two_needs_a_text_model(tmp_path):
    tiny_model().save_pretrained(tmp_path / "stage1")
    (tmp_path / "empty").mkdir()
    reasons = {
        "missing": ", but it cannot be read: ",
        "empty": ", but it has no config.json that names a model type.",
    }
    for folder, reason in reasons.items():
        name = str(tmp_path / folder)
        message = f"Expected {name!r} to be a text model (a folder or Hub id of an encoder-decoder)" + reason
        with pytest.raises(ValueError, match=re.escape(message)):
            FLaLLMForTranslation.from_vision_text_pretrained(str(tmp_path / "stage1"), name)


def test_stage_two_refuses_a_flallm_checkpoint_as_text_model(tmp_path):
    tiny_model().save_pretrained(tmp_path / "stage1")
    with pytest.raises(ValueError, match=re.escape("got model type 'flallm', which is none.")):
        FLaLLMForTranslation.from_vision_text_pretrained(str(tmp_path / "stage1"), str(tmp_path / "stage1"))


# ------------------------------------------------------------------------------------------ adapter


@pytest.mark.parametrize("adapter_norm", [False, True])
@pytest.mark.parametrize("adapter_hidden_size", [0, 20])
def test_the_adapter_is_that_of_the_paper_or_of_sltbaselines(adapter_hidden_size, adapter_norm):
    model = tiny_model(adapter_hidden_size=adapter_hidden_size, adapter_norm=adapter_norm, adapter_activation="gelu")
    adapter = model.adapter
    features = torch.randn(2, 5, 24)
    hidden = features @ adapter.first.weight.T + adapter.first.bias
    if adapter_norm:
        hidden = nn.functional.layer_norm(hidden, hidden.shape[-1:])
    expected = nn.functional.gelu(hidden)
    if adapter_hidden_size:
        assert expected.shape[-1] == adapter_hidden_size
        expected = expected @ adapter.second.weight.T + adapter.second.bias
    assert_close(adapter(features), expected, atol=1e-5, rtol=1e-5)
    assert expected.shape == (2, 5, 32)


# ------------------------------------------------------------------------------------------ full size


def train_two_steps_at_full_size(device: str, bfloat16: bool) -> None:
    text_config = FLaLLMConfig().text_config.to_dict() | {"vocab_size": 5000}
    model = FLaLLMForTranslation(FLaLLMConfig(text_config=text_config)).to(device).train()
    before = state_of(model)
    batch = {name: value.to(device) for name, value in random_batch([8], size=224).items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
    for _ in range(2):
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert loss.isfinite()
    matrices = {name: parameter for name, parameter in model.named_parameters() if parameter.ndim > 1}
    assert [name for name, parameter in matrices.items() if torch.equal(parameter, before[name])] == []
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.slow
def test_the_model_of_the_paper_trains_at_full_size():
    train_two_steps_at_full_size("cpu", bfloat16=False)


@pytest.mark.gpu
@pytest.mark.slow
def test_the_model_of_the_paper_trains_at_full_size_on_a_gpu():
    train_two_steps_at_full_size("cuda", bfloat16=True)
