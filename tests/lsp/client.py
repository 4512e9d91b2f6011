"""The other side of the protocol: JSON-RPC with a language server on a pipe, written out by hand."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[2]


class Client:
    """A running `saedsl lsp`, in a folder."""

    def __init__(self, folder: Path, encodings: list[str] | None = None) -> None:
        self.folder = folder
        env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from saedsl.cli import main; main()", "lsp"],
            cwd=folder, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.kept: list[dict[str, Any]] = []
        self.number = 0
        self.opened: set[str] = set()
        threading.Thread(target=self._listen, daemon=True).start()
        general = {"general": {"positionEncodings": encodings}} if encodings else {}
        self.started = self.request(
            "initialize", {"processId": None, "rootUri": folder.as_uri(), "capabilities": general}
        )
        self.notify("initialized", {})

    def _listen(self) -> None:
        out = self.process.stdout
        assert out is not None
        while line := out.readline():
            length = 0
            while line.strip():
                name, _, value = line.decode().partition(":")
                length = int(value) if name.lower() == "content-length" else length
                line = out.readline()
            self.messages.put(json.loads(out.read(length)))
        self.messages.put(None)

    def _send(self, message: dict[str, Any]) -> None:
        data = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self.process.stdin is not None
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(data), data))
        self.process.stdin.flush()

    def _wait(self, wanted: Any) -> dict[str, Any]:
        for message in self.kept:
            if wanted(message):
                self.kept.remove(message)
                return message
        while (new := self.messages.get(timeout=60)) is not None:
            if wanted(new):
                return new
            self.kept.append(new)
        raise AssertionError("the server has ended")

    def request(self, method: str, params: Any) -> Any:
        """The result of a request; an error of the server's is one here."""
        self.number += 1
        number = self.number
        self._send({"id": number, "method": method, "params": params})
        answer = self._wait(lambda m: m.get("id") == number and "method" not in m)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def notify(self, method: str, params: Any) -> None:
        """A message without an answer."""
        self._send({"method": method, "params": params})

    def uri(self, name: str = "a.saedsl") -> str:
        return (self.folder / name).as_uri()

    def open(self, text: str, name: str = "a.saedsl", version: int = 1) -> list[dict[str, Any]]:
        """Open a text; the diagnostics that come of it."""
        self.opened.add(self.uri(name))
        item = {"uri": self.uri(name), "languageId": "saedsl", "version": version, "text": text}
        self.notify("textDocument/didOpen", {"textDocument": item})
        return self.diagnostics(name, version)

    def change(self, text: str, version: int, name: str = "a.saedsl") -> None:
        """Replace the whole text."""
        document = {"uri": self.uri(name), "version": version}
        self.notify("textDocument/didChange", {"textDocument": document, "contentChanges": [{"text": text}]})

    def diagnostics(self, name: str = "a.saedsl", version: int | None = None) -> list[dict[str, Any]]:
        """The next diagnostics of a text, of that version of it."""

        def wanted(m: dict[str, Any]) -> bool:
            if m.get("method") != "textDocument/publishDiagnostics":
                return False
            return m["params"]["uri"] == self.uri(name) and version in (None, m["params"].get("version"))

        found: list[dict[str, Any]] = self._wait(wanted)["params"]["diagnostics"]
        return found

    def at(self, method: str, line: int, character: int, name: str = "a.saedsl", **more: Any) -> Any:
        """A request about a place."""
        position = {"line": line, "character": character}
        return self.request(
            f"textDocument/{method}", {"textDocument": {"uri": self.uri(name)}, "position": position, **more}
        )

    def completions(self, line: int, character: int) -> dict[str, dict[str, Any]]:
        """Completions by their text."""
        return {i["label"]: i for i in self.at("completion", line, character)["items"]}

    def move(self, folder: Path) -> None:
        """Close every text and forget what was said of them; names are of files in `folder` from here on."""
        for uri in sorted(self.opened):
            self.notify("textDocument/didClose", {"textDocument": {"uri": uri}})
        self.opened.clear()
        self.kept.clear()
        self.folder = folder

    def close(self) -> int:
        """End the server as editors do; its exit code."""
        self.opened.clear()
        self.request("shutdown", None)
        self.notify("exit", None)
        return self.process.wait(timeout=30)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=30)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
