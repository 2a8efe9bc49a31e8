"""BERT for SQuAD 1.1 and 2.0: fine-tune, evaluate, answer. `python3 run_squad.py --help`."""

import kernels
from configs.cli import job_flags, parse, run
from configs.squad import SquadConfig
from configs.training import RETIRED
from launch.meeting import meet


def main() -> None:
    config = parse(SquadConfig, description=__doc__ or "", retired=RETIRED)
    meet(config.device.join_timeout, config.device.stop_timeout, job_flags(config))
    kernels.configure(config.device.num_threads, enabled=config.device.cpu_kernels)
    from tasks.squad import finetune_squad  # the framework is imported after --help and mistakes in flags

    finetune_squad(config)


if __name__ == "__main__":
    run(main)
