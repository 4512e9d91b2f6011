"""Program files: read with the mistakes that files can have."""

from __future__ import annotations

import os
from pathlib import Path

from saedsl.errors import SaedslError
from saedsl.grammar.source import Source

LIMIT = 4 * 1_000_001
"""Bytes that are read at most: enough that the parser sees more than the 1,000,000 characters it accepts."""


def read_program(path: Path) -> Source:
    """The text of a `.saedsl` file.

    Bytes that are no UTF-8 become U+FFFD, and of a file that is too large only the beginning is read: the parser
    names both mistakes.

    Raises:
        SaedslError: if there is no such file or it cannot be read.
    """
    try:
        with path.open("rb") as f:
            data = f.read(LIMIT)
    except IsADirectoryError:
        raise SaedslError(f"{path}: is a folder; a program is a file") from None
    except FileNotFoundError:
        raise SaedslError(f"{path}: there is no such file") from None
    except OSError as e:
        raise SaedslError(f"{path}: cannot be read ({e.strerror})") from None
    except ValueError:
        raise SaedslError(f"{path}: no file can be called so") from None
    return Source(data.decode("utf-8-sig", errors="replace").replace("\r\n", "\n"), str(path))


def write_program(path: Path, text: str) -> None:
    """Replace a file, whole or not at all. Raises SaedslError if it cannot be written."""
    path = path.resolve()  # a link stays a link
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        temporary.chmod(path.stat().st_mode)
        temporary.replace(path)
    except OSError as e:
        raise SaedslError(f"{path}: cannot be written ({e.strerror})") from None
    finally:
        temporary.unlink(missing_ok=True)
