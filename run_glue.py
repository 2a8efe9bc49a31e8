"""Fine-tunes BERT on GLUE tasks, evaluates it and predicts the test sets."""

import kernels
from configs.cli import job_flags, parse, run
from configs.glue import GlueConfig
from configs.memory import require_address_space
from configs.training import RETIRED
from launch.meeting import meet


def main() -> None:
    config = parse(GlueConfig, description=__doc__ or "", retired=RETIRED)
    meet(config.device.join_timeout, config.device.stop_timeout, job_flags(config))
    require_address_space()
    kernels.configure(**config.device.framework_settings())
    from tasks.glue import finetune_glue  # imports the framework, which --help and wrong flags do not need

    finetune_glue(config)


if __name__ == "__main__":
    run(main)
