"""`prepare_data.py pretraining`: turns text of any size into shards of records.

There are three stages, each in restartable pieces (`pieces`), with files between them so that memory is bounded:

1. `tokenize_stage`: a piece of the input → its tokens,
2. `pairs_stage`: the documents of a piece, `--dupe_factor` times → unmasked rows,
3. `shards_stage`: rows from everywhere → shuffled, masked records.

`--output_format tokens` has no second stage: its shards are the tokens of the first one.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.cli import to_flat_dict
from configs.prepare import PretrainingDataConfig
from conversion.tokenizer_files import Vocabulary, read_vocabulary, vocab_path
from data.preparation.cleaning import input_directories, removed_duplicates, write_text
from data.preparation.inputs import identity_of, open_input
from data.preparation.pairs_stage import draw_pairs
from data.preparation.pieces import Result, run_pieces
from data.preparation.report import write_report
from data.preparation.shards_stage import Written, check_count, record_schema, write_records, write_streams
from data.preparation.storage import is_url, remove, set_directory, stored_plan, upload
from data.preparation.token_store import Corpus
from data.preparation.tokenize_stage import tokenize
from data.preparation.work_directory import discarded_on_mistake, finish, plan_sha256, remove_results, results
from data.records.dataset_json import DATASET_JSON, write_dataset_json
from data.text.spans import Span
from utils.atomic_files import write_atomically
from utils.errors import UserError
from utils.messages import warn

_SPEED_FLAGS = ("num_workers", "runner", "overwrite_output_dir", "work_dir")


def prepare(config: PretrainingDataConfig) -> None:
    """Run the three stages.

    Raises:
        UserError: there is no usable input, the vocabulary does not fit, or the output directory has results of other
            flags.
    """
    directory = set_directory(config)
    vocabulary = read_vocabulary(config.vocab_file, config.do_lower_case).need_wordpiece()
    vocabulary.warn_of_contradictions(config.do_lower_case)
    if vocab_path(config.vocab_file).resolve() == directory.resolve() / "vocab.txt":
        raise UserError(
            f"--vocab_file {config.vocab_file} is in the output directory, whose content will be replaced: copy it to "
            "another directory first."
        )
    if config.segmentation_file and not Path(config.segmentation_file).is_file():
        raise UserError(
            f"--segmentation_file {config.segmentation_file} is not a file: pass a file with the segmented sentences."
        )
    settings: dict[str, Any] = {"vocab_sha256": vocabulary.sha256, **vocabulary.rules_of_records()}
    plan = {"command": "pretraining", "example": to_flat_dict(config.example), "num_shards": config.num_shards}
    plan |= {"bin_size": config.bin_size, "remove_duplicates": config.remove_duplicates} | settings
    if config.segmentation_file:
        plan["segmentation"] = identity_of(Path(config.segmentation_file))
    opened = open_input(config.text, config.work, directory, plan, last_stages={"num_shards": "shards"})
    if opened is None:
        print(f"{config.output_dir} is already complete")
        return
    work, pieces = opened
    if is_url(config.output_dir) and _is_stored(config, work):
        print(f"{config.output_dir} is already complete")
        remove_results(directory)
        return
    with discarded_on_mistake(work):
        summary = _run_stages(config, work, pieces, vocabulary, settings)
    if is_url(config.output_dir):
        _store(config, work)
        remove_results(directory)
    else:
        finish(directory)
    print(f"{summary} in {config.output_dir}")


def _run_stages(
    config: PretrainingDataConfig, work: Path, pieces: Sequence[Sequence[Span]], vocabulary: Vocabulary,
    settings: dict[str, Any],
) -> str:  # fmt: skip
    """Make the record set; return a summary."""
    vocab = vocabulary.ids
    inputs = input_directories(pieces)
    if config.remove_duplicates != "none":
        files, _ = write_text(work, pieces, config.text, config.work, config.remove_duplicates, split=False)
        pieces = [[Span(str(file), 0, file.stat().st_size, "text", file.name)] for file in files]
    corpus, figures = tokenize(config, work, pieces, vocab)
    _check_corpus(corpus, config)
    if config.example.output_format == "tokens":
        written = write_streams(config, work, corpus, vocab)
    else:
        written = write_records(config, work, draw_pairs(config, work, corpus, vocab), corpus, vocab)
    for kind, removed in removed_duplicates(work, *inputs).items():
        figures[f"duplicate_{kind}_removed"] = removed
    unknown_share = _describe_set(config, work, written, figures, vocabulary, settings)
    count = sum(shard.records for shard in written.shards)
    return f"{count:,} records of {corpus.documents[-1]:,} documents ({unknown_share:.2%} of the tokens are unknown)"


def _check_corpus(corpus: Corpus, config: PretrainingDataConfig) -> None:
    """Raise UserError if the corpus is too small or too large."""
    documents = int(corpus.documents[-1])
    named = " ".join(config.text.input_file)
    if not documents:
        raise UserError(f"--input_file {named} contains no text.")
    if documents == 1 and config.example.objective == "nsp":
        without = "" if config.remove_duplicates == "none" else " without its duplicates"
        raise UserError(
            f"--input_file {named} is a single document{without}, but next-sentence prediction needs sentences from "
            "other documents: put a blank line between documents, or pass --objective none."
        )
    if config.example.packing == "pairs":
        # In each repetition, a sentence begins at most one record, and a document has at least one, except for sop.
        least = 0 if config.example.objective == "sop" else documents
        repetitions = config.example.dupe_factor
        check_count(repetitions * least, repetitions * sum(corpus.sentences), config)


def _describe_set(
    config: PretrainingDataConfig, work: Path, written: Written, corpus_figures: dict[str, Any],
    vocabulary: Vocabulary, settings: dict[str, Any],
) -> float:  # fmt: skip
    """Write the report, the vocabulary and, last, `dataset.json`; return the share of unknown tokens."""
    directory, example, vocab = set_directory(config), config.example, vocabulary.ids
    made_by = to_flat_dict(config) | {"do_lower_case": vocabulary.rules.do_lower_case}
    count = sum(shard.records for shard in written.shards)
    figures: dict[str, Any] = {"corpus": corpus_figures}
    figures |= written.statistics.summary(vocab, to_flat_dict(config), example.objective)
    figures |= {"do_lower_case": vocabulary.rules.do_lower_case, "packing": example.packing}
    for warning in write_report(directory, figures, written.samples, f"{directory.name}: {count:,} records"):
        warn(warning)
    for name, content in vocabulary.files_beside_records().items():
        write_atomically(directory / name, content)
    write_dataset_json(
        directory,
        schema=record_schema(example),
        shards=written.shards,
        format=example.output_format,
        seq_length=example.max_seq_length,
        max_predictions_per_seq=example.max_predictions_per_seq,
        objective=example.objective,
        masking=example.masking,
        vocab_size=vocabulary.size,
        cls_id=vocab["[CLS]"],
        sep_id=vocab["[SEP]"],
        **settings,
        made_by={name: value for name, value in made_by.items() if name not in _SPEED_FLAGS},
        plan_sha256=plan_sha256(work),
    )
    share: float = figures["unknown_share"]
    return share


# ---- --output_dir is a URL ------------------------------------------------------------------------------------------


def _is_stored(config: PretrainingDataConfig, work: Path) -> bool:
    """Whether the finished set is at the URL; a different set that may be overwritten is marked as unfinished."""
    stored = stored_plan(config.output_dir)
    if stored is None or stored == plan_sha256(work):
        return stored is not None
    if not config.work.overwrite_output_dir:
        shutil.rmtree(work)
        raise UserError(
            f"--output_dir {config.output_dir} contains the results of other flags or input; use another directory or "
            "pass --overwrite_output_dir."
        )
    remove(config.output_dir)
    return False


def _store(config: PretrainingDataConfig, work: Path) -> None:
    """Copy the finished set to the URL, `dataset.json` last."""
    directory = set_directory(config)
    files = [file for file in results(directory) if not file.name.startswith(".") and file.name != DATASET_JSON]
    run_pieces(
        work, "upload", _upload, [(file, config.output_dir) for file in files],
        flags=config.work, sizes=[file.stat().st_size for file in files], unit="B",
    )  # fmt: skip
    upload(directory / DATASET_JSON, config.output_dir)


def _upload(work: Path, index: int, file: Path, url: str) -> Result:
    upload(file, url)
    return {}
