"""Names of spoken languages: what a prompt writes for a tag such as `de`."""

import re

# ISO 639-1, and some languages that have only a code of ISO 639-3.
_NAMES = """
aa Afar, ab Abkhazian, ace Achinese, ae Avestan, af Afrikaans, ak Akan, am Amharic, an Aragonese, ar Arabic, ary
Moroccan Arabic, arz Egyptian Arabic, as Assamese, ast Asturian, av Avaric, ay Aymara, az Azerbaijani, ba Bashkir, ban
Balinese, be Belarusian, bg Bulgarian, bh Bihari languages, bi Bislama, bm Bambara, bn Bengali, bo Tibetan, br Breton,
bs Bosnian, bug Buginese, ca Catalan, ce Chechen, ceb Cebuano, ch Chamorro, ckb Central Kurdish, co Corsican, cr Cree,
cs Czech, cu Church Slavic, cv Chuvash, cy Welsh, da Danish, de German, dv Dhivehi, dz Dzongkha, ee Ewe, el Greek, en
English, eo Esperanto, es Spanish, et Estonian, eu Basque, fa Persian, ff Fulah, fi Finnish, fil Filipino, fj Fijian,
fo Faroese, fr French, fy Western Frisian, ga Irish, gd Scottish Gaelic, gl Galician, gn Guarani, gsw Swiss German, gu
Gujarati, gv Manx, ha Hausa, haw Hawaiian, he Hebrew, hi Hindi, hmn Hmong, ho Hiri Motu, hr Croatian, hsb Upper
Sorbian, ht Haitian Creole, hu Hungarian, hy Armenian, hz Herero, ia Interlingua, id Indonesian, ie Interlingue, ig
Igbo, ii Sichuan Yi, ik Inupiaq, ilo Iloko, io Ido, is Icelandic, it Italian, iu Inuktitut, ja Japanese, jv Javanese,
ka Georgian, kab Kabyle, kg Kongo, ki Kikuyu, kj Kuanyama, kk Kazakh, kl Kalaallisut, km Khmer, kmb Kimbundu, kn
Kannada, ko Korean, kr Kanuri, ks Kashmiri, ku Kurdish, kv Komi, kw Cornish, ky Kyrgyz, la Latin, lb Luxembourgish, lg
Luganda, li Limburgan, ln Lingala, lo Lao, lt Lithuanian, lu Luba-Katanga, lus Lushai, lv Latvian, mai Maithili, mg
Malagasy, mh Marshallese, mi Maori, min Minangkabau, mk Macedonian, ml Malayalam, mn Mongolian, mni Manipuri, mr
Marathi, ms Malay, mt Maltese, my Burmese, na Nauru, nb Norwegian Bokmål, nd North Ndebele, nds Low German, ne Nepali,
ng Ndonga, nl Dutch, nn Norwegian Nynorsk, no Norwegian, nr South Ndebele, nso Northern Sotho, nv Navajo, ny Chichewa,
oc Occitan, oj Ojibwa, om Oromo, or Odia, os Ossetian, pa Punjabi, pi Pali, pl Polish, ps Pashto, pt Portuguese, qu
Quechua, quy Ayacucho Quechua, rm Romansh, rn Rundi, ro Romanian, ru Russian, rw Kinyarwanda, sa Sanskrit, sat
Santali, sc Sardinian, scn Sicilian, sd Sindhi, se Northern Sami, sg Sango, sh Serbo-Croatian, si Sinhala, sk Slovak,
sl Slovenian, sm Samoan, sn Shona, so Somali, sq Albanian, sr Serbian, ss Swati, st Southern Sotho, su Sundanese, sv
Swedish, sw Swahili, szl Silesian, ta Tamil, te Telugu, tg Tajik, th Thai, ti Tigrinya, tk Turkmen, tl Tagalog, tn
Tswana, to Tonga, tpi Tok Pisin, tr Turkish, ts Tsonga, tt Tatar, tw Twi, ty Tahitian, tzm Central Atlas Tamazight, ug
Uyghur, uk Ukrainian, ur Urdu, uz Uzbek, ve Venda, vi Vietnamese, vo Volapük, wa Walloon, war Waray, wo Wolof, xh
Xhosa, yi Yiddish, yo Yoruba, yue Cantonese, za Zhuang, zgh Standard Moroccan Tamazight, zh Chinese, zu Zulu
"""
ENGLISH_NAMES = dict(row.split(" ", 1) for row in " ".join(_NAMES.split()).split(", "))


def spoken_language_name(language: str) -> str:
    """
    English name of a language for a prompt.

    Args:
        language: a tag (`"de"`, `"de_CH"`, `"zh-Hans"`) or a name (`"German"`).

    Returns:
        The name of the tag's language. Names, and tags of languages that are not listed, are returned unchanged.

    Example: `spoken_language_name("de_CH") == "German"`
    """
    code = re.fullmatch("([a-z]{2,3})([-_][a-z0-9]+)*", language.lower())
    return ENGLISH_NAMES.get(code[1], language) if code else language


__all__ = ["spoken_language_name"]
