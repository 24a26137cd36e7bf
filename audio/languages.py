"""The languages that multilingual Whisper models know, by code and by English name."""

from __future__ import annotations

from vertebra.errors import did_you_mean, listing

NAMES = dict(
    entry.split(":")
    for entry in """
en:english zh:chinese de:german es:spanish ru:russian ko:korean fr:french ja:japanese pt:portuguese tr:turkish pl:polish
ca:catalan nl:dutch ar:arabic sv:swedish it:italian id:indonesian hi:hindi fi:finnish vi:vietnamese he:hebrew uk:ukrainian
el:greek ms:malay cs:czech ro:romanian da:danish hu:hungarian ta:tamil no:norwegian th:thai ur:urdu hr:croatian bg:bulgarian
lt:lithuanian la:latin mi:maori ml:malayalam cy:welsh sk:slovak te:telugu fa:persian lv:latvian bn:bengali sr:serbian
az:azerbaijani sl:slovenian kn:kannada et:estonian mk:macedonian br:breton eu:basque is:icelandic hy:armenian ne:nepali
mn:mongolian bs:bosnian kk:kazakh sq:albanian sw:swahili gl:galician mr:marathi pa:punjabi si:sinhala km:khmer sn:shona
yo:yoruba so:somali af:afrikaans oc:occitan ka:georgian be:belarusian tg:tajik sd:sindhi gu:gujarati am:amharic yi:yiddish
lo:lao uz:uzbek fo:faroese ht:haitian_creole ps:pashto tk:turkmen nn:nynorsk mt:maltese sa:sanskrit lb:luxembourgish my:myanmar
bo:tibetan tl:tagalog mg:malagasy as:assamese tt:tatar haw:hawaiian ln:lingala ha:hausa ba:bashkir jw:javanese su:sundanese
yue:cantonese
""".split()
)
"""Code to name."""

OTHER_NAMES = dict(
    entry.split(":")
    for entry in """
burmese:my valencian:ca flemish:nl haitian:ht letzeburgesch:lb pushto:ps panjabi:pa moldavian:ro moldovan:ro sinhalese:si
castilian:es mandarin:zh
""".split()
)
"""Further names to codes."""

CODES = {name: code for code, name in NAMES.items()} | OTHER_NAMES
"""Name to code."""


def language_code(language: str) -> str:
    """Return the code of a language from itself, its English name, or its token `<|en|>`.

    Raises:
        ValueError: there is none; names the nearest.
    """
    asked = str(language).lower().strip().removeprefix("<|").removesuffix("|>").replace(" ", "_")
    code = asked if asked in NAMES else CODES.get(asked)
    if code is None:
        known = [*NAMES, *CODES]
        raise ValueError(
            f"language={language!r} is not known.{did_you_mean(asked, known)} Known are the English names of languages, and their "
            f"codes: {listing(NAMES, 200)}."
        )
    return code
