"""Row 32: several processes on one machine are nobody else's business."""

from __future__ import annotations

import ipaddress
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from figures import record
from together import Job

import regard
from regard.training.processes import PRIVATE

pytestmark = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="listeners are read from /proc")


def listeners(pids: list[int]) -> list[str]:
    """Addresses on which these processes listen."""
    sockets = set()
    for pid in pids:
        for handle in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = os.readlink(handle)
            except OSError:
                continue
            if match := re.fullmatch(r"socket:\[(\d+)\]", target):
                sockets.add(match[1])
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in sockets:
                found.append(address(words[1].split(":")[0]))
    return found


def address(words: str) -> str:
    """The kernel's hexadecimal (32-bit words, little-endian) as an address."""
    data = b"".join(bytes.fromhex(words[i : i + 8])[::-1] for i in range(0, len(words), 8))
    return str(ipaddress.ip_address(data))


def test_an_address_is_read():
    assert address("0100007F") == "127.0.0.1"
    assert address("00000000") == "0.0.0.0"
    assert address("00000000000000000000000001000000") == "::1"


def test_processes_listen_on_the_loopback_only(together, tmp_path):
    fault = {"kind": "stop", "rank": 1, "step": 3}  # stands still while we look
    pids = together.start(Job(str(tmp_path), fault=fault))
    while " T " not in Path(f"/proc/{pids[1]}/stat").read_text():
        time.sleep(0.01)
    found = listeners(pids)
    os.kill(pids[1], signal.SIGCONT)
    assert together.wait()["codes"] == [0, 0]
    assert found
    assert all(ipaddress.ip_address(name).is_loopback for name in found)
    record(32, "listeners of two processes that train", len(found), f"{len(found)} of {len(found)} on the loopback")


LOOK = """
import os, sys
sys.path.insert(0, {tests!r})
from test_32_private import listeners
from regard.training.processes import join
team = join()
if team.first:
    print("listeners", *listeners([*team._pids, os.getppid()]), flush=True)
team.close()
"""


@pytest.mark.long
def test_torchrun_as_the_note_says_it(tmp_path):
    """torchrun's own listeners too, with the flags that the note of `regard train` names."""
    script = tmp_path / "look.py"
    script.write_text(LOOK.format(tests=str(Path(__file__).parent)))
    setting, _, *flags = PRIVATE.removesuffix(" ...").split()
    name, _, value = setting.partition("=")
    command = [sys.executable, "-m", "torch.distributed.run", *flags, "--nproc-per-node", "2", str(script)]
    environment = os.environ | {
        name: value,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1] / "training")]),
    }
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200, env=environment)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("listeners")]
    found = line.split()[1:]
    assert found
    assert all(ipaddress.ip_address(name).is_loopback for name in found)
    record(
        32, "all listeners of torchrun with a file store", len(found), f"{len(found)} of {len(found)} on the loopback"
    )


def test_nothing_is_unpickled():
    """What the processes tell each other is numbers and JSON."""
    source = (Path(regard.__file__).parent / "training" / "processes.py").read_text()
    assert not re.search(r"_object\(|_object_list|pickle", source)
