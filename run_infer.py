"""Asks a trained BERT: fill-mask, next-sentence, question-answering, text-classification, feature-extraction."""

import kernels
from configs.cli import parse, run
from configs.infer import RETIRED, InferConfig


def main() -> None:
    config = parse(InferConfig, description=__doc__ or "", retired=RETIRED)
    kernels.configure(config.num_threads, enabled=config.cpu_kernels)
    from inference.command import infer  # the framework is imported after --help and mistakes in flags

    infer(config)


if __name__ == "__main__":
    run(main)
