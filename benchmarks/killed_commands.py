"""
The commands that `kills.py` kills, and tiny corpora and models for them.

Each command runs in a folder of its own, `whole/NAME` or `killed/NAME`, and reads what others have left in `whole`.
"""

import contextlib
import itertools
import random
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoTokenizer, MBartConfig, MBartTokenizer

from modeling_flallm import FLaLLMForTranslation
from train_scripts.arguments.dataclass_parser import flags

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from mini_hub import MiniHub  # noqa: E402
from raw_corpora import make_phoenix14t  # noqa: E402
from sltbaselines_layers import GlossFreeModel, narrow_resnet18, save_checkpoint  # noqa: E402
from tiny_corpus import make_talkative  # noqa: E402
from tiny_describers import save_llava_onevision, save_text_encoder  # noqa: E402

WHOLE, INPUTS = "../../whole", "../../inputs"
CORPUS = f"{WHOLE}/generate-corpus/corpus"
LANGUAGE_MODEL = f"{WHOLE}/train language-model/language_model"
STAGE1 = f"{WHOLE}/train visual-initialing/stage1"
STAGE2 = f"{WHOLE}/train llm-fine-tuning/stage2"
TRANSLATOR = f"{INPUTS}/translator"
REPOSITORY = "me/model"
ON_THE_HUB = "on_the_hub"
STARTS_PROCESSES = 0.5  # the weight of commands whose time is mostly imports

OF_CORPUS = {"dataset": CORPUS, "dataset_name": "Rendered", "sign_language": "qsl", "spoken_language": "en"}
TEXT_TRAINING = {
    "per_device_train_batch_size": 4,
    "logging_steps": 1,
    "use_cpu": True,
    "bf16": False,
    "num_threads": 1,
    "disable_tqdm": True,
    "report_to": "none",
    "optim": "adamw_torch",
    "resume_from_checkpoint": "auto",
}
TRAINING = {
    **TEXT_TRAINING,
    **OF_CORPUS,
    "num_train_epochs": 2,
    "per_device_eval_batch_size": 6,
    "max_evaluation_clips": 3,
    "generation_max_length": 12,
    "generation_num_beams": 1,
}
CLIPS = {"frame_size": 36, "crop_size": 32, "adapter_hidden_size": 20, "num_beams": 2, "frame_sampling_rate": 0.5}
NARROW = {
    "backbone_width": 8,
    "visual_hidden_size": 24,
    "light_hidden_size": 16,
    "light_feed_forward_size": 24,
    "light_layers": 1,
    "light_attention_heads": 2,
}


@dataclass(frozen=True)
class Command:
    """
    A command that writes.

    Args:
        words: behind `flallm`; paths are relative to the folder in which it runs.
        make_inputs: called once, with that folder.
        copies: folders that the command changes: where each is taken from, by its name in the folder.
        uses_hub: it talks to a Hub, which runs on the loopback device.
        program: in front of the words, if it is not `flallm`.
        weight: of its kills among those of all.
    """

    words: list[str]
    make_inputs: Callable[[Path], None] | None = None
    copies: Mapping[str, str] = field(default_factory=dict)
    uses_hub: bool = False
    program: tuple[str, ...] = ("-m", "train_scripts")
    weight: float = 1.0

    def fill(self, folder: Path) -> None:
        """An empty folder with what the command changes."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, source in self.copies.items():
            shutil.copytree(folder / source, folder / name)

    @contextlib.contextmanager
    def surroundings(self, folder: Path) -> Iterator[dict[str, str]]:
        """Variables of the environment; what has come to the Hub is in the folder `on_the_hub` afterwards."""
        if not self.uses_hub:
            yield {}
            return
        with MiniHub() as hub:
            yield {"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
            for (_, name), repository in hub.repositories.items():
                for path, stored in repository.files().items():
                    target = folder / ON_THE_HUB / name / path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(stored.content)


def commands(seed: int) -> dict[str, Command]:
    """By name; each reads only what those before it have left."""
    return {
        "generate-corpus": Command(
            _words("generate-corpus", output_dir="corpus", seed=seed, num_train_clips=8, num_dev_clips=20)
            + flags(num_test_clips=6, num_signs=16, resolution=32, num_text_only_sentences=40, num_workers=1)
            + flags(poses=True, num_training_signers=4),
            weight=STARTS_PROCESSES,
        ),
        "train language-model": Command(
            _words("train language-model", text_file=f"{CORPUS}/text_only.txt", output_dir="language_model", seed=seed)
            + flags(**TEXT_TRAINING, hidden_size=32, feed_forward_size=48, layers=1, attention_heads=2)
            + flags(num_train_epochs=3, save_strategy="steps", save_steps=5)
        ),
        "train visual-initialing": Command(
            _words("train visual-initialing", tokenizer_name_or_path=LANGUAGE_MODEL, output_dir="stage1", seed=seed)
            + flags(**TRAINING, **CLIPS, **NARROW, word_presence_loss_weight=1.0)
        ),
        "train llm-fine-tuning": Command(
            _words("train llm-fine-tuning", text_model_name_or_path=LANGUAGE_MODEL, output_dir="stage2", seed=seed)
            + flags(**TRAINING, **CLIPS, vision_model_name_or_path=STAGE1)
        ),
        "train pose-pretraining": Command(
            _words("train pose-pretraining", config="quickstart_uni_sign_pose_pretraining", output_dir="poses")
            + flags(**TRAINING, text_model_name_or_path=LANGUAGE_MODEL, seed=seed, pose_widths=4)
            + ["8", "--keep_decoded_videos", "False"]
        ),
        "features": Command(
            _words("features", dataset=CORPUS, vision_model_name_or_path=STAGE1, output_dir="features")
            + flags(feature_cache_dir="cache", device="cpu", num_threads=1, batch_size=2)
        ),
        "describe": Command(
            _words("describe", dataset=CORPUS, splits="test", output_dir="descriptions", device="cpu", num_threads=1)
            + flags(describer_name_or_path=f"{INPUTS}/describer", text_encoder_name_or_path=f"{INPUTS}/text_encoder")
            + flags(max_new_tokens=8, dtype="float32", description_stride=30),
            lambda folder: _make_describers(folder / INPUTS, seed),
        ),
        "evaluate": Command(
            _words("evaluate", model="model", split="test", output_dir="scores", add_to_model_card=True)
            + flags(**OF_CORPUS, batch_size=1, num_threads=1, device="cpu", max_control_clips=2),
            lambda folder: _make_translator(folder, seed),
            copies={"model": TRANSLATOR},
        ),
        "compare": Command(
            ["compare", f"{WHOLE}/evaluate/scores", f"{WHOLE}/evaluate/scores", *flags(output_dir="comparison")]
        ),
        "calibrate": Command(
            _words("calibrate", model="model", least_chrf=5, num_threads=1) + flags(**OF_CORPUS, batch_size=4),
            copies={"model": TRANSLATOR},
        ),
        "adapt": Command(
            _words("adapt", model=TRANSLATOR, dataset=CORPUS, split="test", output_dir="adapted", num_threads=1)
        ),
        "trim-vocabulary": Command(
            _words("trim-vocabulary", text_model_name_or_path=f"{INPUTS}/from_the_hub", dataset=CORPUS)
            + flags(output_dir="trimmed"),
            _make_model_from_the_hub,
        ),
        "import-checkpoint": Command(
            _words("import-checkpoint", checkpoint=f"{INPUTS}/published.pth", source="sltbaselines_stage1")
            + flags(text_model_name_or_path=f"{INPUTS}/mbart", target_language="de_DE", output_dir="imported"),
            lambda folder: _make_published(folder / INPUTS, seed),
        ),
        "prepare": Command(
            _words("prepare", corpus="phoenix14t", source=f"{INPUTS}/phoenix14t/PHOENIX-2014-T", num_workers=1)
            + flags(output_dir="prepared"),
            lambda folder: _make_raw_corpus(folder / INPUTS, seed),
            weight=STARTS_PROCESSES,
        ),
        "inspect": Command(
            _words("inspect", dataset=CORPUS, output_dir="inspection", num_workers=1), weight=STARTS_PROCESSES
        ),
        "translate": Command(
            _words("translate", model=TRANSLATOR, output="translations.csv", format="csv", num_processes=2)
            + flags(num_threads=1, device="cpu", dtype="float32", batch_size=1)
            + [f"{CORPUS}/test"],
            weight=STARTS_PROCESSES,
        ),
        "push": Command(_words("push", model=STAGE2, repo_id=REPOSITORY), uses_hub=True, weight=STARTS_PROCESSES),
    }


def _words(name: str, **values: object) -> list[str]:
    return [*name.split(), *flags(**values)]


# What they read


def _make_raw_corpus(inputs: Path, seed: int) -> None:
    random.seed(seed)
    shutil.rmtree(inputs / "phoenix14t", ignore_errors=True)
    make_phoenix14t(inputs / "phoenix14t", {"train": 8, "validation": 2, "test": 2}, num_frames=(20, 40))


def _make_describers(inputs: Path, seed: int) -> None:
    torch.manual_seed(seed)
    shutil.rmtree(inputs / "text_encoder", ignore_errors=True)
    save_llava_onevision(inputs / "describer")
    save_text_encoder(inputs / "text_encoder")


def _make_translator(folder: Path, seed: int) -> None:
    """Stage 2 with large random weights: it writes another sentence for each clip, as hours of training would."""
    target, source = folder / TRANSLATOR, folder / STAGE2
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("checkpoint-*"), dirs_exist_ok=True)
    model, tokenizer = FLaLLMForTranslation.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    torch.manual_seed(seed)
    make_talkative(model, tokenizer)
    model.save_pretrained(target)


def _make_model_from_the_hub(folder: Path) -> None:
    """The language model with the card of one that was made from a model on the Hub, which its own card then names."""
    target = folder / INPUTS / "from_the_hub"
    shutil.copytree(folder / LANGUAGE_MODEL, target, ignore=shutil.ignore_patterns("checkpoint-*"), dirs_exist_ok=True)
    card = "---\nlibrary_name: transformers\nbase_model: facebook/mbart-large-cc25\n---\n\n# Made from mBART\n"
    (target / "README.md").write_text(card, encoding="utf-8")


def _make_published(inputs: Path, seed: int) -> None:
    """A checkpoint of stage 1 as sltbaselines saves it, and the configuration of the LLM of their stage 2."""
    torch.manual_seed(seed)
    pieces = [*((name, 0.0) for name in ("<s>", "<pad>", "</s>", "<unk>")), *((f"▁{word}", -1.0) for word in "abcdef")]
    tokenizer = MBartTokenizer(vocab=pieces, src_lang="de_DE", tgt_lang="de_DE")
    sizes = {"d_model": 32, "vocab_size": len(tokenizer), "max_position_embeddings": 90, "scale_embedding": True}
    for side, name in itertools.product(("encoder", "decoder"), ("layers", "attention_heads", "ffn_dim")):
        sizes[f"{side}_{name}"] = {"layers": 2, "attention_heads": 8, "ffn_dim": 96}[name]
    config = MBartConfig(**sizes, activation_function="relu", tie_word_embeddings=False)
    tokenizer.save_pretrained(inputs / "mbart")
    MBartConfig(**{**sizes, "encoder_layers": 3, "decoder_layers": 3}).save_pretrained(inputs / "mbart")
    model = GlossFreeModel(config, torch.nn.LayerNorm, narrow_resnet18(width=8))
    save_checkpoint(model, inputs / "published.pth")
