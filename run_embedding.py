"""Trains sentence embeddings and cross-encoders on your own pairs, and evaluates them."""

import kernels
from configs.cli import job_flags, parse, run
from configs.embedding import EmbeddingConfig
from configs.memory import require_address_space
from configs.training import RETIRED
from launch.meeting import meet


def main() -> None:
    config = parse(EmbeddingConfig, description=__doc__ or "", retired=RETIRED)
    meet(config.device.join_timeout, config.device.stop_timeout, job_flags(config))
    require_address_space()
    kernels.configure(**config.device.framework_settings())
    from tasks.embedding import train_embedding  # imports the framework, which --help and wrong flags do not need

    train_embedding(config)


if __name__ == "__main__":
    run(main)
