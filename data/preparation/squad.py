"""`prepare_data.py squad`: turns a SQuAD file into shards of features."""

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from configs.cli import to_flat_dict
from configs.squad import SquadDataConfig
from conversion.tokenizer_files import read_vocabulary
from data.preparation.work_directory import finish, open_work, plan_sha256
from data.records.dataset_json import Shard, write_dataset_json
from data.records.features import Schema, squad_schema
from data.records.shards import ShardWriter
from data.squad.examples import SquadExample, read_squad_examples
from data.squad.features import FIRST_UNIQUE_ID, convert_examples_to_features
from utils.atomic_files import write_atomically
from utils.errors import UserError
from utils.progress import Progress


def prepare(config: SquadDataConfig) -> None:
    """Write shards of features and their dataset.json. An existing set with the same flags and input is kept.

    Raises:
        UserError: see `read_squad_examples`, `read_vocabulary` and `open_work`.
    """
    output, flags = Path(config.output_dir), config.features
    vocabulary = read_vocabulary(flags.vocab_file or "", flags.do_lower_case)
    vocabulary.warn_of_contradictions(flags.do_lower_case)
    examples = read_squad_examples(
        config.input_file, is_training=config.is_training, version_2_with_negative=flags.version_2_with_negative
    )
    if config.num_shards > len(examples):
        raise UserError(f"--num_shards {config.num_shards} is more than the {len(examples)} questions: lower it.")
    plan = features_plan(config)
    work = open_work(output, plan, overwrite=config.overwrite_output_dir)
    if work is None:
        print(f"{output} is already complete")
        return
    schema = squad_schema(flags.max_seq_length, config.is_training)
    shards, unknown_share = _write_shards(config, examples, schema, vocabulary.ids["[UNK]"])
    for name, content in vocabulary.files_beside_records().items():
        write_atomically(output / name, content)
    write_dataset_json(
        output,
        schema=schema,
        shards=shards,
        objective="squad",
        seq_length=flags.max_seq_length,
        **vocabulary.rules_of_records(),
        vocab_size=vocabulary.size,
        vocab_sha256=plan["vocab_sha256"],
        plan_sha256=plan_sha256(work),
        made_by=to_flat_dict(config) | {"do_lower_case": vocabulary.rules.do_lower_case},
    )
    finish(output)
    print(
        f"{output}: {sum(shard.records for shard in shards)} features of {len(examples)} questions "
        f"({unknown_share:.2%} of the tokens are unknown)"
    )


def _write_shards(
    config: SquadDataConfig, examples: Sequence[SquadExample], schema: Schema, unknown_id: int
) -> tuple[list[Shard], float]:
    """Write the features; return the shards and the share of unknown tokens."""
    output, seq_length = Path(config.output_dir), config.features.max_seq_length
    features = convert_examples_to_features(examples, config.features, num_workers=config.num_workers)
    with ExitStack() as stack, Progress("features", len(examples), "questions") as progress:
        files = (output / f"part-{i:05}" for i in range(config.num_shards))
        writers = [stack.enter_context(ShardWriter(file, schema)) for file in files]
        done = tokens = unknown = 0
        for unique_id, feature in enumerate(features, FIRST_UNIQUE_ID):
            record = feature.record(seq_length) | {"unique_ids": np.array([unique_id], np.int32)}
            tokens += int(record["input_mask"].sum())
            unknown += int((record["input_ids"] == unknown_id).sum())
            writers[feature.example_index * config.num_shards // len(examples)].write(record)
            progress.update(feature.example_index + 1 - done)
            done = feature.example_index + 1
    return [writer.shard for writer in writers], unknown / tokens


def features_plan(config: SquadDataConfig) -> dict[str, Any]:
    """Everything that determines the content of the shards."""
    vocabulary = read_vocabulary(config.features.vocab_file or "", config.features.do_lower_case)
    paths_and_speed = ("input_file", "output_dir", "vocab_file", "num_workers", "overwrite_output_dir")
    spellings = ("squad_version",)  # an alias of another flag
    return {
        **{name: value for name, value in to_flat_dict(config).items() if name not in paths_and_speed + spellings},
        "input_sha256": hashlib.sha256(Path(config.input_file).read_bytes()).hexdigest(),
        "vocab_sha256": vocabulary.sha256,
        **vocabulary.rules_of_records(),
    }
