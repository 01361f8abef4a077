"""`torchrun … -m fastvlm_bench run`: several processes share the samples of one run, each on a device of its own.

The leader (rank 0) checks, makes the run's folder, divides what is left to measure, and at the end lays the lines
together, judges and prints. The others load the target, measure their part into files of their own, and say nothing.
They meet three times: when the work is divided, when all have built their methods, and at the end. Who starts the
processes, and ends the others where one is lost, is torchrun or accelerate.
"""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fastvlm_bench.config import RunConfig
from fastvlm_bench.errors import BenchError, UsageError
from fastvlm_bench.measuring.part import Part
from fastvlm_bench.records.mixing import differing
from fastvlm_bench.records.rank_files import RankWriter, Unrecorded
from fastvlm_bench.records.record import Key, RunWriter, read_meta
from fastvlm_bench.suites.shares import batches
from fastvlm_bench.suites.suite import Suite

Value = TypeVar("Value")
STARTED_BY = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun and accelerate set in the environment of each process."""


def several() -> bool:
    """Whether this process was started as one of several."""
    return all(name in os.environ for name in STARTED_BY) and int(os.environ["WORLD_SIZE"]) > 1


def check_alone(config: RunConfig) -> None:
    """UsageError for what one process cannot do."""
    if config.tensor_parallel:
        raise UsageError("--tensor-parallel divides the target among several processes, and one was started: "
                         "torchrun --nproc-per-node N -m fastvlm_bench run --tensor-parallel …")  # fmt: skip


def check_several(config: RunConfig, **others: Any) -> None:
    """UsageError for what one process must do alone."""
    alone = {"--until-width": config.until_width, "--budget": config.budget, "--refine": config.refine,
             "--energy": config.energy, "--invocations": config.invocations > 1, **others}  # fmt: skip
    for name, given in alone.items():
        if given:
            raise UsageError(f"{name} is for one process, and {os.environ['WORLD_SIZE']} were started; leave it out, "
                             "or leave torchrun out")  # fmt: skip


@dataclass
class Team:
    """The processes of a run, as one of them sees them."""

    rank: int
    world: int
    in_step: bool = False
    """Whether each holds a part of the target, so that all decode the same samples, which the leader alone records."""
    places: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Suite -> which of its batches this process measures."""
    parts: Sequence[Mapping[str, Sequence[int]]] = ()
    """In the leader: the same of every rank."""
    agreed: bool = False
    """Whether it has waited for the others to build their methods."""
    agreement: bool = False
    """Whether all could, so that all measure, and meet again."""
    told: bool = False
    """Whether the work was divided: if not, the others wait to hear that there is none."""

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def part(self, config: RunConfig) -> Part:
        return Part.of(config, None if self.in_step else self.rank, self.places)

    def device(self, name: str) -> str:
        """The device of this process: with several GPUs each takes its own."""
        from fastvlm_bench.training.parallel import local_device

        return local_device(name)

    def threads(self, limit: int) -> int:
        """How many of a machine's threads one of its processes may have."""
        return max(1, limit // int(os.environ.get("LOCAL_WORLD_SIZE", self.world)))

    def divide(self, writer: RunWriter, suites: Sequence[Suite], config: RunConfig) -> RankWriter:
        """In the leader: give each process its part of what is not measured yet. Returns the leader's own writer."""
        done = writer.completed
        shares = 1 if self.in_step else self.world
        parts = [{suite.name: missing(suite, done, config)[rank::shares] for suite in suites} for rank in range(shares)]
        begun = _begun(parts, suites, done, config)
        said = {key: text for key, text in writer.said.items() if (key[0], key[1], key[3]) in begun}
        self._from_leader({"folder": str(writer.folder.absolute()), "parts": parts, "completed": begun, "said": said})
        self.told, self.places, self.parts = True, parts[0], parts
        return RankWriter(writer.folder, 0, done, {}, writer, said)

    def receive(self) -> RankWriter | None:
        """In the others: their part, or None where the leader has none to give; it says why."""
        given = self._from_leader(None)
        self.told = True
        if given is None:
            return None
        self.places = given["parts"][0 if self.in_step else self.rank]
        folder = Path(given["folder"])
        if self.in_step:
            return Unrecorded(folder, self.rank, given["completed"], read_meta(folder), None, given["said"])
        return RankWriter(folder, self.rank, given["completed"], read_meta(folder), None, given["said"])

    def agree(self, meta: Mapping[str, Any] | None, threads: int = 1, error: str | None = None) -> int:
        """Wait until every process has built its methods. Returns the number of threads of the leader, for all.

        meta: what this process would record; None where it failed, with the `error`. UsageError in every process where
        one failed, or has another machine, model or draft than the leader: no number of theirs would say of what it is.
        """
        self.agreed = True
        own = None if meta is None else {name: meta.get(name) for name in ("model", "methods", "generation")} | {
            "config": {}, "environment": {k: v for k, v in (meta.get("environment") or {}).items() if k != "threads"},
        }  # fmt: skip
        every = self._to_leader((own, error))
        problem = _problem(every) if self.leads else None
        problem, threads = self._from_leader((problem, threads))
        if problem:
            raise UsageError(problem)
        self.agreement = True
        return threads

    def gather(self, report: dict[str, Any]) -> list[dict[str, Any]]:
        """Wait until every process has measured its part. In the leader: the reports of all by rank."""
        return self._to_leader(report)

    def release(self) -> None:
        """In the leader, where it has no work to give: let the others end."""
        if self.leads and not self.told:
            self.told = True
            with contextlib.suppress(Lost):
                self._from_leader(None)

    def _to_leader(self, value: Any) -> list[Any]:
        from fastvlm_bench.training import parallel

        return _met(lambda: parallel.to_leader(value))

    def _from_leader(self, value: Any) -> Any:
        from fastvlm_bench.training import parallel

        return _met(lambda: parallel.from_leader(value))


class Lost(BenchError):
    """A process of the run is gone."""


def _met(meet: Callable[[], Value]) -> Value:
    try:
        return meet()
    except RuntimeError:  # the connection to a process that is gone is closed
        raise Lost("a process of this run is gone; its own last words say why") from None


def _problem(every: Sequence[tuple[Mapping[str, Any] | None, str | None]]) -> str | None:
    for rank, (_, error) in enumerate(every):
        if error is not None:
            return error if rank == 0 else f"rank {rank}: {error}"
    first = every[0][0]
    assert first is not None
    for rank, (own, _) in enumerate(every):
        if own is not None and (changed := differing({**first, "suites": []}, {**own, "suites": []})):
            return (f"rank {rank} is not as rank 0 ({'; '.join(changed)}): their numbers would not belong together; "
                    "start processes on machines that are alike")  # fmt: skip
    return None


def missing(suite: Suite, done: set[Key], config: RunConfig) -> list[int]:
    """The batches of a suite, counted from 0, that are not yet measured in full, with all turns of their samples."""
    return [
        place for place, samples in enumerate(batches(suite.samples, config.batch_size))
        if not all((suite.name, sample.sample_id, repeat) in done
                   for sample in samples for repeat in range(config.repeats))
    ]  # fmt: skip


def _begun(
    parts: Sequence[Mapping[str, Sequence[int]]], suites: Sequence[Suite], done: set[Key], config: RunConfig
) -> set[Key]:
    """What is measured already of batches that are not measured in full."""
    found = set[Key]()
    for suite in suites if done else ():
        every = batches(suite.samples, config.batch_size)
        for place in (place for part in parts for place in part[suite.name]):
            for sample in every[place]:
                keys = ((suite.name, sample.sample_id, repeat) for repeat in range(config.repeats))
                found |= {key for key in keys if key in done}
    return found


def unmeasured(
    parts: Sequence[Mapping[str, Sequence[int]]], suites: Sequence[Suite], done: set[Key], config: RunConfig
) -> list[str]:
    """ "rank 1: 4 of 7 samples are missing" for each process that has not measured its part."""
    left = {suite.name: set(missing(suite, done, config)) for suite in suites}
    found = []
    for rank, places in enumerate(parts):
        lacking = {name: [place for place in own if place in left[name]] for name, own in places.items()}
        wanted, out = (
            sum(Part(places=of).samples(suite, config.batch_size) for suite in suites) for of in (places, lacking)
        )
        found += [f"rank {rank}: {out} of {wanted} samples are missing"] if out else []
    return found


def join(config: RunConfig) -> Team:
    """Meet the other processes. UsageError for a device that all would have to share."""
    from fastvlm_bench.training import parallel

    parallel.start(config.device, config.device_map, gradients=config.tensor_parallel)
    return Team(parallel.rank(), parallel.world(), in_step=config.tensor_parallel)


def leave() -> None:
    from fastvlm_bench.training import parallel

    parallel.finish()
