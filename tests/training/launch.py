"""Run a script in several real processes under `mlx.launch`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def launch(script: str, folder: Path, n: int = 2, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """`script`, with `OUT` bound to `folder` and `RANK` to the process's number, in `n` processes."""
    file = _written(script, folder)
    command = [
        sys.executable, "-c", "from mlx._distributed_utils.launch import main; main()",
        "-n", str(n), "--backend", "ring", "--starting-port", str(_free_port(n)), "--python", sys.executable, str(file),
    ]  # fmt: skip
    idle, open_end = os.pipe()  # mlx.launch never rests on an input that has ended
    try:
        return subprocess.run(
            command, stdin=idle, capture_output=True, text=True, timeout=timeout, env=_environment(), check=False
        )
    finally:
        os.close(idle)
        os.close(open_end)


def start_each(script: str, folder: Path, n: int = 2, timeout: float = 120) -> list[tuple[int, str]]:
    """The same without a launcher, which would end the others when one ends: (exit code, standard error) by rank."""
    file, hosts = _written(script, folder), folder / "hosts.json"
    first = _free_port(n)
    hosts.write_text(json.dumps([[f"127.0.0.1:{first + r}"] for r in range(n)]))
    running = [
        subprocess.Popen(
            [sys.executable, str(file)],
            stderr=subprocess.PIPE,
            text=True,
            env={**_environment(), "MLX_RANK": str(r), "MLX_HOSTFILE": str(hosts)},
        )
        for r in range(n)
    ]
    try:
        errors = [p.communicate(timeout=timeout)[1] for p in running]
        return [(p.returncode, text) for p, text in zip(running, errors, strict=True)]
    finally:
        for p in running:
            p.kill()
            p.wait()


def _free_port(n: int) -> int:
    """The first of `n` ports in a row that nothing listens on now."""
    for start in range(20000 + os.getpid() % 20000, 60000, n):
        try:
            for port in range(start, start + n):
                with socket.socket() as s:
                    s.bind(("127.0.0.1", port))
        except OSError:
            continue
        return start
    raise RuntimeError("no free ports")


def _written(script: str, folder: Path) -> Path:
    file = folder / "script.py"
    head = f"import os\nfrom pathlib import Path\nOUT, RANK = Path({str(folder)!r}), int(os.environ['MLX_RANK'])\n"
    file.write_text(head + script)
    return file


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
