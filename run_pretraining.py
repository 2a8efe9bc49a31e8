"""BERT pretraining compiled in nn.Graph: `python3 run_pretraining.py --help`."""

from configs.cli import parse, run
from configs.pretraining import PretrainingConfig
from configs.training import RETIRED


def main() -> None:
    config = parse(PretrainingConfig, description=__doc__, retired=RETIRED)
    from training.pretrain import pretrain  # the framework is imported after --help and mistakes in flags

    pretrain(config, mode="graph")


if __name__ == "__main__":
    run(main)
