"""What a set of records holds, in numbers and bars: report.json and a report.html that needs no other file."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.records.ofrecord import write_atomically

REPORT_HTML, REPORT_JSON = "report.html", "report.json"
_LINE = 110


class RecordStatistics:
    """Counts over records; those of different processes add up."""

    def __init__(self, seq_length: int, vocab_size: int) -> None:
        self.records = 0
        self.lengths = np.zeros(seq_length + 1, np.int64)  # of [CLS] A [SEP] B [SEP]
        self.second = np.zeros(seq_length + 1, np.int64)  # of B [SEP]
        self.tokens = np.zeros(vocab_size, np.int64)  # before masking, padding left out
        self.labels = np.zeros(2, np.int64)
        self.predictions = np.zeros(seq_length + 1, np.int64)  # how many a record has
        self.shown = np.zeros(3, np.int64)  # predictions shown as [MASK], as themselves, as another token

    def add(self, batch: Mapping[str, np.ndarray], mask_id: int | None) -> None:
        """Counts R records given as the features of the schema; ids must be below the vocabulary's size."""
        ids, mask = batch["input_ids"], batch["input_mask"]
        self.records += len(ids)
        lengths = mask.sum(1, dtype=np.int32)
        _count(self.lengths, lengths)
        if "segment_ids" in batch:
            _count(self.second, batch["segment_ids"].sum(1, dtype=np.int32))
        if "next_sentence_labels" in batch:
            _count(self.labels, batch["next_sentence_labels"].ravel())
        if "masked_lm_weights" in batch:
            used = batch["masked_lm_weights"] > 0
            _count(self.predictions, np.count_nonzero(used, 1))
            rows = np.flatnonzero(used) // used.shape[1]  # several times as fast as nonzero
            places, answers = rows * ids.shape[1] + batch["masked_lm_positions"][used], batch["masked_lm_ids"][used]
            shown = ids.take(places)
            _count(self.shown, np.where(shown == answers, 1, np.where(shown == mask_id, 0, 2)))
            ids = ids.copy()
            ids.put(places, answers)
        _count(self.tokens, np.clip(ids[mask > 0], 0, len(self.tokens) - 1))

    def merge(self, other: "RecordStatistics") -> None:
        """Adds another's counts."""
        self.records += other.records
        for name, counts in vars(other).items():
            if name != "records":
                vars(self)[name] += counts

    def to_json(self) -> dict[str, Any]:
        """All counts."""
        return {name: value if name == "records" else value.tolist() for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "RecordStatistics":
        """The inverse of `to_json`."""
        result = cls(len(content["lengths"]) - 1, len(content["tokens"]))
        for name, value in content.items():
            setattr(result, name, value if name == "records" else np.array(value, np.int64))
        return result

    def summary(self, vocab: Mapping[str, int], made_by: Mapping[str, Any], objective: str) -> dict[str, Any]:
        """The figures of the report; shares are of 1.

        Args:
            made_by: the flags of the preparation, as far as they are known. With `bin_size`, padding is also counted
                up to a multiple of it alone; `masking` "dynamic" swaps the pairs of `objective` "sop" when they are
                read.
        """
        bin_size = made_by.get("bin_size")
        seq_length = len(self.lengths) - 1
        tokens = int((np.arange(seq_length + 1) * self.lengths).sum())
        predictions = int(self.shown.sum())
        special = [vocab[token] for token in ("[PAD]", "[CLS]", "[SEP]", "[MASK]") if token in vocab]
        text = self.tokens.copy()
        text[special] = 0
        text_tokens = max(1, int(text.sum()))
        figures: dict[str, Any] = {
            "records": self.records,
            "tokens": tokens,
            "mean_length": tokens / max(1, self.records),
            "padding_share": 1 - tokens / max(1, self.records * seq_length),
            "length_histogram": self.lengths.tolist(),
            "vocabulary_size": len(self.tokens),
            "vocabulary_used": int((self.tokens > 0).sum()),
            "vocabulary_used_share": int((self.tokens > 0).sum()) / len(self.tokens),
            "objective": objective,
        }
        if bin_size:
            bounds = np.minimum(-(-np.arange(seq_length + 1) // bin_size) * bin_size, seq_length)
            figures["binned_padding_share"] = 1 - tokens / max(1, int((bounds * self.lengths).sum()))
        if "[UNK]" in vocab:
            figures["unknown_share"] = int(self.tokens[vocab["[UNK]"]]) / text_tokens
        if self.labels.sum() and (objective, made_by.get("masking")) != ("sop", "dynamic"):
            figures["label_1_share"] = int(self.labels[1]) / int(self.labels.sum())
        if predictions:
            figures |= {
                "predictions_per_record": predictions / self.records,
                "predictions_histogram": self.predictions[: int(np.flatnonzero(self.predictions)[-1]) + 1].tolist(),
                "masked_share_of_tokens": predictions / tokens,
                "shown_as_mask": int(self.shown[0]) / predictions,
                "shown_as_itself": int(self.shown[1]) / predictions,
                "shown_as_another": int(self.shown[2]) / predictions,
            }
        most = np.argsort(text)[::-1][:30]
        tokens_of = {index: token for token, index in vocab.items()}
        figures["most_frequent_tokens"] = {tokens_of.get(i, str(i)): int(text[i]) for i in most.tolist() if text[i]}
        return figures


def _count(counts: np.ndarray, values: np.ndarray) -> None:
    counts += np.bincount(values, minlength=len(counts))


def describe(record: Mapping[str, np.ndarray], tokens: Mapping[int, str], objective: str = "nsp") -> str:
    """One record as text: its tokens, the answers to its masks, its labels (of which the objective is known)."""

    def show(index: int) -> str:
        return tokens.get(index, str(index))

    length = int(record["input_mask"].sum()) if "input_mask" in record else len(record["input_ids"])
    words = [show(index) for index in record["input_ids"][:length].tolist()]
    lines = _wrapped(" ".join(words))
    if "masked_lm_positions" in record:
        used = record["masked_lm_weights"] > 0
        places, answers = (record[f"masked_lm_{name}"][used].tolist() for name in ("positions", "ids"))
        shown = [f"{place}:{show(answer)}" for place, answer in zip(places, answers, strict=True)]
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
    """What the labels 0 and 1 mean."""
    return ("A and B in order", "A and B swapped") if objective == "sop" else ("B follows A", "B comes from elsewhere")


def _wrapped(text: str) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        if len(lines[-1]) + len(word) > _LINE:
            lines.append("")
        lines[-1] += " " * bool(lines[-1]) + word
    return [f"  {line}" for line in lines]


def warnings(figures: Mapping[str, Any]) -> list[str]:
    """What ruins training, a sentence each."""
    found = []
    corpus = figures.get("corpus", {})
    if figures.get("unknown_share", 0) > 0.01:
        found.append(f"{figures['unknown_share']:.1%} of the tokens are [UNK]: the vocabulary does not fit the text.")
    if corpus.get("duplicate_lines_share", 0) > 0.01:
        found.append(
            f"{corpus['duplicate_lines_share']:.1%} of the lines occur more than once: --remove_duplicates "
            "both leaves them out."
        )
    longest = len(figures["length_histogram"]) - 1
    if figures.get("packing") == "pairs" and corpus["tokens"] > longest * corpus["sentences"]:
        found.append(
            f"a line has {corpus['tokens'] / corpus['sentences']:,.0f} tokens on average, more than a record, and what "
            "does not fit is cut off: `prepare_data.py clean` splits text into sentences."
        )
    if corpus.get("single_sentence_documents", 0) > 0.1 * corpus.get("documents", 0):
        found.append(
            f"{corpus['single_sentence_documents']:,} of {corpus['documents']:,} documents are one sentence: is there "
            "a sentence on every line, and a blank line between documents only?"
        )
    if corpus.get("capitals_share", 1) < 0.01 and not figures.get("do_lower_case", True):
        found.append("the vocabulary is cased, and the text has no capitals: was it lower-cased before?")
    if "label_1_share" in figures and not 0.3 < figures["label_1_share"] < 0.75:
        found.append(f"{figures['label_1_share']:.0%} of the labels are 1: documents are too short or too few.")
    padding = figures.get("binned_padding_share", figures["padding_share"])
    if padding > 0.3:
        found.append(f"{padding:.0%} of the positions are padding: a shorter --max_seq_length is cheaper.")
    return found


def write_report(directory: Path, figures: dict[str, Any], samples: Sequence[str], title: str) -> list[str]:
    """Writes report.json and report.html; returns the warnings."""
    figures = {**figures, "warnings": warnings(figures)}
    write_atomically(directory / REPORT_JSON, json.dumps({**figures, "samples": samples}, indent=1).encode() + b"\n")
    write_atomically(directory / REPORT_HTML, _page(figures, samples, title).encode("utf-8", "replace"))
    found: list[str] = figures["warnings"]
    return found


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
        f"<tr><td>{html.escape(name.replace('_', ' '))}</td><td>{_shown(name, value)}</td></tr>"
        for name, value in figures.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    )
    return f"<h2>{title}</h2><table>{rows}</table>" if rows else ""


def _shown(name: str, value: float) -> str:
    if name.endswith(("_share", "share_of_tokens")) or name.startswith("shown_as"):
        return f"{value:.2%}"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def _plots(figures: Mapping[str, Any]) -> str:
    """Bars: plain HTML, because a plotting library takes longer to start than a small set to prepare."""
    shares = {
        "Padding": {"at full length": "padding_share", "in bins of lengths": "binned_padding_share"},
        "Masked tokens": {"of all": "masked_share_of_tokens"},
        "A masked token is shown as": {
            "[MASK]": "shown_as_mask", "itself": "shown_as_itself", "a random one": "shown_as_another"
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
    """A histogram of at most 16 bars."""
    width = -(-len(histogram) // 16)
    bars = {}
    for start in range(0, len(histogram), width or 1):
        group = histogram[start : start + width]
        bars[f"{start}–{start + len(group) - 1}" if len(group) > 1 else str(start)] = sum(group)
    return bars


def _bars(title: str, values: Mapping[str, float], full: float | None = None) -> str:
    """A bar for each value; `full` is as wide as it gets (default: the largest value)."""
    full = full or max(values.values(), default=0) or 1
    rows = "".join(
        f'<tr><td>{html.escape(name)}</td><td class="bar">'
        + (f'<div style="width: {100 * value / full:.1f}%"></div>' if value else "")
        + "</td>"
        + f"<td>{f'{value:,}' if isinstance(value, int) else f'{value:.1%}'}</td></tr>"
        for name, value in values.items()
    )
    return f"<h2>{title}</h2><table>{rows}</table>" if values else ""
