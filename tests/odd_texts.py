"""Texts that tokenizers get wrong, seeded: accents, ideographs, emoji, control characters, long lines and the like."""

import random
import unicodedata

PARTS: list[list[str]] = [
    "the cat sat on mats don't I'm we'll they've it's don ' t n't Hello WORLD Transformers unaffable 2024 3.14159".split(),
    "café naïve Ångström Žluťoučký kůň e\u0301 a\u0327\u0301 ö o\u0308 İstanbul ıI ẞß ﬁ Æ Ǆ ŉ ᾳ Ϊ́ ὈΔΥΣΣΕΎΣ".split(),
    "中文 汉字漢字 日本語テキスト カタカナ ｶﾀｶﾅ 한국어 각 \u1100\u1161\u11a8 𠀀𪜀 \U0002b820 ㍿ 〇 々 ﷽".split(),
    "😀 👨\u200d👩\u200d👧\u200d👦 🏳️\u200d🌈 🇩🇪 👍🏽 ❤️ ☃ 1️⃣ 🫠 🏴\U000e0067\U000e0062\U000e007f".split(),
    [
        chr(code)
        for code in (0, 1, 7, 8, 0x0B, 0x0C, 0x1C, 0x1F, 0x7F, 0x85, 0xAD, 0x200B, 0x200E, 0x202E, 0xFEFF, 0xFFFD)
    ],
    [" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u1680", "\u2003", "\u2028", "\u202f", "\u3000", "   \n  "],
    "العربية עברית हिन्दी ไทย தமிழ் ქართული Русский Ёлка Ελληνικά አማርኛ ខ្មែរ བོད་ ᏣᎳᎩ क़ ড় \u09c7\u09be \u0344".split(),
    "! ? . , ; : - -- ... … “q” ‘q’ « » ¿ ¡ # $ % & ( ) [ ] { } * + < = > @ ^ _ ` | ~ / \\ € § ° ½ ² № ™ 、 。 ！".split(),
    "[CLS] [SEP] [MASK] [PAD] [UNK] [cls] [MASK [ SEP ] [unused1] ##ing ## <|endoftext|> <|startoftext|>".split(),
    [
        "a" * 99,
        "b" * 100,
        "c" * 101,
        "x" * 300,
        "é" * 101,
        "0" * 50,
        "\ud7ff\ue000",
        "\U0010ffff",
        "\u0378",
        "\U0001f1e6",
    ],
]
NEAR_SURROGATES = [(0x20, 0xD7FF), (0xE000, 0x10FFFF)]


def odd_texts(count: int, seed: int = 0) -> list[str]:
    """Texts of all kinds; the first ones are empty, white, and 10 kB long."""
    draw = random.Random(seed)
    texts = [
        "",
        " ",
        "\t\n \u3000",
        "\u200b",
        "word " * 2000,
        "中" * 5000,
        "ab,c" * 2500,
        "x" * 10000,
        "é\u0301" * 4000,
    ]
    while len(texts) < count:
        texts.append(_text(draw))
    return texts[:count]


def _text(draw: random.Random) -> str:
    kinds = draw.sample(PARTS, draw.randint(1, 4))
    parts = []
    for _ in range(draw.randint(1, 14)):
        part = draw.choice(draw.choice(kinds))
        if draw.random() < 0.15:
            part = draw.choice((str.upper, str.title, str.swapcase))(part)
        if draw.random() < 0.1:
            part = unicodedata.normalize(draw.choice(("NFD", "NFC", "NFKC")), part)
        if draw.random() < 0.08:
            part = "".join(chr(draw.randint(*draw.choice(NEAR_SURROGATES))) for _ in range(draw.randint(1, 4)))
        parts.append(part + draw.choice(("", " ", " ", "  ")))
    return "".join(parts)
