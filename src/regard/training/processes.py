"""Several processes that train one model on one machine, started by torchrun.

Each process takes its equal part of every batch (`regard.data.loader.share`); gradients are added up by an
all-reduce once all parts of the step are done, and not by DistributedDataParallel, whose reductions run inside the
backward pass: a process that runs out of memory, meets a bad file or a signal half-way would leave the others in
one. So nothing is added before all have said how their part went (`Team.gather`), and all act alike on what was said.

Only the first process writes, evaluates and speaks. The processes meet in a file of torchrun's private folder and
talk over the loopback interface. A watch in each looks after the others: one that stands still is ended, and none
outlives torchrun. What ended a run goes into torchrun's report as its root cause.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from regard.errors import RegardError
from regard.training.interrupts import Stopped

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

T = TypeVar("T")

WAIT = timedelta(days=7)  # for another's evaluation; who is dead or stands still is found out by the watch
STILL = 10.0  # seconds after which a suspended process counts as lost
GONE = 20.0  # seconds that a process may stay behind one that is gone
GRACE = 10.0  # seconds for torchrun to notice who ended first
LEFT = "left"  # in torchrun's folder of a process: it goes because another one is gone
PRIVATE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun --rdzv-backend c10d --rdzv-conf store_type=file ..."
_meetings = itertools.count()


class PeerFailed(SystemExit):
    """Another process ended the run. `line` is empty where that process has said why itself."""

    def __init__(self, line: str = ""):
        super().__init__(1)
        self.line = line


@dataclass(frozen=True)
class Place:
    """Which of torchrun's processes this is; folder: torchrun's private one for this start."""

    rank: int = 0
    world: int = 1
    folder: Path = Path()


def place() -> Place:
    """This process's place by torchrun's environment: the only one where there is none, or a single process."""
    world, errors = int(os.environ.get("WORLD_SIZE", "1")), os.environ.get("TORCHELASTIC_ERROR_FILE")
    if world == 1 or errors is None:
        return Place()
    return Place(int(os.environ["RANK"]), world, Path(errors).parents[1])


def explain(error: BaseException, of: int | None = None) -> str:
    """The line that tells of an error, with its rank where there are several; torchrun's report gets it too.

    of: the rank that it is about, by default the error's own (`rank`), else this one. "" where all processes raise
    the error and another one tells of it.
    """
    line = (str(error) or type(error).__name__).splitlines()[0]
    here = place()
    if here.world == 1:
        return line
    about = getattr(error, "rank", None) if of is None else of
    rank = here.rank if about is None else about
    line = f"rank {rank}: {line}"
    report = {"message": {"message": line, "extraInfo": {"timestamp": str(int(time.time()))}}}
    path = _report(here, here.rank if of is None else of)
    if not path.exists():
        from regard.runs.atomic import write_atomic

        write_atomic(path, json.dumps(report))
    return line if rank in (here.rank, of) else ""


def _report(here: Place, rank: int) -> Path:
    return here.folder / str(rank) / "error.json"


def depart(code: int) -> int:
    """The exit code of a failed command, or with several processes the exit itself: gloo's teardown, which an exit
    in good order calls, waits for partners that wait for this process to end.
    """
    if place().world > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def own_device() -> torch.device:
    """The GPU of this process, or the CPU."""
    import torch

    here = place()
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if here.world > torch.cuda.device_count():
        raise RegardError(f"torchrun: {here.world} processes for {torch.cuda.device_count()} GPUs; one each is needed")
    return torch.device("cuda", here.rank) if here.world > 1 else torch.device("cuda")


class Team:
    """The processes that train together, seen from one of them; alone, every method is the plain thing itself.

    What fails because another process is gone raises `PeerFailed`.
    """

    def __init__(self, here: Place | None = None):
        """Meet the others of `here`; without it there are none."""
        here = here or Place()
        self.place, self.rank, self.world, self.first = here, here.rank, here.world, here.rank == 0
        self._pids: list[int] = [os.getpid()]
        self._ended = threading.Event()
        if self.world > 1:
            self._meet()

    def _meet(self) -> None:
        import torch
        import torch.distributed as dist

        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", _loopback())
        with self._talking():
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
                store=dist.FileStore(  # pyright: ignore[reportPrivateImportUsage]  (documented, only not listed)
                    str(self.place.folder / f"meeting-{next(_meetings)}"), self.world
                ),
                rank=self.rank,
                world_size=self.world,
                timeout=WAIT,
            )
        self._pids = [int(pid) for (pid,) in self.gather(os.getpid())]
        threading.Thread(target=self._watch, args=(os.getppid(),), name="regard-watch", daemon=True).start()

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the way the processes were started."""
        if self.world == 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            return ()
        return (f"torchrun itself listens on all network interfaces; for the loopback only: {PRIVATE}",)

    def close(self) -> None:
        """Part, when all are done."""
        if self.world > 1 and not self._ended.is_set():
            import torch.distributed as dist

            self.gather()
            self._ended.set()
            dist.destroy_process_group()

    # Talking

    def gather(self, *numbers: float) -> list[list[float]]:
        """What each process says, by rank: the same number of numbers from each."""
        if self.world == 1:
            return [list(numbers)]
        import torch
        import torch.distributed as dist

        own = torch.tensor([*numbers, 0.0], dtype=torch.float64)  # gloo takes no empty tensor
        said = [torch.empty_like(own) for _ in range(self.world)]
        with self._talking():
            dist.all_gather(said, own)
        return [values.tolist()[:-1] for values in said]

    def first_does(self, work: Callable[[], T]) -> T:
        """The first process works, the others wait; all get the result (JSON values), or end as the first does."""
        if self.world == 1:
            return work()
        if not self.first:
            answer = self._told(None)
            if "stopped" in answer:
                raise Stopped(answer["stopped"])
            if "failed" in answer:
                self.leave(0)
            return answer["result"]
        try:
            result = work()
        except Stopped as stop:
            self._told({"stopped": stop.signum})
            raise
        except Exception:
            self._told({"failed": True})
            raise
        return self._told({"result": result})["result"]

    def _told(self, message: dict[str, Any] | None) -> dict[str, Any]:
        """What the first process says, at all."""
        return json.loads(self.say(0, json.dumps(message) if self.first else ""))

    def say(self, rank: int, text: str) -> str:
        """What process `rank` says, at all."""
        if self.world == 1:
            return text
        import torch
        import torch.distributed as dist

        speaks = rank == self.rank
        data = torch.tensor(list(text.encode()), dtype=torch.uint8)
        length = torch.tensor([len(data)])
        with self._talking():
            dist.broadcast(length, rank)
            data = data if speaks else torch.empty(int(length), dtype=torch.uint8)
            dist.broadcast(data, rank)
        return bytes(data.tolist()).decode()

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The first process goes through the block, then all others, which find in files what it has made; all go on
        together.
        """
        if not self.first:
            self.gather()
        yield
        if self.first:
            self.gather()
        self.gather()

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes, in place."""
        if self.world == 1:
            return
        import torch.distributed as dist

        with self._talking():
            for waiting in [dist.all_reduce(_flat(tensor), async_op=True) for tensor in tensors]:
                waiting.wait()

    def copy_first(self, model: nn.Module) -> None:
        """Give every process the first one's weights and buffers."""
        if self.world == 1:
            return
        import torch
        import torch.distributed as dist

        with torch.no_grad(), self._talking():
            for tensor in (*model.parameters(), *model.buffers()):
                dist.broadcast(_flat(tensor), 0)

    # Ending

    @contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # how gloo and NCCL say that a connection is closed
            self.leave(reason=str(error).splitlines()[0])

    def leave(self, rank: int | None = None, reason: str = "") -> NoReturn:
        """Raise `PeerFailed` because of process `rank`, or of the one that is gone.

        Not before torchrun knows of that one: the first to end is what it reports.
        """
        until = time.monotonic() + GRACE
        (self._own(self.rank) / LEFT).touch()
        while rank is None and time.monotonic() < until:
            rank = next((other for other in range(self.world) if self._is_cause(other)), None)
            time.sleep(0.05)
        if rank is None:
            raise PeerFailed(f"rank {self.rank}: the connection to the other processes broke ({reason}); use --resume")
        while _state(self._pids[rank]) and time.monotonic() < until:
            time.sleep(0.05)
        explained = _report(self.place, rank).exists()
        speaks = self.rank == (1 if rank == 0 else 0)
        line = (
            f"rank {rank}: process {self._pids[rank]} was ended from outside, perhaps for lack of memory; use --resume"
        )
        raise PeerFailed(line if speaks and not explained else "")

    def _own(self, rank: int) -> Path:
        return self.place.folder / str(rank)

    def _is_cause(self, rank: int) -> bool:
        """Gone, and not for the sake of another one."""
        return _state(self._pids[rank]) in ("", "Z") and not (self._own(rank) / LEFT).exists()

    def _watch(self, parent: int) -> None:
        """Look after the other processes and torchrun, until `close`."""
        since: dict[tuple[int, str], float] = {}
        orphaned = False
        while not self._ended.wait(0.5):
            now = time.monotonic()
            if os.getppid() != parent and not orphaned:
                orphaned = True
                os.kill(os.getpid(), signal.SIGTERM)
            seen = {(rank, _state(pid)) for rank, pid in enumerate(self._pids) if rank != self.rank}
            since = {key: since.get(key, now) for key in seen if key[1] in ("T", "Z", "")}
            for (rank, state), began in since.items():
                if state == "T" and now - began > STILL:
                    text = f"stood still for {STILL:.0f} s (suspended by a signal) and was ended; use --resume"
                    explain(RegardError(text), of=rank)
                    _kill(self._pids[rank])
                elif state != "T" and now - began > GONE:
                    os._exit(1)  # the main thread hangs in a call that its dead partner will never answer


def _state(pid: int) -> str:
    """A process's state as the kernel's letter (R, S, T suspended, Z ended and not yet reaped); "" where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        pass
    except ProcessLookupError:
        return ""
    if Path("/proc/self/stat").exists():
        return ""
    try:  # no Linux: alive or not is all that can be known
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    return "R"


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _loopback() -> str:
    return next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")


def _flat(tensor: Tensor) -> Tensor:
    """The memory of a dense tensor as one row, whatever the order of its dimensions."""
    return tensor.detach().as_strided((tensor.numel(),), (1,), tensor.storage_offset())


_team: Team | None = None


def join() -> Team:
    """The team of this process; the first call meets the others, and so does the first after `Team.close`.

    RegardError where torchrun has started processes on several machines.
    """
    global _team
    if _team is None or _team._ended.is_set() or _team.place != place():
        if os.environ.get("LOCAL_WORLD_SIZE", "1") != os.environ.get("WORLD_SIZE", "1"):
            raise RegardError("torchrun: processes on several machines; regard trains on one: leave --nnodes out")
        _team = Team(place())
    return _team
