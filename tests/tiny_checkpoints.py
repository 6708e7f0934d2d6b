"""Tiny text models with real tokenizers, of every family and made once per run, and their trimmed versions."""

import json
import random
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import sentencepiece
import torch
from random_inputs import built_once
from tiny_corpus import corpus, flags, language_model
from tiny_models import tiny_text_config
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BartTokenizer,
    NllbTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from train_scripts.commands import trim_vocabulary
from train_scripts.commands.trim_vocabulary import MAPPING_FILE

FOLDER = tempfile.TemporaryDirectory(prefix="flallm-trim-vocabulary-")
OTHER_SCRIPT = ["дождь идёт на севере", "на юге снег и ветер"]
LANGUAGE = {"mbart": "de_DE", "mbart50": "de_DE", "nllb": "deu_Latn"}
# Family -> text model, values of its configuration.
MODELS = {
    "mbart": ("mbart", {}),
    "mbart50": ("mbart", {}),
    "nllb": ("m2m_100", {}),
    "t5": ("t5", {}),
    "mt5": ("mt5", {}),
    "bart": ("bart", {}),
}
FAMILIES = [*MODELS, "own"]


@built_once
def words() -> list[str]:
    """Words of a language of syllables, so that tokenizers learn pieces longer than a character."""
    syllables = ["".join(random.choices(s, k=1)[0] for s in ("bdfgklmnrstwzß", "aeiouäöü", "nrstl")) for _ in range(30)]
    return ["".join(random.choices(syllables, k=random.randint(1, 3))) for _ in range(150)]


@built_once
def language() -> list[str]:
    """Training text of the tokenizers: much more than is kept."""
    sentences = [" ".join(random.choices(words(), k=random.randint(3, 8))) for _ in range(300)]
    return [*sentences, *10 * OTHER_SCRIPT, *5 * ["0 1 2 3 4 5 6 7 8 9 , . ? !", "abcdefghijklmnopqrstuvwxyzäöüß"]]


@built_once
def text() -> list[str]:
    """What is kept: sentences of a tenth of the words."""
    return [" ".join(random.choices(words()[:15], k=random.randint(2, 6))) + " ." for _ in range(25)]


def train_sentencepiece(folder: Path, file_name: str, **options) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(language()),
        model_prefix=str(folder / "m"),
        vocab_size=350,
        hard_vocab_limit=options.get("model_type") == "bpe",
        character_coverage=1.0,
        minloglevel=2,
        **options,
    )
    (folder / "m.model").rename(folder / file_name)
    (folder / "m.vocab").unlink()


def make_tokenizer(family: str, folder: Path) -> PreTrainedTokenizerBase:
    """A tokenizer of the family as it would load from its files on the Hub."""
    if family == "bart":
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=specials, initial_alphabet=alphabet)
        backend.train_from_iterator(language(), trainer)
        model = json.loads(backend.to_str())["model"]
        return BartTokenizer(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]])
    name = {"t5": "T5Tokenizer", "mt5": "T5Tokenizer", "mbart50": "MBart50Tokenizer"}.get(family, "MBartTokenizer")
    values = {"tokenizer_class": name}
    options = {"model_type": "unigram"}
    if family in ("t5", "mt5"):
        options |= {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    if family == "mt5":
        values["extra_ids"] = 0
        options["user_defined_symbols"] = [f"▁<extra_id_{index}>" for index in range(5)]
    if family == "nllb":
        values["tokenizer_class"] = "NllbTokenizer"
        options["model_type"] = "bpe"
    train_sentencepiece(folder, "spiece.model" if family in ("t5", "mt5") else "sentencepiece.bpe.model", **options)
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if family == "nllb":  # whose languages are in its tokenizer.json
        model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
        return NllbTokenizer(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]])
    return tokenizer


def make_model(family: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    name, values = MODELS[family]
    ids = {side: getattr(tokenizer, f"{side}_token_id") for side in ("pad", "eos", "bos")}
    start = {"t5": ids["pad"], "mt5": ids["pad"], "mbart": tokenizer.convert_tokens_to_ids("de_DE")}
    values = {f"{side}_token_id": index for side, index in ids.items() if index is not None} | values
    values["decoder_start_token_id"] = start.get(family, ids["eos"])
    # T5's and NLLB's have more rows than tokens.
    values["vocab_size"] = len(tokenizer) + (7 if family in ("t5", "mt5", "nllb") else 0)
    if family not in ("t5", "mt5"):
        values["forced_eos_token_id"] = ids["eos"]
    model = AutoModelForSeq2SeqLM.from_config(tiny_text_config(name, **values))
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    if family == "mt5":  # although its configuration always says that they are tied
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.normal_()
    if family in ("mbart50", "nllb"):
        model.generation_config.forced_bos_token_id = tokenizer.convert_tokens_to_ids(LANGUAGE[family])
    return model.eval()


@built_once
def checkpoint(family: str) -> Path:
    if family == "own":
        return language_model()
    folder, spm = Path(FOLDER.name) / family, Path(FOLDER.name) / f"{family}_sentencepiece"
    spm.mkdir()
    tokenizer = make_tokenizer(family, spm)
    tokenizer.save_pretrained(folder)
    make_model(family, tokenizer).save_pretrained(folder)
    return folder


def text_of(family: str) -> list[str]:
    if family != "own":
        return text()
    return (corpus() / "text_only.txt").read_text(encoding="utf-8").splitlines()[:5]


def write_lines(name: str, lines: list[str]) -> Path:
    path = Path(FOLDER.name) / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def trim_flags(family: str, output_dir: Path, **values) -> list[str]:
    defaults = {
        "text_model_name_or_path": checkpoint(family),
        "text_file": write_lines(f"{family}.txt", text_of(family)),
        "output_dir": output_dir,
    }
    if family in LANGUAGE:
        defaults["target_language"] = LANGUAGE[family]
    return flags(**{**defaults, **values})


@dataclass
class Trimmed:
    folder: Path
    new_ids: dict[int, int]
    report: dict


def read_trimmed(folder: Path) -> Trimmed:
    content = json.loads((folder / MAPPING_FILE).read_text(encoding="utf-8"))
    return Trimmed(folder, {int(old): new for old, new in content["new_id_of_old_id"].items()}, content)


@built_once
def trimmed(family: str) -> Trimmed:
    folder = Path(FOLDER.name) / f"{family}_trimmed"
    assert trim_vocabulary.main(trim_flags(family, folder)) == 0
    return read_trimmed(folder)


def load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return AutoModelForSeq2SeqLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def save_with_tokenizer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def copy_without_added_tokens(source: Path, mark: str, folder: Path) -> Path:
    """A checkpoint whose added tokens with `mark` in them are ordinary ones."""
    shutil.copytree(source, folder)
    for name, key in (("tokenizer.json", "added_tokens"), ("tokenizer_config.json", "extra_special_tokens")):
        state = json.loads((folder / name).read_text(encoding="utf-8"))
        state[key] = [token for token in state.get(key, []) if mark not in json.dumps(_content(token))]
        (folder / name).write_text(json.dumps(state), encoding="utf-8")
    return folder


def _content(token: dict | str) -> str:
    return token["content"] if isinstance(token, dict) else token
