"""Tiny random vision-language models that describe images and videos, and a tiny text encoder, as folders."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    SiglipVisionConfig,
)

SIZE_IN_PIXELS = 28
TEXT = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% elif part['type'] == 'video' %}VIDEO"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer(specials: list[str]) -> PreTrainedTokenizerFast:
    """Each byte a token, so that every text can be asked and any token be written."""
    vocabulary = {symbol: index for index, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>", *specials])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|endoftext|>", eos_token="<|im_end|>", padding_side="right"
    )


def save_llava_onevision(folder: Path) -> Path:
    """A tiny model of the kind that MMSLT asks."""
    tokenizer = byte_tokenizer(["<image>", "<video>"])
    image, video = tokenizer.convert_tokens_to_ids(["<image>", "<video>"])
    vision = SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIZE_IN_PIXELS,
        patch_size=14,
    )
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=Qwen2Config(**TEXT, vocab_size=len(tokenizer), tie_word_embeddings=False),
        image_token_index=image,
        video_token_index=video,
        image_token_id=image,
        video_token_id=video,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[SIZE_IN_PIXELS, SIZE_IN_PIXELS]],
    )
    size = {"height": SIZE_IN_PIXELS, "width": SIZE_IN_PIXELS}
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=[[SIZE_IN_PIXELS, SIZE_IN_PIXELS]]),
        tokenizer,
        LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE.replace("IMAGE", "<image>").replace("VIDEO", "<video>"),
    )
    return _save(LlavaOnevisionForConditionalGeneration(config), processor, folder, tokenizer)


def save_qwen2_vl(folder: Path) -> Path:
    """A tiny model for images and videos of any size."""
    names = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = byte_tokenizer(names)
    start, end, image, video = tokenizer.convert_tokens_to_ids(names)
    config = Qwen2VLConfig(
        vision_config={"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 1},
        text_config={
            **TEXT,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "vocab_size": len(tokenizer),
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4},
        },
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    pixels = {"min_pixels": 28 * 28, "max_pixels": 4 * 28 * 28}
    wrapped = "<|vision_start|>{}<|vision_end|>"
    processor = Qwen2VLProcessor(
        Qwen2VLImageProcessor(**pixels),
        tokenizer,
        Qwen2VLVideoProcessor(**pixels, cap_pixels_per_frame=False),
        chat_template=CHAT_TEMPLATE.replace("IMAGE", wrapped.format("<|image_pad|>")).replace(
            "VIDEO", wrapped.format("<|video_pad|>")
        ),
    )
    return _save(Qwen2VLForConditionalGeneration(config), processor, folder, tokenizer)


DESCRIBERS = {"llava_onevision": save_llava_onevision, "qwen2_vl": save_qwen2_vl}


def save_text_encoder(folder: Path) -> Path:
    """Of words in pieces of one letter, with a width of 16."""
    letters = sorted("abcdefghijklmnopqrstuvwxyz.,")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    sizes = {name: TEXT[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers")}
    BertModel(BertConfig(**sizes, num_attention_heads=2, vocab_size=len(vocabulary))).save_pretrained(folder)
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def _save(model: torch.nn.Module, processor: object, folder: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
