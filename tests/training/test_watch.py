"""A process that waits for one that is gone ends, and one that does not wait, or is answered, goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
START = """
import socket, sys, time
from saedsl.training.watch import Watch, open_sockets
before = open_sockets()
with socket.create_server(("127.0.0.1", 0)) as server:
    here = socket.create_connection(server.getsockname())
    there, _ = server.accept()
there.sendall(b"the last answer")
refused = socket.socket()  # as MLX leaves some behind of processes that did not listen yet
assert refused.connect_ex(("127.0.0.1", 1)) != 0
numbers = open_sockets() - before
assert numbers == {here.fileno(), there.fileno(), refused.fileno()}
watch = Watch([here.fileno(), refused.fileno()], "process 0 of 2", "start again", patience=3, grace=0.3)
"""


def run(script: str) -> tuple[int, str]:
    """Exit code and standard error of a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", START + script],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr.strip()


@pytest.mark.parametrize("then", ["", "here.recv(100)", "here.close()"])
def test_a_wait_for_a_process_that_is_gone_ends(then: str) -> None:
    """With what it sent last unread or read, and after MLX itself has closed its end."""
    code, said = run(f"there.close(); {then}\nwith watch.waiting(): time.sleep(50)")
    assert (code, said) == (1, "process 0 of 2 lost another one (its connection is closed); start again")


def test_a_wait_that_is_longer_than_patience_ends() -> None:
    code, said = run("with watch.waiting(): time.sleep(50)")
    assert (code, said) == (1, "process 0 of 2 waited 3 seconds for the others in vain; start again")


def test_work_between_waits_may_take_any_time_and_the_last_answer_is_still_read() -> None:
    script = """
for _ in range(3):
    with watch.waiting(): time.sleep(1.2)
there.close()
time.sleep(1)  # nothing is waited for
with watch.waiting(): print(here.recv(100).decode(), file=sys.stderr)
time.sleep(1)
"""
    assert run(script) == (0, "the last answer")


def test_an_error_of_a_wait_leaves_the_process_time_to_end_by_itself() -> None:
    said = "process 0 of 2 lost another one (connection reset); start again"
    script = """
import signal
print(watch.lost("connection reset"), file=sys.stderr)
import atexit
atexit._run_exitfuncs()
assert 0 < signal.alarm(0) <= 10
"""
    assert run(script) == (0, said)
