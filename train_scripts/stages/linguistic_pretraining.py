"""
Stage 1 of LLaVA-SLT, linguistic continued pretraining: a decoder-only language model continues training on text about
the topics that are signed (https://arxiv.org/abs/2412.16524).

    flallm train linguistic-pretraining --config llava_slt_linguistic_pretraining --text_file weather.txt news.txt \
        --text_model_name_or_path Qwen/Qwen2.5-0.5B-Instruct --spoken_language de --output_dir stage1

`--dataset` uses the sentences of the training clips instead, or in addition. Sentences are packed: concatenated, each
followed by the end-of-sentence token, and cut into blocks of equal length, so that a block may begin in the middle of a
sentence and attention sees the sentences before it. `--lora True` trains low-rank adapters, which are merged into the
saved model. Without `--text_model_name_or_path` a small Llama and its tokenizer are made from the text alone, for
languages with little text and for the quickstart.

With `--denoising True` (ours) each sentence also comes as the answer to the prompt of stage 3, with words in place of
the video: the sentence's own words, moved, deleted, repeated and replaced as sign recognition might return them. A
small model learns here, from text alone, what it cannot learn later, when it is frozen.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    EvalPrediction,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    set_seed,
)

from modeling_flallm.language_kind_slt import is_encoder_decoder
from modeling_flallm.own_processing import (
    DEFAULT_SPOKEN_LANGUAGE,
    FLaLLMVideoProcessor,
    LlavaSltProcessor,
    spoken_language_name,
)
from modeling_flallm.systems import titles

from ..arguments.command_line import GO_ON_TRAINING, run_command
from ..arguments.commands import COMMANDS
from ..arguments.sharding_flags import is_sharded
from ..arguments.stage_arguments import CausalLanguageModelArguments, TextArguments
from ..arguments.training_arguments import FLaLLMTrainingArguments
from ..arguments.training_defaults import LinguisticTrainingDefaults
from ..clips.collators import IGNORED_LABEL
from ..hub.hub_names import check_model_names
from ..hub.model_card import write_base_card
from ..runs.damaged_models import read_config, read_model
from ..runs.resuming import check_run
from ..runs.text_batches import TextCollator, TextDataset, WordNoise, pack, prompt_around_video, short_enough, tokenize
from ..runs.text_files import hold_out, read_text
from ..runs.text_trainer import TextTrainer
from ..runs.tokenizers import open_tokenizer, train_tokenizer
from ..runs.training import (
    TellTheEpoch,
    check_score_name,
    choose_fast_attention,
    early_stopping,
    save_and_evaluate,
    start_run,
)

USER_TOKEN, ASSISTANT_TOKEN = "<user>", "<assistant>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    f"{{% if message['role'] == 'assistant' %}}{ASSISTANT_TOKEN}{{% else %}}{USER_TOKEN}{{% endif %}}"
    "{{ message['content'] }}"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{ASSISTANT_TOKEN}{{% endif %}}"
)


@dataclass
class LinguisticTrainingArguments(LinguisticTrainingDefaults, FLaLLMTrainingArguments):
    """Held-out perplexity chooses the best checkpoint."""

    def __post_init__(self):
        if self.push_to_hub:
            raise ValueError(
                "--push_to_hub is not for this stage: the model of stage 3 contains the whole language model."
            )
        super().__post_init__()


def make_tokenizer(lines: Sequence[str], prompt: str, max_vocabulary_size: int) -> PreTrainedTokenizerBase:
    """A tokenizer trained on the text, which also knows the words of the prompt, with a two-token chat template."""
    with_prompt = [*lines, *[f"\n{prompt}"] * (1 + len(lines) // 100)]
    tokenizer = train_tokenizer(with_prompt, max_vocabulary_size)
    # It ends labels of encoder-decoder models; a prompt must not end with it.
    tokenizer.backend_tokenizer.post_processor = None
    tokenizer.add_special_tokens({"additional_special_tokens": [USER_TOKEN, ASSISTANT_TOKEN]})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_processor(
    arguments: CausalLanguageModelArguments, text: TextArguments, lines: Sequence[str]
) -> LlavaSltProcessor:
    """The processor of stage 3, of which the tokenizer, with the placeholder in it, is what this stage needs."""
    language = text.spoken_language or DEFAULT_SPOKEN_LANGUAGE
    if arguments.text_model_name_or_path is None:
        prompt = arguments.prompt.replace("{spoken_language}", spoken_language_name(language))
        tokenizer = make_tokenizer(lines, prompt, arguments.max_vocabulary_size)
    else:
        tokenizer = open_tokenizer(arguments.text_model_name_or_path)
    return LlavaSltProcessor(
        video_processor=FLaLLMVideoProcessor(), tokenizer=tokenizer, prompt=arguments.prompt, spoken_language=language
    )


def check_language_model(arguments: CausalLanguageModelArguments, block_size: int) -> None:
    """
    Raises:
        ValueError: for an encoder-decoder model, or one with too few positions for a block.
    """
    if arguments.text_model_name_or_path is None:
        return
    config = read_config(arguments.text_model_name_or_path)
    if is_encoder_decoder(config):
        raise ValueError(
            "--text_model_name_or_path must be a decoder-only language model, such as Qwen, Llama or GPT-2; "
            f"{arguments.text_model_name_or_path} is an encoder-decoder model ({config.model_type}), for "
            f"{titles(is_prompted=False)}."
        )
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and block_size > positions:
        raise ValueError(f"--block_size must be at most {positions}, the positions of the model, got {block_size}.")


def build_language_model(
    arguments: CausalLanguageModelArguments, tokenizer: PreTrainedTokenizerBase, block_size: int
) -> PreTrainedModel:
    """Adds embeddings for all tokens of the tokenizer; with `lora`, wraps the model."""
    if arguments.text_model_name_or_path is None:
        return AutoModelForCausalLM.from_config(_new_config(arguments, tokenizer, block_size))
    # Trained weights are kept in float32; under low-rank adapters they keep the dtype they were saved in.
    dtype = "auto" if arguments.lora else torch.float32
    model = read_model(AutoModelForCausalLM, arguments.text_model_name_or_path, dtype=dtype)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
    if not arguments.lora:
        return model
    return get_peft_model(model, arguments.lora_config(task_type="CAUSAL_LM", target_modules="all-linear"))


def _new_config(
    arguments: CausalLanguageModelArguments, tokenizer: PreTrainedTokenizerBase, block_size: int
) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=arguments.hidden_size,
        intermediate_size=arguments.feed_forward_size,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.attention_heads,
        max_position_embeddings=max(2048, block_size),
        # Tied embeddings of interchangeable words become nearly the same, and stage 3 could not tell them apart.
        # Llama's usual standard deviation, 0.02, is for widths of thousands; a narrow model then learns slowly.
        tie_word_embeddings=False,
        initializer_range=arguments.hidden_size**-0.5,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each token but the first `(batch, length - 1)`: all that perplexity needs from the logits."""
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), labels[:, 1:], ignore_index=IGNORED_LABEL, reduction="none"
    )


def perplexity(evaluation: EvalPrediction) -> dict[str, float]:
    """Over all held-out tokens, not averaged over batches."""
    is_token = evaluation.label_ids[:, 1:] != IGNORED_LABEL
    return {"perplexity": float(np.exp(evaluation.predictions[is_token].mean()))}


def train(argv: Sequence[str] | None = None, callbacks: Sequence[TrainerCallback] = ()) -> dict[str, float]:
    """
    Stage 1 from command-line arguments; returns the scores on the held-out lines, including `eval_perplexity`.
    `callbacks` are passed to the Trainer.
    """
    command = COMMANDS["train linguistic-pretraining"]
    arguments, text, denoising, training = command.parse(argv, LinguisticTrainingArguments)
    check_run(training)
    check_score_name(training, ("perplexity",))
    check_model_names(arguments)
    check_language_model(arguments, text.block_size)
    if arguments.lora and is_sharded(training):
        raise ValueError(
            "--lora of this command cannot be combined with FSDP or DeepSpeed: at the end its adapters are added to "
            "weights, which these have split. Leave it out, or train with torchrun alone."
        )
    lines, held_out = hold_out(read_text(text), text, training.seed)
    callbacks = [*callbacks, *start_run(training)]
    set_seed(training.seed)
    processor = build_processor(arguments, text, lines)
    tokenizer = processor.tokenizer
    model = build_language_model(arguments, tokenizer, text.block_size)
    choose_fast_attention(model, training)
    token_ids = tokenize(lines, tokenizer)
    around_video = prompt_around_video(processor)
    blocks = pack(token_ids, text.block_size)
    sentences = short_enough(token_ids, text.block_size, around_video) if denoising.denoising else []
    noise = WordNoise(denoising, token_ids, processor.video_token_id)
    dataset = TextDataset(blocks, sentences, training.seed)
    trainer = TextTrainer(
        model=model,
        args=training,
        data_collator=TextCollator(tokenizer.pad_token_id, around_video, noise),
        train_dataset=dataset,
        eval_dataset=TextDataset(pack(tokenize(held_out, tokenizer), text.block_size)),
        processing_class=tokenizer,
        compute_metrics=perplexity,
        preprocess_logits_for_metrics=token_losses,
        callbacks=[TellTheEpoch([dataset]), *early_stopping(training), *callbacks],
    )
    if training.process_index == 0:
        print(
            f"{len(lines)} lines, {sum(map(len, token_ids))} tokens in {len(blocks)} blocks of {text.block_size}; "
            f"{len(sentences)} denoising examples (ours). {len(held_out)} lines are held out."
        )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    scores = _finish(trainer, training)
    if training.should_save and arguments.text_model_name_or_path is not None:
        change = "trained on further text in stage 1 of LLaVA-SLT"
        write_base_card(Path(training.output_dir), arguments.text_model_name_or_path, change)
    return scores


def _finish(trainer: TextTrainer, training: LinguisticTrainingArguments) -> dict[str, float]:
    if isinstance(trainer.model, PeftModel):
        trainer.model = trainer.model.merge_and_unload()
    scores = save_and_evaluate(trainer)
    if training.process_index == 0:
        found = f"perplexity {scores['eval_perplexity']:.2f}" if "eval_perplexity" in scores else "loss"
        print(f"Held-out {found}; saved in {training.output_dir}.")
    trainer.raise_faults()
    return scores


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(train, argv, GO_ON_TRAINING)


if __name__ == "__main__":
    sys.exit(main())
