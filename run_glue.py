"""BERT for GLUE's tasks: fine-tune, evaluate, predict. `python3 run_glue.py --help`."""

from configs.cli import parse, run
from configs.glue import GlueConfig
from configs.training import RETIRED


def main() -> None:
    config = parse(GlueConfig, description=__doc__ or "", retired=RETIRED)
    from training.glue import finetune_glue  # the framework is imported after --help and mistakes in flags

    finetune_glue(config)


if __name__ == "__main__":
    run(main)
