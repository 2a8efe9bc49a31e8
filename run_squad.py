"""Fine-tunes BERT on SQuAD 1.1 or 2.0, evaluates it and answers questions."""

import kernels
from configs.cli import job_flags, parse, run
from configs.memory import require_address_space
from configs.squad import SquadConfig
from configs.training import RETIRED
from launch.meeting import meet


def main() -> None:
    config = parse(SquadConfig, description=__doc__ or "", retired=RETIRED)
    meet(config.device.join_timeout, config.device.stop_timeout, job_flags(config))
    require_address_space()
    kernels.configure(**config.device.framework_settings())
    from tasks.squad import finetune_squad  # imports the framework, which --help and wrong flags do not need

    finetune_squad(config)


if __name__ == "__main__":
    run(main)
