"""Runs inference: fill-mask, question answering, classification, tagging, next sentence, embeddings, search."""

import kernels
from configs.cli import parse, run
from configs.infer import RETIRED, InferConfig
from configs.memory import require_address_space
from kernels.cuda import wants_cuda


def main() -> None:
    config = parse(InferConfig, description=__doc__ or "", retired=RETIRED)
    require_address_space()
    kernels.configure(
        config.speed.num_threads, enabled=config.speed.cpu_kernels, on_cuda=wants_cuda(config.speed.device)
    )
    from inference.command import infer  # imports the framework, which --help and wrong flags do not need

    infer(config)


if __name__ == "__main__":
    run(main)
