"""Compares a model in fp32 with itself in bf16 or int8, on SQuAD questions, a GLUE task or plain texts."""

import kernels
from configs.cli import parse, run
from configs.memory import require_address_space
from configs.precisions import PrecisionsConfig


def main() -> None:
    config = parse(PrecisionsConfig, description=__doc__ or "")
    require_address_space()
    kernels.configure(config.num_threads)
    from inference.precisions import compare  # the framework is imported after --help and mistakes in flags

    print(compare(config), end="")


if __name__ == "__main__":
    run(main)
