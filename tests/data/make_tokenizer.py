#!/usr/bin/env python3
"""Writes the tokenizer test data, with Hugging Face `tokenizers` as the oracle.

Needs `pip install tokenizers==0.23.3`. Usage, from the repository root:

    python3 tests/data/make_tokenizer.py

Writes, the same bytes every time:
  tests/data/tokenizer_qwen35/tokenizer.json   byte-level BPE with the split pattern of Qwen3.5
  tests/data/tokenizer_cases.jsonl             {"text", "ids", maybe "tiny"}: ids by that tokenizer, and
                                               by assets/tiny-model/tokenizer.json
  tests/data/tokenizer_decode_cases.jsonl      {"ids", "text", "text_skip"}: decoded with and without
                                               special tokens
"""

import json
import pathlib
import random
import unicodedata

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
SEED = 20260
VOCABULARY = 5000
CASES = 10000
TINY_CASES = 500
DECODE_CASES = 600

PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}|"
           r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")

SENTENCES = """
The cat doesn't know why it's raining, but they're sure we'll see the sun again; I'd say you've waited.
A small model reads a long page and writes a short answer. It counts 1, 2, 3 and stops at 2048.
Der Hund läuft über die Straße, weil er größere Füße hat. Überall hört man schöne Märchen.
Les élèves étudient à l'école près de la forêt où naît le fleuve. Ça coûte déjà très cher.
El niño comió mañana una piña pequeña. ¿Cómo está usted? ¡Qué alegría verlo aquí!
Người Việt Nam nói tiếng Việt, một ngôn ngữ có nhiều dấu. Trời hôm nay đẹp quá.
Zażółć gęślą jaźń, powiedział chłopiec. Příliš žluťoučký kůň úpěl ďábelské ódy.
Мама мыла раму, а папа читал книгу о далёких звёздах. Сегодня хорошая погода, и мы идём гулять.
Η γάτα κοιμάται κάτω από το τραπέζι και ονειρεύεται ψάρια. Καλημέρα σας, τι κάνετε;
今天天气很好，我们去公园散步吧。他说中文说得很快。模型读了很长的文章，然后写了一个短的回答。
今日は天気がいいので、公園へ散歩に行きましょう。カタカナとひらがなと漢字を使います。
오늘은 날씨가 좋아서 공원에 산책하러 갑니다. 한국어 문장을 읽고 짧은 답을 씁니다.
السلام عليكم ورحمة الله. القطة تنام تحت الطاولة. اللُّغَةُ العَرَبِيَّةُ جَمِيلَةٌ.
שלום עולם. החתול ישן מתחת לשולחן. בְּרֵאשִׁית בָּרָא.
आज मौसम अच्छा है, हम पार्क में घूमने जाते हैं। हिन्दी में लिखना अच्छा लगता है।
วันนี้อากาศดี เราไปเดินเล่นที่สวนสาธารณะ ภาษาไทยไม่มีช่องว่างระหว่างคำ
def add(a, b):\n    return a + b\n\nfor i in range(10):\n    print(f"{i}: {add(i, 1)}")\n
if (x != 0 && y <= 3) { std::vector<int> v = {1, 2, 3}; } // done\r\n
https://example.org/path?query=1&other=two#part user@example.com C:\\Users\\name
😀 😂 ❤️ 👍🏽 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 🇯🇵 ✨🚀
""".strip().split("\n")

SYLLABLES = {
    "latin": "ka le mi no ru ta ber gen stra ion ing ed er ly un re pre able ment tion ous th sh qu".split(),
    "accents": "é è ü ö ß ñ ç ầ ệ ữ ơ ř ž ł ą ście ão ê ï å".split(),
    "cyrillic": "ка ле ми но ру та ст ение ость ый ая про пере ё щ ж".split(),
    "greek": "κα λε μι νο ρου τα ος ης ικό άν έ ώ".split(),
    "han": list("的一是不了在人有我他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可她里后"),
    "kana": list("あいうえおかきくけこさしすせそたちつてとなにぬねのアイウエオカキクケコ"),
    "hangul": list("가나다라마바사아자차카타파하은는이의에서로고했습니합을를"),
    "arabic": "ال من في على ها ون ات كتب سلام بِ ةٌ".split(),
    "devanagari": "का में है हिन् अच् त्र प्र ना ता को से".split(),
}

SPACES = [" ", " ", " ", "  ", "   ", "\t", "\t\t", "\u00a0", "\u2003", "\u3000", "\u2028", "\u2029", "\u0085",
          "\u1680", "\u202f", "\x0b", "\x0c", "\x1c", "\u200b", "\u180e", "\ufeff", " " * 9, " " * 33]
NEWLINES = ["\n", "\r\n", "\r", "\n\n", "\r\n\r\n", " \n", "\n ", "\t\n  ", "\n\r", "  \r\n\t ", "\u2028\n\u00a0"]
PUNCTUATION = list(".,;:!?'\"()[]{}<>|/\\-_=+*&^%$#@~`…—“”‘’「」。、！？،؟€°§¿¡·") + ["...", "!!!\n", "?!\r\n", "->", "::", "/*", "'''"]
CONTRACTIONS = ["'s", "'S", "'t", "'T", "'re", "'RE", "'Re", "'rE", "'ve", "'Ve", "'m", "'M", "'ll", "'LL", "'lL",
                "'d", "'D", "'\u017f", "'\u017ft", "\u2019s", "'x", "'l", "'r", "'v", "'\u017f\u017f", "'K", "'\u212a", "'s's",
                "'de", "' s", "'\u0301s", "'\uff53"]
DIGITS = ["0", "7", "42", "123", "2048", "3.14", "1,000,000", "²", "½", "Ⅷ", "①", "٣٤", "१२", "๕", "𝟘𝟙", "１２", "〇", "一二"]
EMOJI = ["😀", "❤️", "❤", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "🇯", "✨", "👩🏾‍🚀", "#️⃣", "🧑‍🤝‍🧑", "\u200d", "\ufe0f", "🫨"]
CONTROL = [chr(c) for c in range(0x20)] + ["\x7f", "\x80", "\x9f", "\u200e", "\u202e", "\u2066", "\ufff9", "\ufffd", "\uffff"]
MARKS = ["\u0300", "\u0301", "\u0302", "\u0303", "\u0308", "\u030a", "\u0316", "\u0323", "\u0327", "\u0328", "\u0345", "\u031b",
         "\u0335", "\u034f", "\u0338", "\u05b0", "\u05bc", "\u064b", "\u0651", "\u093c", "\u094d", "\u0e38", "\u0f71", "\u3099",
         "\u309a", "\u20d0", "\u20e3", "\ufe20", "\U000e0100"]
# Marks and composites that are newer than the normaliser of the oracle.
NEW_MARKS = ["\u0898", "\u08d3", "\u0c3c", "\u1abf", "\u1ac5", "\u1df6", "\u09fe", "\ua82c", "\U00010d24", "\U00011938",
             "\U00011935\U00011930", "\U000105d2\u0307", "\U0001e08f", "\U00016d63\U00016d67", "\U00011382\U000113c9"]
BASES = list("aeiouAEIOUncsyzdgkltrw<>=≠") + ["か", "ハ", "ウ", "क", "ড", "α", "ι", "Ω", "и", "א", "ש", "ཀ", "ଡ", "ಇ", "ක", "ဥ"]
SINGLES = ["\u212b", "\u2126", "\u0340", "\u0344", "\u0374", "\u037e", "\u1fef", "\u2000", "\u2001", "\u2329", "\u0958", "\u09dc",
           "\ufb1d", "\ufb2e", "\u2adc", "\uf900", "\ufa10", "\U0002f800", "\U0001d15e", "\U0001d1bb", "\u0387", "\u1f71", "\u1fed", "\u0f43"]
JAMO = [chr(c) for c in (0x1100, 0x1102, 0x1112, 0x1113, 0x1161, 0x1175, 0x1176, 0x11a7, 0x11a8, 0x11c2, 0x11c3, 0xac00, 0xac01,
                         0xac1c, 0xd7a3, 0xd788, 0x115f, 0x1160, 0x3131, 0xffa1)]

# content, special, then the flags that are on
ADDED = [
    ("<|endoftext|>", True, {}), ("<|im_start|>", True, {}), ("<|im_end|>", True, {}), ("<|im", True, {}),
    ("<|vision_start|>", True, {}), ("<|image_pad|>", True, {}),
    ("<think>", False, {}), ("</think>", False, {}), ("<tool_call>", False, {}), ("</tool_call>", False, {"normalized"}),
    ("[MASK]", True, {"lstrip"}), ("[PAD]", True, {"rstrip"}), ("[SEP]", True, {"lstrip", "rstrip", "normalized"}),
    ("word", False, {"single_word"}), ("wordy", False, {"single_word", "normalized"}),
    ("cafe\u0301", False, {"normalized"}), ("\u1112\u1161\u11ab", True, {"normalized", "rstrip"}),
    ("xyx", False, {"normalized", "lstrip", "single_word"}), ("xyxy!", False, {"normalized"}),
    ("\u3000", False, {"rstrip"}),
]


def synthetic_text(rng):
    """Words of random syllables, so that the vocabulary has entries of every script."""
    lines = []
    for script, parts in SYLLABLES.items():
        words = ["".join(rng.choices(parts, k=rng.randint(1, 4))) for _ in range(260)]
        joiner = "" if script in ("han", "kana") else " "
        for _ in range(120):
            # The minimum of two draws makes some words frequent, as in real text.
            picks = [words[min(rng.randrange(260), rng.randrange(260))] for _ in range(12)]
            lines.append(joiner.join(picks) + rng.choice([".", ",", "!", "\n", " "]))
    return lines


def build_tokenizer(rng):
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tok.train_from_iterator(SENTENCES * 8 + synthetic_text(rng), trainer)
    for content, special, flags in ADDED:
        token = AddedToken(content, special=special, normalized="normalized" in flags, lstrip="lstrip" in flags,
                           rstrip="rstrip" in flags, single_word="single_word" in flags)
        (tok.add_special_tokens if special else tok.add_tokens)([token])
    return tok


def random_word(rng):
    parts = SYLLABLES[rng.choice(list(SYLLABLES))]
    return "".join(rng.choices(parts, k=rng.randint(1, 3)))


def random_code_point(rng):
    top = rng.choice([0x250, 0x3000, 0x10000, 0x20000, 0x110000])
    while True:
        cp = rng.randrange(top)
        if not 0xD800 <= cp <= 0xDFFF:
            return chr(cp)


def marked(rng):
    """A base with marks in any order, at times far too many of them."""
    count = rng.choice([1, 1, 2, 2, 3, 4, 12])
    pool = MARKS + NEW_MARKS if rng.random() < 0.3 else MARKS
    return rng.choice(BASES + [""]) + "".join(rng.choices(pool, k=count))


def added(rng):
    content = rng.choice(ADDED)[0]
    shape = rng.random()
    if shape < 0.6:
        return content
    if shape < 0.7:
        return content[:rng.randint(1, len(content))]
    if shape < 0.8:
        return unicodedata.normalize("NFC", content)
    around = [" ", "  ", "\n", "\u00a0", "x", "é", "_", "9", ".", "\u0301", "\u200d", "Ⓐ", ""]
    return rng.choice(around) + content + rng.choice(around)


def long_word(rng):
    return rng.choice([lambda: "a" * rng.randint(65, 160), lambda: random_word(rng) * rng.randint(8, 30),
                       lambda: "".join(rng.choices("abcdeth", k=rng.randint(65, 130))),
                       lambda: "=" * rng.randint(20, 130), lambda: "ab" * rng.randint(20, 70)])()


def fragment(rng):
    kinds = [
        (16, lambda: random_word(rng)), (10, lambda: rng.choice(SPACES)), (5, lambda: rng.choice(NEWLINES)),
        (6, lambda: rng.choice(PUNCTUATION)), (5, lambda: random_word(rng) + rng.choice(CONTRACTIONS)),
        (2, lambda: rng.choice(CONTRACTIONS)), (4, lambda: rng.choice(DIGITS)), (3, lambda: rng.choice(EMOJI)),
        (2, lambda: rng.choice(CONTROL)), (4, lambda: marked(rng)), (2, lambda: rng.choice(SINGLES)),
        (3, lambda: "".join(rng.choices(JAMO, k=rng.randint(1, 4)))), (7, lambda: added(rng)),
        (2, lambda: unicodedata.normalize("NFD", random_word(rng))),
        (3, lambda: random_code_point(rng)), (0.3, lambda: long_word(rng)),
        (3, lambda: " ".join(rng.choice(SENTENCES).split()[:rng.randint(1, 4)])),
    ]
    return rng.choices([make for _, make in kinds], weights=[weight for weight, _ in kinds])[0]()


def make_texts(rng):
    fixed = ["", " ", "\n", "'", "a", "\u0301", "a\u0301", "\U0010ffff", " " * 200, "\n" * 70, " \n" * 40, "\u3000" * 3,
             "".join(c for c, _, _ in ADDED), " ".join(c for c, _, _ in ADDED), "[PAD] [PAD]  [SEP] [MASK] \u3000 \u3000[MASK]"]
    texts = dict.fromkeys(fixed + SENTENCES)
    while len(texts) < CASES:
        texts["".join(fragment(rng) for _ in range(rng.choice([1, 2, 3, 3, 4, 5, 6, 8])))] = None
    return list(texts)


def dump_lines(path, rows):
    # ASCII only, so that no tool mistakes U+2028 or U+0085 for the end of a line.
    text = "".join(json.dumps(row, ensure_ascii=True, separators=(",", ":")) + "\n" for row in rows)
    path.write_text(text, encoding="ascii")


def decode_row(tok, ids):
    return {"ids": ids, "text": tok.decode(ids, skip_special_tokens=False),
            "text_skip": tok.decode(ids, skip_special_tokens=True)}


def main():
    assert tokenizers.__version__ == "0.23.3", tokenizers.__version__
    rng = random.Random(SEED)
    tok = build_tokenizer(rng)
    folder = DATA / "tokenizer_qwen35"
    folder.mkdir(exist_ok=True)
    text = json.dumps(json.loads(tok.to_str()), ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(text + "\n", encoding="utf-8")
    tok = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tiny = Tokenizer.from_file(str(ROOT / "assets" / "tiny-model" / "tokenizer.json"))

    texts = make_texts(rng)
    rows = [{"text": text, "ids": tok.encode(text).ids} for text in texts]
    for row in rows[:TINY_CASES]:
        row["tiny"] = tiny.encode(row["text"]).ids
    dump_lines(DATA / "tokenizer_cases.jsonl", rows)

    size = tok.get_vocab_size()
    decoded = [decode_row(tok, row["ids"]) for row in rows[100:100 + DECODE_CASES // 2]]
    while len(decoded) < DECODE_CASES:
        # Cut-up characters: most ids below 256 are single bytes; some ids have no token.
        pool = rng.choice([256, 256, size, size + 40])
        ids = [rng.choice([rng.randrange(pool), size - 1 - rng.randrange(len(ADDED))] if rng.random() < 0.2
                          else [rng.randrange(pool)]) for _ in range(rng.randint(1, 14))]
        decoded.append(decode_row(tok, ids))
    dump_lines(DATA / "tokenizer_decode_cases.jsonl", decoded)


if __name__ == "__main__":
    main()
