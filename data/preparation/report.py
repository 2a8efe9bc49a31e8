"""Writes the report about a record set: report.json, and a self-contained report.html with tables and bar charts."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.atomic_files import write_atomically

REPORT_HTML, REPORT_JSON = "report.html", "report.json"
_LINE = 110  # characters


def describe(record: Mapping[str, np.ndarray], tokens: Mapping[int, str], objective: str = "nsp") -> str:
    """One record as text: its tokens, the answers to its masks, its labels."""

    def show(index: int) -> str:
        return tokens.get(index, str(index))

    length = int(record["input_mask"].sum()) if "input_mask" in record else len(record["input_ids"])
    words = [show(index) for index in record["input_ids"][:length].tolist()]
    lines = _wrapped(" ".join(words))
    if "masked_lm_positions" in record:
        used = record["masked_lm_weights"] > 0
        positions, answers = (record[f"masked_lm_{name}"][used].tolist() for name in ("positions", "ids"))
        shown = [f"{position}:{show(answer)}" for position, answer in zip(positions, answers, strict=True)]
        lines += _wrapped(f"masked: {' '.join(shown)}")
    if "segment_ids" in record:
        second = int(record["segment_ids"].sum())
        lines.append(f"  {length} tokens, {length - second} in the first segment and {second} in the second")
    if "next_sentence_labels" in record:
        label = int(record["next_sentence_labels"][0])
        lines.append(f"  {dict(enumerate(_label_meanings(objective))).get(label, f'next_sentence_labels: {label}')}")
    for name in ("start_positions", "end_positions", "unique_ids", "label_ids"):
        if name in record:
            lines.append(f"  {name}: {record[name][0]}")
    return "\n".join(lines)


def _label_meanings(objective: str) -> tuple[str, str]:
    """The meanings of the labels 0 and 1."""
    return ("A and B in order", "A and B swapped") if objective == "sop" else ("B follows A", "B comes from elsewhere")


def _wrapped(text: str) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        if len(lines[-1]) + len(word) > _LINE:
            lines.append("")
        lines[-1] += " " * bool(lines[-1]) + word
    return [f"  {line}" for line in lines]


def warnings(figures: Mapping[str, Any]) -> list[str]:
    """One sentence for each problem that harms training or wastes time."""
    found = []
    corpus = figures.get("corpus", {})
    if figures.get("unknown_share", 0) > 0.01:
        found.append(f"{figures['unknown_share']:.1%} of the tokens are [UNK]: use a vocabulary that fits the text.")
    if corpus.get("duplicate_lines_share", 0) > 0.01:
        found.append(
            f"{corpus['duplicate_lines_share']:.1%} of the lines are duplicates: remove them with "
            "--remove_duplicates both."
        )
    longest = len(figures["length_histogram"]) - 1
    if figures.get("packing") == "pairs" and corpus["tokens"] > longest * corpus["sentences"]:
        found.append(
            f"a line has {corpus['tokens'] / corpus['sentences']:,.0f} tokens on average, more than fit into a record, "
            "and the surplus is cut off: split the text into sentences with `prepare_data.py clean`."
        )
    if corpus.get("single_sentence_documents", 0) > 0.1 * corpus.get("documents", 0):
        found.append(
            f"{corpus['single_sentence_documents']:,} of {corpus['documents']:,} documents have a single "
            "sentence: check that each line is a sentence and that blank lines only separate documents."
        )
    if corpus.get("capitals_share", 1) < 0.01 and not figures.get("do_lower_case", True):
        found.append(
            "the vocabulary is cased, but the text has no capital letters: check whether it was lower-cased before."
        )
    if "label_1_share" in figures and not 0.3 < figures["label_1_share"] < 0.75:
        found.append(
            f"{figures['label_1_share']:.0%} of the labels are 1, not half: the documents are too short or too few."
        )
    padding = figures.get("binned_padding_share", figures["padding_share"])
    if padding > 0.3:
        found.append(f"{padding:.0%} of the positions are padding: use a smaller --max_seq_length to train faster.")
    return found


def write_report(directory: Path, figures: dict[str, Any], samples: Sequence[str], title: str) -> list[str]:
    """Write report.json and report.html; return the warnings."""
    figures = {**figures, "warnings": warnings(figures)}
    write_atomically(directory / REPORT_JSON, json.dumps({**figures, "samples": samples}, indent=1).encode() + b"\n")
    write_atomically(directory / REPORT_HTML, _page(figures, samples, title).encode("utf-8", "replace"))
    found: list[str] = figures["warnings"]
    return found


# Row titles for keys of report.json that are hard to read.
_TITLES = {
    "mean_length": "mean tokens per record",
    "padding_share": "padding, at full length",
    "binned_padding_share": "padding with length bins",
    "vocabulary_size": "vocabulary entries",
    "vocabulary_used": "vocabulary entries used",
    "vocabulary_used_share": "share of vocabulary entries used",
    "unknown": "[UNK] tokens",
    "unknown_share": "share of [UNK] tokens",
    "label_1_share": "records with label 1",
    "masked_share_of_tokens": "predicted share of tokens",
    "shown_as_mask": "predicted tokens replaced by [MASK]",
    "shown_as_itself": "predicted tokens left unchanged",
    "shown_as_another": "predicted tokens replaced by another token",
    "capitals_share": "lines that begin with a capital letter",
    "duplicate_lines_share": "duplicate lines",
}

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
table { border-collapse: collapse; } td:first-child { min-width: 12em; }
td { padding: .15em 1.5em .15em 0; border-bottom: 1px solid #ddd; }
td + td { text-align: right; font-variant-numeric: tabular-nums; }
.warning { background: #fff3cd; padding: .5em 1em; margin: .4em 0; }
pre { background: #f6f6f6; padding: .8em; overflow-x: auto; font-size: 12px; }
.bar { width: 24em; text-align: left; } .bar div { background: #33608c; height: .9em; min-width: 1px; }
"""


def _page(figures: Mapping[str, Any], samples: Sequence[str], title: str) -> str:
    notes = "".join(f'<p class="warning">{html.escape(warning)}</p>' for warning in figures["warnings"])
    texts = "".join(f"<pre>{html.escape(sample)}</pre>" for sample in samples)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>{notes}"
        f"{_table('Text', figures.get('corpus', {}))}{_table('Records', figures)}{_plots(figures)}"
        f"<h2>Samples</h2>{texts}</html>\n"
    )


def _table(title: str, figures: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(_TITLES.get(name, name.replace('_', ' ')))}</td><td>{_shown(name, value)}</td></tr>"
        for name, value in figures.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    )
    return f"<h2>{title}</h2><table>{rows}</table>" if rows else ""


def _shown(name: str, value: float) -> str:
    if name.endswith(("_share", "share_of_tokens")) or name.startswith("shown_as"):
        return f"{value:.2%}"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def _plots(figures: Mapping[str, Any]) -> str:
    """The bar charts, in plain HTML, because importing a plotting library takes longer than preparing a small set."""
    shares = {
        "Padding": {"at full length": "padding_share", "cut to bins of lengths": "binned_padding_share"},
        "Masked tokens": {"of all": "masked_share_of_tokens"},
        "Input at a predicted token": {
            "[MASK]": "shown_as_mask", "the token": "shown_as_itself", "another token": "shown_as_another"
        },
    }  # fmt: skip
    labels = {}
    if "label_1_share" in figures:
        follows, elsewhere = _label_meanings(figures.get("objective", "nsp"))
        labels = {f"0: {follows}": 1 - figures["label_1_share"], f"1: {elsewhere}": figures["label_1_share"]}
    return (
        _bars("Tokens per record", _grouped(figures["length_histogram"]))
        + _bars("Predictions per record", _grouped(figures.get("predictions_histogram", [])))
        + _bars("Labels", labels, 1)
        + "".join(
            _bars(title, {text: figures[name] for text, name in names.items() if name in figures}, 1)
            for title, names in shares.items()
        )
        + _bars("Most frequent tokens", dict(list(figures["most_frequent_tokens"].items())[:16]))
    )


def _grouped(histogram: Sequence[int]) -> dict[str, int]:
    """A histogram, grouped into at most 16 bars."""
    width = -(-len(histogram) // 16)
    bars = {}
    for start in range(0, len(histogram), width or 1):
        group = histogram[start : start + width]
        bars[f"{start}–{start + len(group) - 1}" if len(group) > 1 else str(start)] = sum(group)
    return bars


def _bars(title: str, values: Mapping[str, float], full: float | None = None) -> str:
    """A table with a bar for each value; `full` is the value of the widest bar (default: the largest value)."""
    full = full or max(values.values(), default=0) or 1
    rows = "".join(
        f'<tr><td>{html.escape(name)}</td><td class="bar">'
        + (f'<div style="width: {100 * value / full:.1f}%"></div>' if value else "")
        + "</td>"
        + f"<td>{f'{value:,}' if isinstance(value, int) else f'{value:.1%}'}</td></tr>"
        for name, value in values.items()
    )
    return f"<h2>{title}</h2><table>{rows}</table>" if values else ""
