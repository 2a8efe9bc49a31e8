"""The launcher runs this in each rank: it makes several runs in turn, which a JSON file lists.

[["eager", [flags]], ["copy", [checkpoint, output directory to resume in]], ["die", [step]], ["masks", [directory]],
["tiles", []], …]; after "tiles", attention holds no matrix of scores.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

from configs.cli import parse, run
from configs.pretraining import PretrainingConfig
from launch import ranks
from launch.meeting import meet


def main():
    config = parse(PretrainingConfig, [])
    meet(config.device.join_timeout, config.device.stop_timeout)
    from tasks.pretraining import pretrain
    from training import journal

    for kind, words in json.loads(Path(sys.argv[1]).read_text()):
        if kind == "copy":
            if ranks.rank() == 0:
                source, target = map(Path, words)
                shutil.copytree(source, target / source.name)
        elif kind == "die":
            if ranks.rank() == 1:
                journal.Journal.advance = dying_at(int(words[0]))
        elif kind == "tiles":
            from modeling import attention

            attention.LONG_ROW = 1
        elif kind == "masks":
            import dropout_masks

            dropout_masks.write(Path(words[0]))
        else:
            pretrain(parse(PretrainingConfig, words), kind)


def dying_at(steps):
    """A `Journal.advance` that kills the process at this step."""
    calls = []

    def advance(self):
        calls.append(self)
        if len(calls) == steps:
            os.kill(os.getpid(), signal.SIGKILL)

    return advance


if __name__ == "__main__":
    run(main)
