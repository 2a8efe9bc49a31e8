"""Fine-tunes BERT to tag words: named entities, parts of speech."""

import kernels
from configs.cli import job_flags, parse, run
from configs.memory import require_address_space
from configs.tagging import TaggingConfig
from configs.training import RETIRED
from launch.meeting import meet


def main() -> None:
    config = parse(TaggingConfig, description=__doc__ or "", retired=RETIRED)
    meet(config.device.join_timeout, config.device.stop_timeout, job_flags(config))
    require_address_space()
    kernels.configure(**config.device.framework_settings())
    # This imports the framework, which --help and wrong flags do not need.
    from tasks.tagging import finetune_tagger

    finetune_tagger(config)


if __name__ == "__main__":
    run(main)
