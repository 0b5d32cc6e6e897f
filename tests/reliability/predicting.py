"""`regard predict` in processes that die on the way, for `test_05_prediction.py`: torch is imported once, and every
line of input is a process of its own.

Input: JSON of {"photos", "out", "rows" in a part, "kill": photos after which it dies or null, "how": "at once", or
"before" or "after" the next part appears under its name}; a list of such starts all at a time. Output: JSON of the exit
codes. Each process that ends by itself writes OUT.json: the counts, and its memory in MB at a tenth and at the end.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from regard.data.transforms import Preprocess
from regard.inference.loaded import LoadedModel
from regard.verbs import parts
from regard.verbs import predict as module

CLASSES = ("red", "green", "blue", "none")


def mean_colours() -> LoadedModel:
    """A model that looks at the mean colour."""
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, len(CLASSES)))
    with torch.no_grad():
        model[2].weight.copy_(torch.eye(4)[:, :3])  # type: ignore[operator]  # a Linear's
        model[2].bias.zero_()  # type: ignore[operator]
    preprocess = Preprocess(8, 1.0, "squash", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return LoadedModel(model.eval(), preprocess, CLASSES, "mean colours", "none", head="2", unsure_below=0.4)


def memory() -> float:
    """Resident set of this process, MB."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run(job: dict[str, Any]) -> None:
    """One call of `predict`."""
    parts.ROWS = module.ROWS = job["rows"]
    seen: dict[str, float] = {}
    replace = os.replace

    def last_act(source: Path, target: Path) -> None:
        if Path(target).suffix == ".parquet" and seen.get("armed"):
            if job["how"] == "after":
                replace(source, target)
            die()
        replace(source, target)

    def watch(event: dict[str, Any]) -> None:
        if event["event"] != "progress":
            return
        if "early" not in seen and event["done"] >= event["total"] / 10:
            seen["early"] = memory()
        if job["kill"] is not None and event["done"] >= job["kill"]:
            if job["how"] == "at once":
                die()
            seen["armed"] = True

    os.replace = last_act
    found = module.predict(mean_colours(), job["photos"], out=f"{job['out']}/", precision="fp32", on_event=watch)
    said = {"photos": found.photos, "errors": found.errors, "continued": found.continued}
    said |= {"early": seen.get("early", 0.0), "late": memory()}
    Path(f"{job['out']}.json").write_text(json.dumps(said))


def serve() -> None:
    """Fork a process for each job."""
    torch.set_num_threads(1)
    os.fsync = lambda descriptor: None  # processes are killed here, not the machine
    for line in sys.stdin:
        asked = json.loads(line)
        children = []
        for job in asked if isinstance(asked, list) else [asked]:
            child = os.fork()
            if child == 0:
                run(job)
                os._exit(0)
            children.append(child)
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)


if __name__ == "__main__":
    serve()
