"""Fine-tunes BERT on your own labelled texts, evaluates it and writes predictions."""

import kernels
from configs.classifier import ClassifierConfig
from configs.cli import job_flags, parse, run
from configs.memory import require_address_space
from configs.training import RETIRED
from launch.meeting import meet


def main() -> None:
    config = parse(ClassifierConfig, description=__doc__ or "", retired=RETIRED)
    meet(config.device.join_timeout, config.device.stop_timeout, job_flags(config))
    require_address_space()
    kernels.configure(**config.device.framework_settings())
    # This imports the framework, which --help and wrong flags do not need.
    from tasks.labelled_files import finetune_classifier

    finetune_classifier(config)


if __name__ == "__main__":
    run(main)
