"""Training beside other work: how long a waiting thread of OpenMP spins before it sleeps.

    python benchmarks/shared_machine.py [--rounds 4] [--seconds 8]

A thread that spins while another process has its partner's core wastes both. `regard` lets it spin 5,000 times
(GOMP_SPINCOUNT, in cli/main.py); libgomp's default is some milliseconds. Steps per second of a small ViT, in processes
of their own, interleaved; alone, and beside as many busy processes as there are cores.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

STEPS = """
import sys, time, torch
from regard import create_model
model = create_model("vit_micro_patch4_32", 10)
optimiser = torch.optim.AdamW(model.parameters())
images, labels = torch.randn(32, 3, 32, 32), torch.randint(10, (32,))
def step():
    torch.nn.functional.cross_entropy(model(images), labels).backward()
    optimiser.step()
    optimiser.zero_grad()
step()
start, done = time.perf_counter(), 0
while time.perf_counter() - start < float(sys.argv[1]):
    step()
    done += 1
print(done / (time.perf_counter() - start))
"""
WAYS = {"libgomp's default": {}, "5,000 spins": {"GOMP_SPINCOUNT": "5000"}}


def steps_per_second(seconds: float, settings: dict[str, str]) -> float:
    """Of one process with these environment variables."""
    bare = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    command = [sys.executable, "-c", STEPS, str(seconds)]
    return float(subprocess.run(command, env={**bare, **settings}, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Training beside other work, by how long threads spin.")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=8)
    given = parser.parse_args()
    print("| beside | " + " | ".join(f"{way}, steps/s: median (each)" for way in WAYS) + " |")
    print("|---|" + "---|" * len(WAYS))
    for others in (0, os.cpu_count() or 1):
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(others)]
        found: dict[str, list[float]] = {way: [] for way in WAYS}
        try:
            for _ in range(given.rounds):
                for way, settings in WAYS.items():
                    found[way].append(steps_per_second(given.seconds, settings))
        finally:
            for process in busy:
                process.kill()
                process.wait()
        cells = [
            f"{statistics.median(all_):.2f} ({', '.join(f'{one:.2f}' for one in all_)})" for all_ in found.values()
        ]
        print(f"| {f'{others} busy processes' if others else 'nothing'} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
