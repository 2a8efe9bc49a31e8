"""Compares a model's results in bf16 or int8 with fp32, on SQuAD, a GLUE task or plain texts."""

import kernels
from configs.cli import parse, run
from configs.memory import require_address_space
from configs.precisions import PrecisionsConfig


def main() -> None:
    config = parse(PrecisionsConfig, description=__doc__ or "")
    require_address_space()
    kernels.configure(config.num_threads)
    from inference.precisions import compare  # imports the framework, which --help and wrong flags do not need

    print(compare(config), end="")


if __name__ == "__main__":
    run(main)
