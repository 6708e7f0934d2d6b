"""
Whether a model translates, and what its model card says: the sign language, the data, the scores and the limits, in
plain words.

A card written by the training scripts has all of this. From other cards, only what is certain is used; for the rest the
page says that the card does not say it. Text of a card reaches the page as text only, never as HTML.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, hf_hub_download
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from texts import TEXTS, decimal
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

try:
    from modeling_flallm import systems
except ImportError:  # a Space has its own copy of that one file
    import systems

CARD_FILE = "README.md"
OUR_TAG = "flallm"
LOCAL_USE = re.compile(r"q[a-t][a-z]")  # reserved for local use by ISO 639-3: qaa to qtz
# The first heading of our cards: "# From American Sign Language (`ase`) to English (`en`)".
LANGUAGE = r"(?:(?P<{0}_name>[^`\n]+) \()?`(?P<{0}_tag>[A-Za-z_-]+)`\)?"
OUR_HEADING = re.compile(
    rf"^# From (?:{LANGUAGE.format('sign')}|[^`\n]+) to (?:{LANGUAGE.format('spoken')}|[^`\n]+)$", re.MULTILINE
)
LIMITS_HEADING = "what it cannot do|[^\n]*limitations?[^\n]*"
SCORE_NAMES = ("BLEU-4", "chrF")
MAX_CHARACTERS_OF_LIMITS = 3000

SIGN_LANGUAGES = {
    "ase": ("American Sign Language", "Amerikanische Gebärdensprache"),
    "asf": ("Auslan", "Australische Gebärdensprache"),
    "bfi": ("British Sign Language", "Britische Gebärdensprache"),
    "csl": ("Chinese Sign Language", "Chinesische Gebärdensprache"),
    "dse": ("Dutch Sign Language", "Niederländische Gebärdensprache"),
    "fsl": ("French Sign Language", "Französische Gebärdensprache"),
    "gsg": ("German Sign Language", "Deutsche Gebärdensprache"),
    "asq": ("Austrian Sign Language", "Österreichische Gebärdensprache"),
    "ins": ("Indian Sign Language", "Indische Gebärdensprache"),
    "ise": ("Italian Sign Language", "Italienische Gebärdensprache"),
    "jsl": ("Japanese Sign Language", "Japanische Gebärdensprache"),
    "kvk": ("Korean Sign Language", "Koreanische Gebärdensprache"),
    "sgg": ("Swiss-German Sign Language", "Deutschschweizer Gebärdensprache"),
    "ssp": ("Spanish Sign Language", "Spanische Gebärdensprache"),
    "vgt": ("Flemish Sign Language", "Flämische Gebärdensprache"),
}
SPOKEN_LANGUAGES = {
    "de": ("German", "Deutsch"),
    "en": ("English", "Englisch"),
    "es": ("Spanish", "Spanisch"),
    "fr": ("French", "Französisch"),
    "it": ("Italian", "Italienisch"),
    "ja": ("Japanese", "Japanisch"),
    "ko": ("Korean", "Koreanisch"),
    "nl": ("Dutch", "Niederländisch"),
    "zh": ("Chinese", "Chinesisch"),
}


@dataclass(frozen=True)
class Score:
    """A score from 0 to 100 over `num_clips` videos; `low` and `high` are the ends of its 95 % interval."""

    name: str
    value: float
    dataset: str
    split: str | None
    num_clips: int | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ModelFacts:
    """What a card says. `None` or empty: it does not say. Texts are as in the card, not yet escaped."""

    model_id: str
    is_card_readable: bool = False
    sign_language: str | None = None
    sign_language_tag: str | None = None
    spoken_language: str | None = None
    spoken_language_tag: str | None = None
    datasets: tuple[str, ...] = ()
    num_training_clips: int | None = None
    scores: tuple[Score, ...] = ()
    limits: str | None = None
    license: str | None = None
    card_address: str | None = None
    page_address: str | None = None  # of a model on the Hub


def why_not_a_translator(model_type: str | None) -> str | None:
    """
    Why a model of this type does not translate videos, and which stages make one that does, for the owner of the Space;
    `None` for a model that translates. Adapters have no type: transformers loads them by the name of their base model.
    """
    if model_type is None or model_type in systems.SYSTEMS:
        return None
    encoder_of, pretrained_of = systems.system_of_visual_encoder(model_type), systems.system_of_pretrained(model_type)
    autoencoder_of = systems.system_of_text_autoencoder(model_type)
    if encoder_of is not None:
        part = f"only a visual encoder{_output_of(encoder_of, systems.VISUAL_ENCODER)}"
    elif pretrained_of is not None:
        part = f"only a pretrained model{_output_of(pretrained_of, systems.PRETRAINED_MODEL)}"
    elif autoencoder_of is not None:
        part = f"only a text autoencoder{_output_of(autoencoder_of, systems.TEXT_AUTOENCODER)}"
    elif model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        part = f"only a language model ({model_type})"
    else:
        part = f"a model of type {model_type!r}"
    *others, last = [f"stage {len(each.stages)} of {each.title}" for each in systems.SYSTEMS.values()]
    return f"{part}, which does not translate videos: name the output of {', '.join(others)} or {last}"


def _output_of(system: systems.System, kind: str) -> str:
    stage = system.stage_that_leaves(kind)
    return "" if stage is None else f", the output of stage {system.number_of(stage)} of {system.title}"


def read_model_facts(model_id: str, revision: str | None = None) -> ModelFacts:
    """
    The facts of a model in a folder or on the Hub, even if something is wrong with its card.

    Args:
        model_id: folder or Hub id.
        revision: commit, tag or branch on the Hub; default: the newest.
    """
    is_folder = Path(model_id).is_dir()
    name = Path(model_id).absolute().name if is_folder else model_id
    page = None if is_folder else f"https://huggingface.co/{model_id}"
    try:
        path = Path(model_id) / CARD_FILE if is_folder else hf_hub_download(model_id, CARD_FILE, revision=revision)
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ModelFacts(name, page_address=page)
    if not text.strip():
        return ModelFacts(name, page_address=page)
    metadata, results, body = _parts(text)
    return ModelFacts(
        name,
        is_card_readable=True,
        **_languages(metadata, body),
        **_data(metadata, body),
        scores=_scores(results),
        limits=_section(body, LIMITS_HEADING),
        license=next(iter(_texts(metadata.get("license"))), None),
        card_address=page and f"{page}/blob/{revision or 'main'}/{CARD_FILE}",
        page_address=page,
    )


def facts_as_markdown(facts: ModelFacts, language: str) -> str:
    """The facts as Markdown for `gr.Markdown`, in the language of the page; the card's own words are escaped."""
    texts = TEXTS[language]
    lines = [f"**{texts['model_name']}:** {_plain(facts.model_id)}"]
    if not facts.is_card_readable:
        return "\n\n".join([*lines, texts["model_no_card"]])
    answers = {
        "model_sign_language": _sign_language_text(facts, language),
        "model_spoken_language": _language_text(
            SPOKEN_LANGUAGES, facts.spoken_language, facts.spoken_language_tag, language
        ),
        "model_data": _data_text(facts, texts),
        "model_scores": _scores_text(facts, language),
        "model_license": _plain(facts.license or ""),
    }
    lines += [f"**{texts[name]}:** {answer or texts['model_unknown']}" for name, answer in answers.items()]
    limits = _limits_text(facts, texts) or texts["model_unknown"]
    lines.append(f"<details>\n<summary>{texts['model_limits']}</summary>\n\n{limits}\n\n</details>")
    if facts.card_address:
        lines.append(f"[{texts['model_card_link']}]({facts.card_address})")
    return "\n\n".join(lines)


# Reading a card


def _parts(text: str) -> tuple[dict[str, Any], list[EvalResult], str]:
    """Front matter, its scores, and the text below; empty ones if the front matter cannot be read."""
    try:
        card = ModelCard(text, ignore_metadata_errors=True)
        return card.data.to_dict(), card.data.eval_results or [], card.text
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, KeyError):
        return {}, [], REGEX_YAML_BLOCK.sub("", text, count=1)


def _texts(value: Any) -> list[str]:
    """The texts of a value of the front matter, which is one text or a list."""
    values = value if isinstance(value, list) else [value]
    return [item.strip() for item in values if isinstance(item, str) and item.strip()]


def _languages(metadata: dict[str, Any], body: str) -> dict[str, str | None]:
    """The languages, from the first heading of our cards or else from the codes in `language` and `tags`."""
    heading = OUR_HEADING.search(body) if OUR_TAG in _texts(metadata.get("tags")) else None
    named = heading.groupdict() if heading else {}
    tags = [*_texts(metadata.get("language")), *_texts(metadata.get("tags"))]
    sign = named.get("sign_tag") or next((tag for tag in tags if tag in SIGN_LANGUAGES), None)
    spoken_tags = [tag for tag in _texts(metadata.get("language")) if tag not in SIGN_LANGUAGES]
    spoken = named.get("spoken_tag") or (spoken_tags[0] if len(spoken_tags) == 1 else None)
    return {
        "sign_language": named.get("sign_name") or SIGN_LANGUAGES.get(sign, (None,))[0],
        "sign_language_tag": sign,
        "spoken_language": named.get("spoken_name") or SPOKEN_LANGUAGES.get(_code(spoken), (None,))[0],
        "spoken_language_tag": spoken,
    }


def _code(tag: str | None) -> str:
    """`"zh_CN"` -> `"zh"`"""
    return re.split("[-_]", tag or "")[0].lower()


def _data(metadata: dict[str, Any], body: str) -> dict[str, Any]:
    """Names of the training data, and the number of clips of the row "train" of our cards."""
    section = (_section(body, "data") or "") if OUR_TAG in _texts(metadata.get("tags")) else ""
    names = re.findall(r"\*\*(.+?)\*\*", section) or _texts(metadata.get("datasets"))
    row = re.search(r"^\| *train *\| *([0-9]{1,12}) *\|", section, re.MULTILINE)
    return {"datasets": tuple(dict.fromkeys(names)), "num_training_clips": int(row[1]) if row else None}


def _section(body: str, heading: str) -> str | None:
    """The text below a heading of the second level, up to the next heading of the first or second."""
    found = re.search(rf"^## +(?:{heading})[ \t]*\n(.*?)(?=^##? |\Z)", body, re.MULTILINE | re.DOTALL | re.IGNORECASE)
    return (found[1].strip() or None) if found else None


def _scores(results: list[EvalResult]) -> tuple[Score, ...]:
    """BLEU-4 and chrF with a signature of sacreBLEU: without one nobody knows what a number means."""
    return tuple(_score(result) for result in results if _is_understood(result))


def _is_understood(result: EvalResult) -> bool:
    is_number = isinstance(result.metric_value, int | float) and not isinstance(result.metric_value, bool)
    has_signature = isinstance(result.metric_args, dict) and isinstance(result.metric_args.get("signature"), str)
    return result.metric_name in SCORE_NAMES and has_signature and is_number and 0 <= result.metric_value <= 100


def _score(result: EvalResult) -> Score:
    num_clips = (result.dataset_args if isinstance(result.dataset_args, dict) else {}).get("num_clips")
    interval = result.metric_args.get("confidence_interval_95")
    has_interval = isinstance(interval, list) and len(interval) == 2 and all(isinstance(end, float) for end in interval)
    low, high = interval if has_interval else (None, None)
    return Score(
        name=result.metric_name,
        value=float(result.metric_value),
        dataset=str(result.dataset_name),
        split=result.dataset_split if isinstance(result.dataset_split, str) else None,
        num_clips=num_clips if isinstance(num_clips, int) else None,
        low=low,
        high=high,
    )


# Writing for the page


def _plain(text: str) -> str:
    """Escape the text of a card, so that nothing in it is read as Markdown or HTML."""
    return re.sub(r"[!-/:-@\[-`{-~]", lambda found: f"&#{ord(found[0])};", " ".join(text.split()))


def _sign_language_text(facts: ModelFacts, language: str) -> str:
    if facts.sign_language_tag and LOCAL_USE.fullmatch(facts.sign_language_tag):
        return f"{TEXTS[language]['model_no_registered_code']} ({_plain(facts.sign_language_tag)})"
    return _language_text(SIGN_LANGUAGES, facts.sign_language, facts.sign_language_tag, language)


def _language_text(names: dict[str, tuple[str, str]], name_in_card: str | None, tag: str | None, language: str) -> str:
    """Name and tag; in German only if we know the German name. Empty if the card has neither."""
    known = names.get(_code(tag))
    name = dict(zip(TEXTS, known, strict=True))[language] if known else name_in_card
    return " ".join(_plain(text) for text in (name, f"({tag})" if name else tag) if text)


def _data_text(facts: ModelFacts, texts: dict[str, str]) -> str:
    number = facts.num_training_clips
    clips = texts["model_clips"].format(number=number) if number is not None else ""
    return ": ".join(text for text in (", ".join(map(_plain, facts.datasets)), clips) if text)


def _scores_text(facts: ModelFacts, language: str) -> str:
    """The scores, if possible those on data that it did not learn from, and what a score means."""
    scores = [score for score in facts.scores if score.split == "test"] or facts.scores
    if not scores:
        return ""
    lines = [f"- {_score_text(score, language)}" for score in scores]
    return "\n\n".join(["", "\n".join(lines), TEXTS[language]["model_scores_meaning"]])


def _score_text(score: Score, language: str) -> str:
    texts = TEXTS[language]
    template = texts["model_score" if score.num_clips is not None else "model_score_without_number"]
    split = f"split_{score.split}"
    text = template.format(
        name=_plain(score.name),
        value=decimal(score.value, language),
        number=score.num_clips,
        dataset=_plain(score.dataset),
        split=texts[split if split in texts else "split_unknown"],
    )
    if score.low is None:
        return text + "."
    ends = {"low": decimal(score.low, language), "high": decimal(score.high, language)}
    return f"{text}; {texts['model_score_between'].format(**ends)}."


def _limits_text(facts: ModelFacts, texts: dict[str, str]) -> str:
    """The card's own list or paragraphs, as plain text."""
    if not facts.limits:
        return ""
    limits = facts.limits[:MAX_CHARACTERS_OF_LIMITS].replace("**", "").replace("`", "")
    blocks = [_block_text(block) for block in re.split(r"\n\s*\n|\n(?=[ \t]*[-*] )", limits) if block.strip()]
    return "\n\n".join([texts["model_limits_from_card"], *blocks])


def _block_text(block: str) -> str:
    is_item = re.match(r"\s*[-*] ", block)
    return f"- {_plain(block[is_item.end() :])}" if is_item else _plain(block)
