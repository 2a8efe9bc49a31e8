"""Splits paragraphs into sentences."""

import re
from collections.abc import Iterator

MAX_LINE = 1 << 16  # characters; longer lines are cut at a space, because no sentence is that long

# Abbreviations that never end a sentence, and list numbers, after some of which the splitter wrongly splits.
_UNFINISHED = re.compile(r"(?:^\(?\d{1,3}[.)]|^[A-Za-z][.)]|\b(?:e\.g|i\.e|cf|vs|viz|Fig|No|pp?|approx)\.)$")


def split_sentences(paragraph: str, language: str) -> list[str]:
    """The sentences of one paragraph, stripped and not empty."""
    import sentencex

    sentences: list[str] = []
    joined = ""
    for line in short_lines(paragraph):
        for part in map(str.strip, sentencex.segment(language, line)):
            if joined.endswith("No.") and not part[:1].isdigit():  # the answer "No.", not "No. 5"
                sentences.append(joined)
                joined = ""
            joined = f"{joined} {part}".strip()
            if joined and not _UNFINISHED.search(joined):
                sentences.append(joined)
                joined = ""
    return [*sentences, joined] if joined else sentences


def short_lines(line: str) -> Iterator[str]:
    """The line, or pieces of it of at most MAX_LINE characters, cut at spaces if there are any."""
    while len(line) > MAX_LINE:
        cut = line.rfind(" ", 1, MAX_LINE)
        cut = cut if cut > 0 else MAX_LINE
        yield line[:cut]
        line = line[cut:].lstrip()
    yield line
