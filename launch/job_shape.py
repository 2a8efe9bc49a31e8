"""The shape of a job: how many ranks it has, and how they share the data."""

from __future__ import annotations

from dataclasses import dataclass

from launch import ranks


@dataclass(frozen=True)
class JobShape:
    """One rank's position in its job.

    `rank` and `size` count all processes. They determine which rank writes files and which ranks wait for each other.
    The `data_parallel_` properties count replicas of the model. They determine how rows are divided and what a sum over
    the batch covers.
    """

    rank: int = 0
    size: int = 1
    ranks_per_replica: int = 1  # consecutive ranks that share one replica of the model and read the same rows

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank {self.rank} is outside a job of {self.size} ranks")
        if self.ranks_per_replica < 1 or self.size % self.ranks_per_replica:
            raise ValueError(f"{self.size} ranks cannot form replicas of {self.ranks_per_replica} ranks each")

    @classmethod
    def current(cls, ranks_per_replica: int = 1) -> JobShape:
        """This process's shape, as the launcher set it in the environment."""
        return cls(ranks.rank(), ranks.size(), ranks_per_replica)

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes files and the log."""
        return self.rank == 0

    @property
    def data_parallel_size(self) -> int:
        """The number of replicas, each of which trains on its own rows."""
        return self.size // self.ranks_per_replica

    @property
    def data_parallel_rank(self) -> int:
        """The number of this rank's replica."""
        return self.rank // self.ranks_per_replica
