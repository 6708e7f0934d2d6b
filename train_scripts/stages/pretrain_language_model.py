"""
A small encoder-decoder language model with its own tokenizer, pretrained by denoising plain text.

It replaces mBART where a pretrained model is too large or does not know the language: in the quickstart, and for
languages with little text. The objective is BART's (https://arxiv.org/abs/1910.13461, section 2.2: token masking, token
deletion and text infilling) plus, ours, a shuffle of the tokens, because signs come in a different order than words,
and repeated tokens, because a sign lasts for several frames.

    flallm train language-model --text_file corpus/text_only.txt --output_dir language_model
"""

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    TrainerCallback,
    set_seed,
)

from modeling_flallm import light_transformer_config

from ..arguments.command_line import GO_ON_TRAINING, run_command
from ..arguments.commands import COMMANDS
from ..arguments.stage_arguments import LanguageModelArguments
from ..arguments.training_arguments import FLaLLMTrainingArguments
from ..arguments.training_defaults import LanguageModelTrainingDefaults
from ..clips.data import RandomDataset
from ..runs.resuming import check_run
from ..runs.text_files import read_sentences
from ..runs.text_trainer import TextTrainer
from ..runs.tokenizers import train_tokenizer
from ..runs.training import TellTheEpoch, choose_fast_attention, start_run


@dataclass
class LanguageModelTrainingArguments(LanguageModelTrainingDefaults, FLaLLMTrainingArguments):
    """No evaluation: a text file has no splits."""


def build_language_model(arguments: LanguageModelArguments, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    config = light_transformer_config(
        vocab_size=len(tokenizer),
        d_model=arguments.hidden_size,
        encoder_ffn_dim=arguments.feed_forward_size,
        decoder_ffn_dim=arguments.feed_forward_size,
        encoder_layers=arguments.layers,
        decoder_layers=arguments.layers,
        encoder_attention_heads=arguments.attention_heads,
        decoder_attention_heads=arguments.attention_heads,
        dropout=arguments.dropout,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.eos_token_id,
        forced_eos_token_id=None,
    )
    return AutoModelForSeq2SeqLM.from_config(config)


class DenoisingCollator:
    """Token ids with `</s>` at the end and seeds -> noised `input_ids`, `attention_mask` and clean `labels`."""

    def __init__(self, arguments: LanguageModelArguments, tokenizer: PreTrainedTokenizerFast):
        self.arguments = arguments
        self.tokenizer = tokenizer

    def __call__(self, items: Sequence[tuple[list[int], int]]) -> dict[str, torch.Tensor]:
        noised = [[*self._add_noise(ids[:-1], random.Random(seed)), ids[-1]] for ids, seed in items]
        inputs = self.tokenizer.pad({"input_ids": noised}, return_tensors="pt")
        labels = self.tokenizer.pad({"input_ids": [ids for ids, _ in items]}, return_tensors="pt")
        inputs["labels"] = labels["input_ids"].masked_fill(labels["attention_mask"] == 0, -100)
        return dict(inputs)

    def _add_noise(self, tokens: list[int], draws: random.Random) -> list[int]:
        mask = self.tokenizer.mask_token_id
        if draws.random() < self.arguments.shuffle_probability:
            tokens = draws.sample(tokens, len(tokens))
        noised: list[int] = []
        for token in tokens:
            draw = draws.random()
            if draw < self.arguments.deletion_probability:
                continue
            is_masked = draw < self.arguments.deletion_probability + self.arguments.mask_probability
            if is_masked and noised and noised[-1] == mask:  # adjacent masks are merged into one: infilling
                continue
            noised.append(mask if is_masked else token)
            while not is_masked and draws.random() < self.arguments.repetition_probability:
                noised.append(token)
        return noised


class _TokenizedSentences(RandomDataset):
    """Token ids of each sentence, and the seed of its noise."""

    def __init__(self, sentences: Sequence[str], tokenizer: PreTrainedTokenizerFast, seed: int):
        super().__init__(seed)
        self.input_ids: list[list[int]] = tokenizer(list(sentences))["input_ids"]

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, index: int) -> tuple[list[int], int]:
        return self.input_ids[index], self.seed_of(index)


def train(argv: Sequence[str] | None = None, callbacks: Sequence[TrainerCallback] = ()) -> None:
    """Train tokenizer and model and save them in the output folder. `callbacks` are passed to the Trainer."""
    arguments, training = COMMANDS["train language-model"].parse(argv, LanguageModelTrainingArguments)
    check_run(training)
    sentences = read_sentences(arguments.text_file)
    callbacks = [*callbacks, *start_run(training)]
    set_seed(training.seed)
    tokenizer = train_tokenizer(sentences, arguments.max_vocabulary_size)
    model = build_language_model(arguments, tokenizer)
    choose_fast_attention(model, training)
    dataset = _TokenizedSentences(sentences, tokenizer, training.seed)
    trainer = TextTrainer(
        model=model,
        args=training,
        data_collator=DenoisingCollator(arguments, tokenizer),
        train_dataset=dataset,
        processing_class=tokenizer,
        callbacks=[TellTheEpoch([dataset]), *callbacks],
    )
    # MBart accepts `num_items_in_batch` and ignores it: the Trainer must average over accumulated batches itself.
    trainer.model_accepts_loss_kwargs = False
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.save_model()
    print(f"{len(sentences)} sentences, {len(tokenizer)} tokens; saved in {training.output_dir}.")
    trainer.raise_faults()


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(train, argv, GO_ON_TRAINING)


if __name__ == "__main__":
    sys.exit(main())
