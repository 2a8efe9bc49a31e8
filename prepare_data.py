"""Prepares text and datasets as records: clean, vocab, pretraining, squad, inspect, verify."""

from importlib import import_module

from configs.cli import parse_command, run
from configs.prepare import CleanConfig, InspectConfig, PretrainingDataConfig, VerifyConfig, VocabConfig
from configs.squad import SquadDataConfig

# command → its flags, its description, and its function, which is imported on demand so that --help is fast
COMMANDS: dict[str, tuple[type, str, str]] = {
    "clean": (
        CleanConfig,
        "any text → text files with one sentence per line and a blank line between documents",
        "preparation.cleaning.clean",
    ),
    "vocab": (VocabConfig, "text → a WordPiece vocabulary", "preparation.vocabulary.make_vocab"),
    "pretraining": (PretrainingDataConfig, "text → shards of masked sentence pairs", "preparation.pretraining.prepare"),
    "squad": (SquadDataConfig, "a SQuAD file → shards of windows", "preparation.squad.prepare"),
    "inspect": (InspectConfig, "show the content of a directory of shards", "preparation.inspection.inspect"),
    "verify": (VerifyConfig, "check every record of a directory of shards", "preparation.inspection.verify"),
}


def main() -> None:
    """Parses the command line and calls one function."""
    flags = {name: (config_class, text) for name, (config_class, text, _) in COMMANDS.items()}
    command, config = parse_command(flags, description="Prepare data for BERT.")
    module, function = COMMANDS[command][2].rsplit(".", 1)
    getattr(import_module(f"data.{module}"), function)(config)


if __name__ == "__main__":
    run(main)
