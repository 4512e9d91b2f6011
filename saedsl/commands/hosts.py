"""A command on several machines at once, or several times on this one: `mlx.launch`, started for the user.

Each process runs the same command with --json; what the first one prints on standard output is the result, and all
else goes to standard error.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from saedsl.commands.shared import FAILED, USAGE, fail

LAUNCH: Final = "from mlx._distributed_utils.launch import main; main()"
COMMAND: Final = "from saedsl.cli import main; main()"
CODES: Final = {"usage": USAGE, "interrupted": 130}
"""What kinds of errors exit with; others with `FAILED`."""
PORT: Final = 32323
"""Where mlx.launch looks for ports, each process one, from here on."""


def on_hosts(hosts: str, arguments: Sequence[str], as_json: bool) -> Any:
    """What `saedsl ARGUMENTS --json` prints, run by a process on each host; exits as they do if they fail.

    Args:
        hosts: names or addresses with commas between them, or the path of mlx.launch's hostfile, a .json.
        arguments: of the command, without --hosts and --json.
        as_json: whether errors are said as JSON.
    """
    with tempfile.TemporaryDirectory() as folder:
        if hosts.endswith(".json"):
            where = ["--hostfile", hosts]
        else:
            file = Path(folder) / "hosts.json"
            file.write_text(json.dumps(_listed(hosts, as_json)), encoding="utf-8")
            where = ["--hostfile", str(file), "--backend", "ring", "--starting-port", str(_free(hosts.count(",") + 1))]
        command = [sys.executable, "-c", COMMAND, *arguments, "--json"]
        return _result([sys.executable, "-c", LAUNCH, *where, "--", *command], as_json)


def hear_interrupts() -> None:
    """Let Ctrl-C reach this process again, which `on_hosts` started without."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _listed(hosts: str, as_json: bool) -> list[dict[str, Any]]:
    """mlx.launch's entries: its ring wants addresses, and knows this machine by 127.0.0.1 only."""
    found = []
    for name in hosts.split(","):
        try:
            address = socket.gethostbyname(name.strip().rpartition("@")[2])
        except OSError as e:
            fail(
                "usage", f"--hosts: {name.strip()!r} has no address ({e}); name hosts as ssh knows them", USAGE, as_json
            )
        if not name:
            fail("usage", "--hosts: a name is empty; names have one comma between them", USAGE, as_json)
        here = address.startswith("127.")
        found.append({"ssh": "127.0.0.1" if here else name.strip(), "ips": ["127.0.0.1" if here else address]})
    if len({h["ssh"] == "127.0.0.1" for h in found}) == 2:
        said = "others cannot reach this machine as 127.0.0.1: name it as they do, and let it ssh to itself"
        fail("usage", f"--hosts: {said}", USAGE, as_json)
    return found


def _free(n: int) -> int:
    """The first of `n` ports in a row that nothing listens on here."""
    for first in range(PORT, 60000, n):
        try:
            for port in range(first, first + n):
                with socket.socket() as s:
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    s.bind(("", port))
        except OSError:
            continue
        return first
    return PORT


def _result(command: Sequence[str], as_json: bool) -> Any:
    """Run mlx.launch; the JSON that a process printed. Ctrl-C is theirs: they end together, after a checkpoint."""
    idle, to_all = os.pipe()  # mlx.launch passes it on; it never rests on an input that has ended
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # so for what is started; `hear_interrupts` undoes it there
    found: list[Any] = []
    try:
        with subprocess.Popen(command, stdin=idle, stdout=subprocess.PIPE, text=True) as launcher:
            signal.signal(signal.SIGINT, lambda *_: os.write(to_all, b"\x03"))  # where ssh has a terminal of its own
            assert launcher.stdout is not None
            for line in launcher.stdout:
                try:
                    found.append(json.loads(line))
                except ValueError:
                    sys.stderr.write(line)
    finally:
        signal.signal(signal.SIGINT, before)
        os.close(idle)
        os.close(to_all)
    errors = [v["error"] for v in found if "error" in v]
    if errors:
        fail(errors[0]["kind"], errors[0]["message"], CODES.get(errors[0]["kind"], FAILED), as_json)
    if not found:
        fail("failed", "the processes ended without a result; what they said is above", FAILED, as_json)
    return found[-1]
