"""Pretrains BERT compiled with nn.Graph."""

import kernels
from configs.cli import parse, run
from configs.memory import require_address_space
from configs.pretraining import PretrainingConfig
from configs.training import RETIRED
from launch.meeting import meet


def main() -> None:
    config = parse(PretrainingConfig, description=__doc__, retired=RETIRED)
    meet(config.device.join_timeout, config.device.stop_timeout, config.job_flags())
    require_address_space()
    kernels.configure(**config.device.framework_settings())
    from tasks.pretraining import pretrain  # imports the framework, which --help and wrong flags do not need

    pretrain(config, mode="graph")


if __name__ == "__main__":
    run(main)
