"""MMSLT: its configurations, the pretraining's loss, what each stage trains, and the way from one to the other."""

from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as distributed
from peft import LoraConfig, get_peft_model
from tiny_models import (
    DESCRIPTION_SIZE,
    error_texts,
    gradients_of,
    loss_and_gradients,
    random_batch,
    state_of,
    tiny_described_config,
    tiny_mmslt,
    tiny_mmslt_pretraining,
    tiny_text_config,
    tiny_vision_config,
    video_of,
    with_garbage_in_the_padding,
)
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForSeq2SeqLM
from two_processes import in_two_processes
from without_our_packages import run_without_our_packages

from modeling_flallm import (
    MmsltConfig,
    MmsltForPreTraining,
    MmsltForTranslation,
    MmsltPreTrainingConfig,
)
from modeling_flallm.encoder_described_slt import described_encoder_of
from modeling_flallm.encoder_frames_slt import FrameBackbone
from train_scripts.runs.training import prepare_visual_encoder

LORA = {"r": 2, "lora_alpha": 4, "lora_dropout": 0.0}


def pretraining_batch(lengths: list[int]) -> dict[str, torch.Tensor]:
    """Clips, of which every third frame is without a description, and embeddings of their sentences."""
    batch = video_of(random_batch(lengths))
    is_described = batch["pixel_attention_mask"].clone()
    is_described[:, ::3] = 0
    return {
        **batch,
        "description_embeddings": torch.randn(*is_described.shape, DESCRIPTION_SIZE) * is_described[..., None],
        "description_attention_mask": is_described,
        "sentence_embeddings": torch.randn(len(lengths), 32),
    }


def training(model: torch.nn.Module) -> torch.nn.Module:
    """In training mode, but without the statistics of a batch, which differ between one clip and three."""
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    return model


def changed_by_a_step(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> tuple[set[str], set[str]]:
    """Names of the parameters and buffers that a step of an optimiser with weight decay changes, and of the others."""
    before = state_of(model)
    model.train()(**batch).loss.backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in trained)
    torch.optim.AdamW(trained, lr=0.1, weight_decay=0.1).step()
    after = model.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    return changed, before.keys() - changed


# ------------------------------------------------------------------------------------------ configurations


def test_the_defaults_are_mmslts():
    config = MmsltPreTrainingConfig()
    with torch.device("meta"):
        model = MmsltForPreTraining(config)
    described = described_encoder_of(model.vision_model).config
    assert (described.encoder_config.backbone, described.encoder_config.backbone_width) == ("resnet18", 64)
    assert (described.encoder_config.hidden_size, described.description_size, described.mapper_hidden_size) == (
        512,
        768,
        1024,
    )
    assert model.vision_model.get_num_tokens(500) == 126  # a quarter, and one, as sltbaselines
    assert [tuple(each.weight.shape) for each in (model.adapter.first, model.adapter.second)] == [(1024, 1024)] * 2
    assert (model.text_model.config.hidden_size, model.text_model.config.encoder_layers) == (1024, 12)
    assert (config.label_smoothing, config.temperature_init, described.mapper_loss_weight) == (0.2, 0.07, 0.1)
    names = {name.split(".")[-1] for name in model.get_lora_settings()["target_modules"]}
    assert names == {"q_proj", "k_proj", "v_proj", "out_proj"}
    assert len(model.get_lora_settings()["target_modules"]) == 12 * 4
    assert len(model.for_translation().get_lora_settings()["target_modules"]) == 12 * 4 + 12 * 8


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"temperature_init": 0}, "`temperature_init` must be above 0 and at most 1, got 0."),
        ({"memory_bank_size": -1}, "`memory_bank_size` must be 0 or more, got -1."),
        ({"text_config": {"model_type": "gpt2"}}, "must be an encoder-decoder"),
    ],
    ids=str,
)
def test_wrong_configurations(values, text):
    with error_texts(text):
        MmsltPreTrainingConfig(**values)


def test_the_configuration_for_translation_has_the_same_parts():
    config = tiny_mmslt_pretraining(label_smoothing=0.1).config
    other = config.for_translation()
    assert type(other) is MmsltConfig and other.label_smoothing == 0.1
    assert other.vision_config.to_dict() == config.vision_config.to_dict()
    assert not {"temperature_init", "memory_bank_size"} & other.to_dict().keys()


# ------------------------------------------------------------------------------------------ the loss of pretraining


def test_the_loss_is_the_contrast_and_the_mappers_error():
    model, batch = tiny_mmslt_pretraining(), pretraining_batch([9, 12, 7])
    output = model(**batch)
    tokens = model.vision_model(**video_of(batch))
    means = []
    for row in range(3):
        own = model.adapter(tokens.last_hidden_state[row : row + 1, : int(tokens.attention_mask[row].sum())])
        means.append(model.get_encoder()(inputs_embeds=own).last_hidden_state[0].mean(0))
    clips = torch.nn.functional.normalize(torch.stack(means), dim=1)
    assert_close(output.video_embeddings, clips, atol=1e-4, rtol=1e-4)
    logits = clips @ torch.nn.functional.normalize(batch["sentence_embeddings"], dim=1).T / 0.07
    contrast = -(logits.log_softmax(0).diag().mean() + logits.log_softmax(1).diag().mean()) / 2
    assert_close(output.sentence_loss, contrast, atol=1e-3, rtol=1e-3)
    described = described_encoder_of(model.vision_model)
    predicted = described.mapper(described.encoder(**video_of(batch)).last_hidden_state)
    errors = (predicted - batch["description_embeddings"]).square().mean(2)
    assert_close(output.encoder_loss, 0.1 * errors[batch["description_attention_mask"] == 1].mean())
    assert_close(output.loss, output.sentence_loss + output.encoder_loss)
    alone = model(**video_of(batch))
    assert alone.loss is None and torch.equal(alone.video_embeddings, output.video_embeddings)


def test_garbage_in_the_padding_changes_neither_loss_nor_gradient():
    model, batch = training(tiny_mmslt_pretraining()), pretraining_batch([9, 12, 7])
    model.text_model.eval()
    loss, gradients = loss_and_gradients(model, batch)
    model.zero_grad()
    model.visual_text_contrast.num_remembered.zero_()
    padded = {**batch, **with_garbage_in_the_padding(video_of(batch))}
    garbage = 1e4 * torch.randn(*padded["pixel_attention_mask"].shape, DESCRIPTION_SIZE)
    garbage[:, : garbage.shape[1] - 3] = torch.where(
        batch["description_attention_mask"][..., None] == 1, batch["description_embeddings"], garbage[:, :-3]
    )
    padded["description_embeddings"] = garbage
    padded["description_attention_mask"] = torch.nn.functional.pad(batch["description_attention_mask"], (0, 3))
    other_loss, other_gradients = loss_and_gradients(model, padded)
    assert_close(other_loss, loss, atol=1e-4, rtol=1e-4)
    for name, gradient in gradients.items():
        assert_close(other_gradients[name], gradient, atol=1e-3, rtol=1e-3)


def test_earlier_sentences_are_negatives_unless_they_are_the_clips_own():
    model = tiny_mmslt_pretraining().train()
    batch = pretraining_batch([9, 7])
    for _ in range(3):
        batch["sentence_embeddings"] = torch.randn(2, 32)
        model(**batch)
    memory = model.visual_text_contrast.memory_bank.clone()
    assert model.visual_text_contrast.num_remembered == 6
    batch["sentence_embeddings"] = torch.stack([5 * memory[2], torch.randn(32)])  # one is remembered, in another norm
    output = model(**batch)
    sentences = torch.nn.functional.normalize(batch["sentence_embeddings"], dim=1)
    logits = output.video_embeddings @ torch.cat([sentences, memory]).T / 0.07
    logits[0, 2 + 2] = -torch.inf
    own = torch.arange(2)
    expected = torch.nn.functional.cross_entropy(logits, own)
    expected = expected + torch.nn.functional.cross_entropy(logits[:, :2].T, own)
    assert_close(output.sentence_loss, expected / 2, atol=1e-4, rtol=1e-4)
    memory = model.visual_text_contrast.memory_bank.clone()
    output = model.eval()(**batch)  # evaluation has no memory: its loss must not depend on how much a run has seen
    logits = output.video_embeddings @ sentences.T / 0.07
    expected = torch.nn.functional.cross_entropy(logits, own) + torch.nn.functional.cross_entropy(logits.T, own)
    assert_close(output.sentence_loss, expected / 2, atol=1e-4, rtol=1e-4)
    assert torch.equal(model.visual_text_contrast.memory_bank, memory)


def test_the_cnn_works_in_chunks_behind_low_rank_adapters_too():
    model = tiny_mmslt_pretraining()
    wrapped = get_peft_model(model, LoraConfig(**LORA, **model.get_lora_settings())).train()
    prepare_visual_encoder(wrapped, SimpleNamespace(frames_per_chunk=4, fsdp=None, deepspeed=None))
    sizes: list[int] = []
    for module in wrapped.modules():
        if isinstance(module, FrameBackbone):
            module.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    wrapped(**pretraining_batch([9, 7]))
    assert sizes == [4, 4, 4, 4]


def test_inputs_that_nothing_reads_are_refused():
    batch = {**pretraining_batch([9, 7]), "description_embedings": torch.randn(2, 9, 6)}
    with error_texts("`description_attention_mask`, got `description_embedings`."):
        tiny_mmslt_pretraining()(**batch)


def test_sentences_of_another_width_are_refused():
    batch = {**pretraining_batch([9, 7]), "sentence_embeddings": torch.randn(2, 31)}
    with error_texts("must have the shape (batch, text hidden size) = (2, 32), got (2, 31)."):
        tiny_mmslt_pretraining()(**batch)


def train_in_process(rank: int, folder: str) -> None:
    """The loss and gradients of this process's share of the batch, 2 clips or 1, go to a file."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", f"file://{folder}/rendezvous", timeout=timedelta(seconds=60), rank=rank, world_size=2
    )
    model = MmsltForPreTraining.from_pretrained(f"{folder}/model", dtype=torch.float64).train()
    model.freeze_what_does_not_run()
    batch = torch.load(f"{folder}/batch.pt", weights_only=True)
    own = slice(0, 2) if rank == 0 else slice(2, 3)
    losses = []
    for _ in range(2):  # the second time with a memory
        model.zero_grad()
        output = model(**{name: value[own] for name, value in batch.items()})
        output.loss.backward()
        losses.append(output.loss.detach())
    gradients = gradients_of(model)
    for gradient in gradients.values():
        distributed.all_reduce(gradient)
    averaged = {name: gradient / 2 for name, gradient in gradients.items()}
    bank = model.visual_text_contrast.memory_bank
    torch.save({"losses": losses, "gradients": averaged, "bank": bank}, f"{folder}/result_{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_train_what_one_would(tmp_path):
    # In float64: gradients of random weights are large, and rounding would tip a ReLU here and there.
    model = tiny_mmslt_pretraining(memory_bank_size=5).double()
    model.save_pretrained(tmp_path / "model")
    batch = pretraining_batch([9, 12, 7])
    torch.save(batch, tmp_path / "batch.pt")
    in_two_processes(train_in_process, str(tmp_path))
    losses = []
    for _ in range(2):
        model.zero_grad()
        loss, _ = loss_and_gradients(model.train(), batch)
        losses.append(loss)
    for rank in range(2):
        result = torch.load(tmp_path / f"result_{rank}.pt", weights_only=True)
        assert_close(result["losses"], losses, atol=1e-5, rtol=1e-5)
        assert_close(result["bank"], model.visual_text_contrast.memory_bank)
        assert result["gradients"].keys() == gradients_of(model).keys()
        for name, gradient in gradients_of(model).items():
            assert_close(result["gradients"][name], gradient, atol=1e-3, rtol=1e-3, msg=lambda text, n=name: n + text)


# ------------------------------------------------------------------------------------------ what is trained


@pytest.mark.parametrize("text", ["mbart", "t5", "m2m_100"])
def test_pretraining_trains_all_but_the_decoder_and_the_words(text):
    model = tiny_mmslt_pretraining(text)
    of_encoder = {id(value) for value in model.get_encoder().parameters()}
    words = {id(model.get_input_embeddings().weight)}
    text_model = {name for name, _ in model.text_model.named_parameters(prefix="text_model")}
    trained_text = {
        name
        for name, value in model.text_model.named_parameters(prefix="text_model")
        if id(value) in of_encoder - words
    }
    changed, unchanged = changed_by_a_step(model, pretraining_batch([9, 12, 7]))
    assert trained_text and trained_text <= changed and text_model - trained_text <= unchanged
    others = {name for name in changed | unchanged if not name.startswith("text_model.")}
    assert others <= changed, others - changed


def test_fine_tuning_trains_all_but_the_mapper():
    model = tiny_mmslt()
    model.freeze_description_mapper()
    changed, unchanged = changed_by_a_step(model, random_batch([9, 12, 7]))
    mapper = {
        f"vision_model.encoder.mapper.{name}" for name, _ in described_encoder_of(model).mapper.named_parameters()
    }
    assert unchanged - {"text_model.final_logits_bias"} == mapper and len(mapper) == 4


@pytest.mark.parametrize("text", ["mbart", "t5"])
def test_low_rank_adapters_in_the_encoders_attention_and_then_in_the_decoders(text):
    model = tiny_mmslt_pretraining(text)
    wrapped = get_peft_model(model, LoraConfig(**LORA, **model.get_lora_settings()))
    names = {name for name, value in wrapped.named_parameters() if value.requires_grad and ".text_model." in name}
    assert names and all(".encoder." in name and "lora_" in name for name in names)
    assert len(names) == 2 * 2 * 4  # layers; q, k, v, out; two matrices
    wrapped.train()(**pretraining_batch([9, 12, 7])).loss.backward()
    assert all(value.grad is not None for value in wrapped.parameters() if value.requires_grad)
    assert wrapped.visual_text_contrast.memory_bank is not None  # of the trained copy
    merged = wrapped.merge_and_unload()
    assert type(merged) is MmsltForPreTraining and merged.visual_text_contrast.num_remembered == 3
    fine_tuned = merged.for_translation()
    fine_tuned.freeze_description_mapper()
    wrapped = get_peft_model(fine_tuned, LoraConfig(**LORA, **fine_tuned.get_lora_settings()))
    trained = {name for name, value in wrapped.named_parameters() if value.requires_grad}
    assert len([name for name in trained if ".text_model." in name]) == 2 * (2 * 4 + 2 * 8)
    assert not any(".mapper." in name for name in trained)
    assert any("vision_model.encoder.encoder" in name for name in trained)
    wrapped.train()(**random_batch([9, 12, 7])).loss.backward()
    assert all(value.grad is not None for value in wrapped.parameters() if value.requires_grad)


# ------------------------------------------------------------------------------------------ from stage to stage


def test_the_pretrained_model_becomes_the_translation_model(tmp_path):
    model, batch = tiny_mmslt_pretraining(), random_batch([9, 12, 7])
    model.generation_config.max_length = 5
    model.save_pretrained(tmp_path)
    pretrained, information = MmsltForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not information["missing_keys"] and not information["unexpected_keys"]
    translation = pretrained.for_translation()
    assert type(translation) is MmsltForTranslation and not translation.training
    own = {name: value for name, value in model.state_dict().items() if not name.startswith("visual_text_contrast.")}
    assert_close(state_of(translation), own)
    assert all(parameter.requires_grad for parameter in translation.parameters())
    assert translation.generation_config.max_length == 5
    translation.save_pretrained(tmp_path / "translation")
    loaded, information = MmsltForTranslation.from_pretrained(tmp_path / "translation", output_loading_info=True)
    assert not information["missing_keys"] and not information["unexpected_keys"]
    assert_close(loaded(**batch).logits, translation(**batch).logits)


def test_only_the_translation_model_is_loaded_to_translate(tmp_path):
    tiny_mmslt_pretraining().save_pretrained(tmp_path / "pretrained")
    tiny_mmslt().save_pretrained(tmp_path / "fine_tuned")
    assert type(AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "fine_tuned")) is MmsltForTranslation
    assert type(AutoModel.from_pretrained(tmp_path / "pretrained")) is MmsltForPreTraining
    with pytest.raises(ValueError, match="Unrecognized configuration class"):
        AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "pretrained")


LOAD_WITHOUT_US = """
import sys
import torch
from transformers import AutoModel, AutoModelForSeq2SeqLM

folder = sys.argv[1]
batch = torch.load(folder + "/batch.pt", weights_only=True)
model = AutoModelForSeq2SeqLM.from_pretrained(folder + "/fine_tuned", trust_remote_code=True).eval()
pretrained = AutoModel.from_pretrained(folder + "/pretrained", trust_remote_code=True).eval()
clips = {name: value for name, value in batch.items() if name != "labels"}
torch.save([model(**batch).logits, pretrained(**clips).video_embeddings], folder + "/outputs.pt")
"""


@pytest.mark.slow
def test_both_load_without_our_package(tmp_path):
    pretrained, model, batch = tiny_mmslt_pretraining(), tiny_mmslt(), random_batch([9, 12, 7])
    pretrained.save_pretrained(tmp_path / "pretrained")
    model.save_pretrained(tmp_path / "fine_tuned")
    torch.save(batch, tmp_path / "batch.pt")
    run_without_our_packages(LOAD_WITHOUT_US, str(tmp_path), folder=tmp_path)
    logits, embeddings = torch.load(tmp_path / "outputs.pt", weights_only=True)
    assert_close(logits, model(**batch).logits.detach(), atol=1e-5, rtol=1e-5)
    assert_close(embeddings, pretrained(**video_of(batch)).video_embeddings.detach(), atol=1e-5, rtol=1e-5)


def test_any_sign_encoder_and_text_model_may_be_its_parts(tmp_path):
    config = MmsltPreTrainingConfig(vision_config=tiny_vision_config(), text_config=tiny_text_config("t5"))
    model = MmsltForPreTraining(config)
    batch = {**video_of(random_batch([9, 7])), "sentence_embeddings": torch.randn(2, 32)}
    output = model.train()(**batch)
    assert output.encoder_loss is None and torch.equal(output.loss, output.sentence_loss)
    model.for_translation().freeze_description_mapper()  # there is none
    assert tiny_described_config().hidden_size == 24
