"""The file of `saedsl circuit`: prompts, metric, dictionaries, method, budget. Keys are known, paths relative to it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from saedsl.circuits.task import Row, Task, task_of
from saedsl.errors import CircuitError

if TYPE_CHECKING:
    from saedsl.model import InterpretableModel

Table = TypeVar("Table")


@dataclass(frozen=True)
class TaskTable:
    """`[task]`: what the circuit is one of."""

    metric: str
    """A text of the language: `logit(io.answer) - logit(io.wrong)`."""
    model: str = "demo"
    """A model folder, a hub id, or demo."""
    ablation: str = "resample"
    """What features outside become: `zero`, `mean` (at each position, of the reference), `resample` (of `corrupt`)."""
    errors: str = "remove"
    """SAE errors outside the circuit: `keep` or `remove`."""


@dataclass(frozen=True)
class PromptsTable:
    """`[prompts]`: JSONL files, a row a line: prompt, corrupt, answer, wrong, ..."""

    path: str
    """Prompts that the circuit is found on."""
    held_out: str | None = None
    """Prompts that it is validated on; without, those that it was found on."""
    reference: str | None = None
    """Texts for means: JSONL with `prompt`, or a text a line; without, the prompts."""


@dataclass(frozen=True)
class FindTable:
    """`[find]`: how nodes are chosen."""

    budget: int | float | None = None
    """Nodes at most, or a share up to 1.0."""
    threshold: float | None = None
    """Of `threshold`, `influence`, `acdc`."""
    method: str = "top"
    """`top`, `threshold`, `influence`, `greedy`, `acdc`."""
    effects: str = "ig"
    """How nodes' effects are found: `atp`, `ig`, `relp`, `qk`, `graddrop`, `atp*`, `exact`."""
    steps: int = 10
    """Of `ig`."""
    positions: str = "keep"
    """`keep`: a node for each position; `sum`: one for all positions."""
    edge_rows: int = 8
    """Prompts that edges are measured on; 0 for no edges."""
    edge_threshold: float = 0.0
    """The least |weight| of an edge."""


@dataclass(frozen=True)
class ValidateTable:
    """`[validate]`: how much is measured."""

    subsets: int = 20
    """Parts of the circuit that minimality looks at."""
    minimality_rows: int = 8
    """Prompts for minimality and completion; 0 for neither."""
    random: int = 20
    """Random circuits of equal size."""
    exact_rows: int = 2
    """Prompts whose nodes are patched one at a time; 0 for none."""
    tried: int = 32
    """Nodes outside that completion adds."""
    seed: int = 0
    """Of all draws."""


@dataclass(frozen=True)
class TaskFile:
    """A whole file."""

    path: Path
    task: TaskTable
    prompts: PromptsTable
    find: FindTable
    validate: ValidateTable
    saes: Mapping[str, str] = field(hash=False)
    """`[saes]`: site -> a folder, a file, a hub id, or demo."""

    def at(self, name: str) -> Path:
        """A path of the file."""
        return self.path.parent / Path(name).expanduser()

    @property
    def circuit(self) -> Path:
        """Where `find` writes the circuit, beside the file."""
        return self.path.with_suffix(".circuit.json")

    @property
    def validated(self) -> Path:
        """Where `validate` writes it with its scores."""
        return self.path.with_suffix(".validated.json")

    @property
    def verdict(self) -> Path:
        """Where `validate` writes what it found."""
        return self.path.with_suffix(".verdict.json")

    def rows(self, held_out: bool = False, most: int | None = None) -> list[Row]:
        """The prompts.

        Raises:
            CircuitError: if the file cannot be read, or a line is no row.
        """
        name = self.prompts.held_out if held_out else self.prompts.path
        assert name is not None
        return read_rows(self.at(name), most)

    def open(self, model: InterpretableModel, held_out: bool = False, most: int | None = None) -> Task:
        """The task on a model.

        Args:
            model: the model.
            held_out: of the held-out prompts.
            most: prompts at most, the first.

        Raises:
            CircuitError: if its parts do not fit together.
        """
        from saedsl.locate import find_sae
        from saedsl.sae.dictionary import SAE

        saes, paths = {}, {}
        for site, name in self.saes.items():
            where = f"demo:{site}" if name == "demo" else self._dictionary(name)
            saes[site] = SAE.load(find_sae(where, download=True))
            paths[site] = "" if name == "demo" and self.task.model == "demo" else where
        reference: tuple[str, ...] = ()
        if self.task.ablation == "mean":
            source = self.prompts.reference or self.prompts.path
            reference = tuple(row.prompt for row in read_rows(self.at(source), None))
        return task_of(
            model, saes, self.rows(held_out, most), self.task.metric, ablation=self.task.ablation,  # type: ignore[arg-type]
            errors=self.task.errors, reference=reference, paths=paths,  # type: ignore[arg-type]
        )  # fmt: skip

    def _dictionary(self, name: str) -> str:
        here = self.at(name)
        return str(here.absolute()) if here.exists() else name


TABLES: Final = {"task": TaskTable, "prompts": PromptsTable, "find": FindTable, "validate": ValidateTable}


def read_task_file(path: Path) -> TaskFile:
    """Read the file of `saedsl circuit`.

    Raises:
        CircuitError: if it cannot be read, is no TOML, has unknown keys or tables, or lacks some.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CircuitError(f"{path}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CircuitError(f"{path}: no TOML: {error}") from None
    known = [*TABLES, "saes"]
    for key in data:
        if key not in known:
            raise CircuitError(f"{path}: there is no [{key}]{_near(key, known)}; there are {', '.join(known)}")
    tables: dict[str, Any] = {name: _table(path, name, cls, data.get(name, {})) for name, cls in TABLES.items()}
    saes = data.get("saes", {})
    if not isinstance(saes, dict) or not saes or not all(isinstance(v, str) for v in saes.values()):
        raise CircuitError(f'{path}: [saes] says which dictionary is at which site: "L1.resid_post" = "demo"')
    return TaskFile(path, saes=saes, **tables)


def read_rows(path: Path, most: int | None) -> list[Row]:
    """Rows of JSONL, or a prompt a line of a text file.

    Raises:
        CircuitError: if the file cannot be read or has no prompts; a line that is no row is named.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise CircuitError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise CircuitError(f"{path}: no UTF-8 text (byte {error.start})") from None
    lines = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    found = []
    for i, line in lines[:most]:
        if path.suffix not in (".jsonl", ".ndjson"):
            found.append(Row(line.rstrip("\r")))
            continue
        try:
            row = json.loads(line)
            found.append(Row.of(row if isinstance(row, dict) else {}))
        except (ValueError, CircuitError) as error:
            raise CircuitError(f"{path}, line {i}: {error}") from None
    if not found:
        raise CircuitError(f"{path}: has no prompts")
    return found


def _table(path: Path, name: str, cls: type[Table], given: Any) -> Table:
    if not isinstance(given, dict):
        raise CircuitError(f"{path}: [{name}] is a table")
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for key, value in given.items():
        if key not in known:
            raise CircuitError(
                f"{path}: [{name}] has no {key}{_near(key, list(known))}; it can have {', '.join(known)}"
            )
        wanted = str(known[key].type).replace(" | None", "").split(" | ")
        if type(value).__name__ not in wanted and not (type(value) is int and "float" in wanted):
            raise CircuitError(f"{path}: [{name}] {key} is {value!r}, not {' or '.join(wanted)}")
    missing = [f.name for f in known.values() if f.default is MISSING and f.name not in given]
    if missing:
        raise CircuitError(f"{path}: [{name}] needs {missing[0]}")
    return cls(**given)


def _near(key: str, known: list[str]) -> str:
    close = get_close_matches(key, known, 1)
    return f"; did you mean {close[0]}?" if close else ""
