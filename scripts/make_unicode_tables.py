#!/usr/bin/env python3
"""Writes engine/text/unicode_tables.cc, the character data of the text engine.

Needs `pip install unicodedata2==16.0.0`. Usage, from the repository root:

    python3 scripts/make_unicode_tables.py engine/text/unicode_tables.cc

Two Unicode versions meet here, because the tokenizer must give the ids that Hugging Face `tokenizers`
gives, and that library mixes them: its regular expressions know Unicode 16, while its NFC knows
Unicode 9. So the classes L, M, N, White_Space and \\w are those of version 16, and for NFC every code
point assigned later than version 9 counts as an unassigned one: a starter that neither decomposes
nor composes. The stability policy of normalisation makes the two equal everywhere else.
"""

import sys

import unicodedata2 as ucd

MAX_CODE_POINT = 0x10FFFF
BLOCK = 128

# Code points assigned after Unicode 9 whose combining class is not 0 or that decompose.
NEWER_THAN_NFC = """
07FD 0897-089F 08CA-08D3 09FE 0C3C 0D3B-0D3C 0EBA 1715 1ABF-1ACE 1DF6-1DF9 A82C 105C9 105E4
10D24-10D27 10D69-10D6D 10EAB-10EAC 10EFD-10EFF 10F46-10F50 10F82-10F85 11070 1133B 11383 11385 1138E
11391 113C5 113C7-113C8 113CE-113D0 1145E 11839-1183A 11938 1193D-1193E 11943 119E0 11A34 11A47 11A99
11D42 11D44-11D45 11D97 11F41-11F42 16121-16128 1612F 16D68-16D6A 16FF0-16FF1 1E08F 1E130-1E136 1E2AE
1E2EC-1E2EF 1E4EC-1E4EF 1E5EE-1E5EF
"""

LETTER, MARK, NUMBER, SPACE, WORD, NFC_CHECK, DECOMPOSES = (1 << bit for bit in range(7))

WHITE_SPACE = {*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029,
               0x202F, 0x205F, 0x3000}
# Other_Alphabetic outside of L, M and N (circled and squared letters), and Join_Control: part of \w.
WORD_EXTRA = {0x200C, 0x200D, *range(0x24B6, 0x24EA), *range(0x1F130, 0x1F14A),
              *range(0x1F150, 0x1F16A), *range(0x1F170, 0x1F18A)}
HANGUL_SYLLABLES = range(0xAC00, 0xAC00 + 11172)
# The vowels and trailing consonants that the algorithm composes.
HANGUL_MEDIAL = {*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)}


def parse_ranges(text):
    found = set()
    for part in text.split():
        first, _, last = part.partition("-")
        found.update(range(int(first, 16), int(last or first, 16) + 1))
    return found


NEWER = parse_ranges(NEWER_THAN_NFC)


def is_scalar(cp):
    return not 0xD800 <= cp <= 0xDFFF


def combining_class(cp):
    return 0 if cp in NEWER or not is_scalar(cp) else ucd.combining(chr(cp))


def decomposition(cp):
    """The canonical mapping as one or two code points; empty for Hangul, which is arithmetic."""
    if cp in NEWER or cp in HANGUL_SYLLABLES or not is_scalar(cp):
        return ()
    text = ucd.decomposition(chr(cp))
    if not text or text.startswith("<"):
        return ()
    return tuple(int(part, 16) for part in text.split())


def composes(cp, mapping):
    """False for singletons, composition exclusions and non-starter decompositions."""
    return len(mapping) == 2 and ucd.normalize("NFC", chr(cp)) == chr(cp)


def class_flags(cp):
    if not is_scalar(cp):
        return 0
    category = ucd.category(chr(cp))
    flags = {"L": LETTER, "M": MARK, "N": NUMBER}.get(category[0], 0)
    if cp in WHITE_SPACE:
        flags |= SPACE
    if category[0] in "LM" or category in ("Nl", "Nd", "Pc") or cp in WORD_EXTRA:
        flags |= WORD
    return flags


def build_records(decompositions, second_parts):
    records = []
    for cp in range(MAX_CODE_POINT + 1):
        flags = class_flags(cp)
        mapping = decompositions.get(cp)
        if cp in second_parts or cp in HANGUL_MEDIAL or (mapping and not composes(cp, mapping)):
            flags |= NFC_CHECK
        if mapping:
            flags |= DECOMPOSES
        records.append((flags, combining_class(cp)))
    return records


def two_stage(records):
    """Returns the distinct records, the block index (empty tail cut off) and the blocks."""
    distinct = sorted(set(records))
    number = {record: i for i, record in enumerate(distinct)}
    assert distinct[0] == (0, 0) and len(distinct) < 256
    blocks, index = [], []
    for start in range(0, len(records), BLOCK):
        block = tuple(number[record] for record in records[start:start + BLOCK])
        if block not in blocks:
            blocks.append(block)
        index.append(blocks.index(block))
    empty = blocks.index((0,) * BLOCK)
    while index[-1] == empty:
        index.pop()
    return distinct, index, [value for block in blocks for value in block]


def wrap(values, width=100):
    lines, line = [], ""
    for value in values:
        if len(line) + len(value) + 1 > width:
            lines.append(line)
            line = ""
        line += value + ","
    return "\n".join(lines + [line])


def array(kind, name, values):
    return f"const {kind} {name}[] = {{\n{wrap(values)}\n}};\nconst std::size_t {name}Size = {len(values)};\n"


def main(path):
    every = {cp: decomposition(cp) for cp in range(MAX_CODE_POINT + 1)}
    decompositions = {cp: mapping for cp, mapping in every.items() if mapping}
    pairs = sorted((*mapping, cp) for cp, mapping in decompositions.items() if composes(cp, mapping))
    distinct, index, blocks = two_stage(build_records(decompositions, {b for _, b, _ in pairs}))
    assert max(index) < 256, "unicode_tables.h declares 8 bits"
    text = [
        "// Generated by scripts/make_unicode_tables.py; do not edit. Classes: Unicode "
        f"{ucd.unidata_version}; NFC: Unicode 9.",
        '#include "engine/text/unicode_tables.h"\n\n// clang-format off',
        "namespace hybridattn::engine::unicode_tables {\n",
        array("CodePointRecord", "kRecords", [f"{{{f},{c}}}" for f, c in distinct]),
        array("std::uint8_t", "kBlockIndex", [str(i) for i in index]),
        array("std::uint8_t", "kBlocks", [str(v) for v in blocks]),
        array("Decomposition", "kDecompositions",
              [f"{{{cp},{m[0]},{m[1] if len(m) > 1 else 0}}}" for cp, m in sorted(decompositions.items())]),
        array("Composition", "kCompositions", [f"{{{a},{b},{cp}}}" for a, b, cp in pairs]),
        "}  // namespace hybridattn::engine::unicode_tables",
    ]
    with open(path, "w", encoding="ascii") as out:
        out.write("\n".join(text) + "\n")


if __name__ == "__main__":
    if ucd.unidata_version != "16.0.0" or len(sys.argv) != 2:
        sys.exit(f"usage: make_unicode_tables.py OUTPUT, with unicodedata2 16.0.0 (found {ucd.unidata_version})")
    main(sys.argv[1])
