"""Stand-ins for the runs of a sweep."""

import json
from pathlib import Path


class FakeRuns:
    """Starts runs that end at once.

    Args:
        evaluate: the values of `eval_score` for a dict of flags.
        code: the exit code.
        most: the number of runs after which the machine fails.
    """

    def __init__(self, evaluate, code=0, most=None):
        self.evaluate, self.code, self.most, self.started = evaluate, code, most, []

    def __call__(self, argv, log):
        if len(self.started) == self.most:
            raise InterruptedError
        flags = dict(word.removeprefix("--").split("=") for word in argv if "=" in word)
        self.started.append(flags)
        output = Path(flags["output_dir"])
        (output / "best").mkdir(parents=True, exist_ok=True)
        (output / "checkpoint-9").mkdir(exist_ok=True)
        rows = [{"step": 3 * number, "eval_score": value} for number, value in enumerate(self.evaluate(flags), 1)]
        (output / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        log.write_text("a line\nthe last line\n\n")
        return FakeRun(self.code)


class FakeRun:
    def __init__(self, code):
        self.code = code

    def poll(self):
        return self.code

    def stop(self, *, save):
        pass
