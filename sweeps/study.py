"""Chooses the settings of a sweep with Optuna, and stores the trials in a database file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import optuna

from sweeps.command import Value
from sweeps.space import Choice, Parameter
from sweeps.trial import COMPLETE, FAILED, PRUNED, Outcome, Record

STUDY_FILE = "study.db"
_NAME = "sweep"
_VALUES, _ERROR = "values", "error"  # attributes of a stored trial
_STATES = {
    COMPLETE: optuna.trial.TrialState.COMPLETE,
    PRUNED: optuna.trial.TrialState.PRUNED,
    FAILED: optuna.trial.TrialState.FAIL,
}


class Study:
    """The trials of a sweep.

    The setting of trial n depends only on the seed, on n, and on the trials that had finished when it started. With one
    job, a sweep therefore has the same trials whether or not it is interrupted.

    Args:
        directory: where the database is or will be.
        space: the parameters to choose.
        maximize: whether higher values are better.
        prune: whether to stop unpromising trials.
        seed: the seed for choosing settings.
        jobs: the number of trials at the same time.
    """

    def __init__(
        self, directory: Path, space: Sequence[Parameter], *, maximize: bool, prune: bool, seed: int, jobs: int
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space, self._maximize, self._seed, self._jobs = space, maximize, seed, jobs
        storage = optuna.storages.RDBStorage(f"sqlite:///{directory / STUDY_FILE}")
        pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1)
        self.optuna_study = optuna.create_study(
            storage=storage,
            study_name=_NAME,
            direction="maximize" if maximize else "minimize",
            pruner=pruner if prune else optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
        study_id = storage.get_study_id_from_name(_NAME)
        self._interrupted = [
            optuna.trial.Trial(
                self.optuna_study, storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
            )
            for trial in self.optuna_study.get_trials(states=[optuna.trial.TrialState.RUNNING])
        ]

    def next_trial(self, limit: int) -> tuple[optuna.Trial, dict[str, Value]] | None:
        """The next trial and its setting, interrupted ones first; None if there are `limit` trials."""
        if self._interrupted:
            trial = self._interrupted.pop(0)
        elif len(self.optuna_study.get_trials(deepcopy=False)) < limit:
            trial = self.optuna_study.ask()
        else:
            return None
        return trial, {
            parameter.flag: self._value(trial, parameter, position) for position, parameter in enumerate(self.space)
        }

    def should_prune(self, trial: optuna.Trial, number: int, value: float) -> bool:
        """Stores the metric of evaluation `number`, and decides whether the trial should stop."""
        if number not in self.optuna_study.trials[trial.number].intermediate_values:  # else it was interrupted
            trial.report(value, number)
        return trial.should_prune()

    def finish(self, trial: optuna.Trial, outcome: Outcome) -> Record:
        """Stores the outcome of a trial."""
        trial.set_user_attr(_VALUES, list(outcome.values))
        trial.set_user_attr(_ERROR, outcome.error)
        value = median(outcome.values) if outcome.state == COMPLETE else None
        self.optuna_study.tell(trial, value, state=_STATES[outcome.state])
        return self.records()[trial.number]

    def records(self) -> dict[int, Record]:
        """{number: finished trial}."""
        names = {state: name for name, state in _STATES.items()}
        return {
            trial.number: Record(
                trial.number,
                trial.params,
                names[trial.state],
                tuple(trial.user_attrs.get(_VALUES, ())),
                trial.user_attrs.get(_ERROR, ""),
            )
            for trial in self.optuna_study.get_trials(states=list(names))
        }

    def best(self) -> Record | None:
        """The complete trial with the best value, the first one of a tie; None if no trial is complete."""
        complete = [record for record in self.records().values() if record.state == COMPLETE]
        sign = -1 if self._maximize else 1
        return min(complete, key=lambda record: (sign * record.value, record.number), default=None)

    def _value(self, trial: optuna.Trial, parameter: Parameter, position: int) -> Any:
        # A sampler with its own seed for each value, so that no value depends on what was drawn before a sweep was
        # interrupted.
        state = np.random.SeedSequence([position, trial.number, self._seed]).generate_state(1)
        self.optuna_study.sampler = optuna.samplers.TPESampler(seed=int(state[0]), constant_liar=self._jobs > 1)
        if isinstance(parameter, Choice):
            return trial.suggest_categorical(parameter.flag, parameter.values)
        if parameter.whole:
            step = int(parameter.step or 1)
            return trial.suggest_int(
                parameter.flag, int(parameter.low), int(parameter.high), log=parameter.log, step=step
            )
        return trial.suggest_float(
            parameter.flag, parameter.low, parameter.high, log=parameter.log, step=parameter.step
        )
