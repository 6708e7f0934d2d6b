"""Language codes of multilingual tokenizers (mBART, mBART-50, NLLB, M2M100), and how ISO tags map to them."""

import re

from transformers import PreTrainedTokenizerBase

from .languages import primary_language

# ISO 639-1 codes with the ISO 639-3 codes that NLLB uses; for a macrolanguage, the variety it supports.
ISO_639_3 = dict(
    re.findall(
        r"(\w{2}) (\w{3})",
        """af afr,ak aka,am amh,ar arb,as asm,ay ayr,az azj,ba bak,be bel,bg bul,bm bam,bn ben,bo bod,bs bos,
    ca cat,cs ces,cy cym,da dan,de deu,dz dzo,ee ewe,el ell,en eng,eo epo,es spa,et est,eu eus,fa pes,fi fin,fj fij,
    fo fao,fr fra,ga gle,gd gla,gl glg,gn grn,gu guj,ha hau,he heb,hi hin,hr hrv,ht hat,hu hun,hy hye,id ind,ig ibo,
    is isl,it ita,ja jpn,jv jav,ka kat,kg kon,ki kik,kk kaz,km khm,kn kan,ko kor,ks kas,ku kmr,ky kir,lb ltz,lg lug,
    li lim,ln lin,lo lao,lt lit,lv lvs,mg plt,mi mri,mk mkd,ml mal,mn khk,mr mar,ms zsm,mt mlt,my mya,nb nob,ne npi,
    nl nld,nn nno,no nob,ny nya,oc oci,om gaz,or ory,pa pan,pl pol,ps pbt,pt por,qu quy,rn run,ro ron,ru rus,rw kin,
    sa san,sc srd,sd snd,sg sag,si sin,sk slk,sl slv,sm smo,sn sna,so som,sq als,sr srp,ss ssw,st sot,su sun,sv swe,
    sw swh,ta tam,te tel,tg tgk,th tha,ti tir,tk tuk,tl tgl,tn tsn,tr tur,ts tso,tt tat,tw twi,ug uig,uk ukr,ur urd,
    uz uzn,vi vie,wo wol,xh xho,yi ydd,yo yor,zh zho,zu zul""",
    )
)
# The script to use where a language has several and the tag does not say which.
USUAL_SCRIPT = {"zho": "hans", "arb": "arab"}
SCRIPT_OF_REGION = {"cn": "hans", "sg": "hans", "tw": "hant", "hk": "hant", "mo": "hant"}


def language_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Token id of each language code that a multilingual tokenizer knows; empty for any other."""
    if not hasattr(tokenizer, "tgt_lang"):
        return {}
    ids = getattr(tokenizer, "lang_code_to_id", None)  # NLLB lists its codes only among the special tokens
    return ids or {code: tokenizer.convert_tokens_to_ids(code) for code in tokenizer.extra_special_tokens}


def set_target_language(tokenizer: PreTrainedTokenizerBase, target_language: str | None) -> None:
    """
    Set the language that a multilingual tokenizer (mBART, NLLB, M2M100) writes.

    Raises:
        ValueError: if the tokenizer has languages and none, or an unknown one, is given; or if it has none and one is
            given.
    """
    languages = language_ids(tokenizer)
    if not languages:
        if target_language is not None:
            raise ValueError(f"--target_language {target_language}: the tokenizer has no languages. Leave it out.")
        return
    if target_language is None:
        raise ValueError(
            "The tokenizer writes several languages: choose one with --target_language, for example de_DE (mBART) or "
            "deu_Latn (NLLB)."
        )
    if target_language not in languages:
        raise ValueError(
            f"--target_language {target_language} is not one of the tokenizer's languages: {', '.join(languages)}."
        )
    tokenizer.src_lang = tokenizer.tgt_lang = target_language


def language_code(tag: str, codes: list[str]) -> str:
    """
    The tokenizer's code for a language tag: `"de"` -> `"de_DE"` (mBART), `"deu_Latn"` (NLLB) or `"de"` (M2M100).

    Raises:
        ValueError: if there is no such code, or if the tag could mean several of them.
    """
    subtags = _subtags(tag)
    same = [code for code in codes if _subtags(code) == subtags]
    if same:
        return same[0]
    language = _iso_639_3(primary_language(tag))
    found = [code for code in codes if _iso_639_3(primary_language(code)) == language]
    if not found:
        raise ValueError(f"the tokenizer does not write {tag!r}. Its languages: {', '.join(codes)}.")
    if len(found) == 1:
        return found[0]
    wanted = {*subtags[1:], *(SCRIPT_OF_REGION[part] for part in subtags[1:] if part in SCRIPT_OF_REGION)}
    wanted = wanted or {USUAL_SCRIPT.get(language)}
    narrowed = [code for code in found if wanted & set(_subtags(code)[1:])]
    if len(narrowed) != 1:
        raise ValueError(f"{tag!r} could be any of the tokenizer's languages {', '.join(found)}. Choose one of them.")
    return narrowed[0]


def _subtags(tag: str) -> list[str]:
    return re.split("[-_]", tag.lower())


def _iso_639_3(code: str) -> str:
    return ISO_639_3.get(code, code)


def target_languages(tokenizer: PreTrainedTokenizerBase, tags: list[str | None]) -> list[str | None]:
    """
    The tokenizer's code for each tag, or its current `tgt_lang` for rows without one; `None` for all rows if the
    tokenizer has no languages.

    Raises:
        ValueError: for a language that the tokenizer lacks.
    """
    codes = list(language_ids(tokenizer))
    if not codes:
        return [None] * len(tags)
    try:
        code_of = {tag: language_code(tag, codes) if tag else tokenizer.tgt_lang for tag in dict.fromkeys(tags)}
    except ValueError as error:
        raise ValueError(f"The column spoken_language: {error}") from error
    return [code_of[tag] for tag in tags]
