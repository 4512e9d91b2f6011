"""`saedsl train --hosts`: processes on this machine, their result, their errors and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from saedsl.cli import cli
from saedsl.commands.hosts import _listed, _result
from saedsl.demo.text import documents

ROOT = Path(__file__).parents[2]
FILE = """
[model]
name = "demo"
layer = 1
component = "mlp"
[data]
path = "texts.jsonl"
[sae]
d_sae = 64
k = 4
batch_size = 128
num_tokens = {tokens}
checkpoint_every = 2
validation_share = 0
learning_rate = 5e-3
[output]
path = "sae"
"""


def start(folder: Path, tokens: int, *more: str) -> subprocess.Popen[str]:
    """The command, in a session of its own, as a terminal would start it."""
    (folder / "texts.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in documents(30, seed=5)))
    (folder / "c.toml").write_text(FILE.format(tokens=tokens))
    command = [sys.executable, "-c", "from saedsl.cli import main; main()", "train", "c.toml"]
    return subprocess.Popen(
        [*command, "--hosts", "127.0.0.1,localhost", "--json", *more], cwd=folder, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_here_train_together_and_ctrl_c_ends_both_with_a_checkpoint(tmp_path: Path) -> None:
    done = start(tmp_path, 128 * 4)
    out, errors = done.communicate(timeout=100)
    assert done.returncode == 0, errors
    assert json.loads(out)["L1.mlp"]["steps"] == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.toml", "sae", "sae.report.json", "texts.jsonl"]

    long = start(tmp_path, 128 * 100_000)
    place = tmp_path / "sae.checkpoint"
    while long.poll() is None and not [*place.glob("step-*")]:
        time.sleep(0.05)
    os.killpg(long.pid, signal.SIGINT)
    out, errors = long.communicate(timeout=100)
    assert long.returncode == 130, errors
    error = json.loads(out)["error"]
    assert error["kind"] == "interrupted"
    assert error["message"].endswith("holds the checkpoint: add --resume to go on")
    assert len([*place.glob("step-*")]) == 1


@pytest.mark.parametrize(
    ("prints", "code", "said"),
    [
        ('{"L1.mlp": 1}', None, ""),
        ('{"error": {"kind": "usage", "message": "no such site"}}', 2, "error: no such site"),
        ('{"error": {"kind": "failed", "message": "no memory"}}', 3, "error: no memory"),
        ("", 3, "error: the processes ended without a result; what they said is above"),
    ],
)
def test_what_the_processes_say_is_the_result(
    prints: str, code: int | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-c", f"print('by the way'); print({prints!r}, end='')"]
    if code is None:
        assert _result(command, as_json=False) == {"L1.mlp": 1}
    else:
        with pytest.raises(SystemExit) as ended:
            _result(command, as_json=False)
        assert ended.value.code == code
    assert capsys.readouterr().err.strip().splitlines() == ["by the way", *([said] if said else [])]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_this_machine_is_known_by_its_number_only() -> None:
    here = {"ssh": "127.0.0.1", "ips": ["127.0.0.1"]}
    assert _listed("localhost, 127.0.0.1", as_json=False) == [here, here]
    there = {"ssh": "me@10.0.0.7", "ips": ["10.0.0.7"]}
    assert _listed("me@10.0.0.7,10.0.0.8", as_json=False)[0] == there


@pytest.mark.parametrize(
    ("hosts", "message"),
    [
        ("", "error: --hosts: a name is empty; names have one comma between them"),
        ("a host.invalid", "error: --hosts: 'a host.invalid' has no address"),
        ("127.0.0.1,10.0.0.8", "error: --hosts: others cannot reach this machine as 127.0.0.1: name it as they do"),
    ],
)
def test_hosts_that_cannot_be_reached_are_refused(hosts: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(FILE.format(tokens=128))
    done = CliRunner().invoke(cli, ["train", str(tmp_path / "c.toml"), "--hosts", hosts])
    assert done.exit_code == 2
    assert done.stderr.startswith(message)
