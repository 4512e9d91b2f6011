"""Who may import whom, and what a check may load."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    p
    for folder in ("saedsl", "grammar", "circuits")
    for p in (ROOT / folder).rglob("*.py")
    if not (folder == "saedsl" and p.relative_to(ROOT).parts[1] in ("grammar", "circuits"))
)

LAYERS = [
    ["errors", "blas", "hashes", "paths"],
    ["grammar"],
    ["sites"],
    [
        "report", "places", "unread", "selection", "read", "tokens", "anatomy", "locate", "registry", "included",
        "embedded", "callers", "chat", "html",
    ],
    ["sae"],
    ["program", "wording", "canonical", "builder"],
    ["binding", "directions", "rows"],
    ["scope"],
    ["target", "options", "sweeps"],
    ["guards", "records", "terms"],
    ["changes"],
    ["runs"],
    ["check"],
    ["positions", "parts"],
    ["conflicts", "promptrow"],
    ["plan", "planjson"],
    ["patches", "measures", "formulas", "chains"],
    ["planner", "dsl", "explain"],
    ["analyse"],
    ["compose", "plandiff"],
    ["edits"],
    ["attention", "holds"],
    ["trace"],
    ["generation", "firing", "making"],
    ["conditions", "lanes", "batching", "sources"],
    ["recording", "metrics", "tasks"],
    ["execute"],
    ["forwards"],
    ["results"],
    ["runner", "traced"],
    ["saved"],
    ["traceblock"],
    ["model"],
    ["training"],
    ["demo"],
    ["circuits"],
    ["show"],
    ["magic"],
    ["lsp"],
    ["commands"],
    ["cli"],
]  # fmt: skip
"""A module imports from the rows above its own, or from its own row."""
LEVEL = {name: i for i, row in enumerate(LAYERS) for name in row}
WITHOUT_MLX = {
    "grammar", "errors", "hashes", "paths", "sites", "report", "places", "unread", "selection", "read", "tokens",
    "anatomy", "locate", "registry", "included", "embedded", "callers", "chat", "html", "program", "wording",
    "canonical", "builder", "binding", "directions", "rows", "scope", "target", "options", "sweeps", "guards",
    "records", "terms",
    "changes", "runs", "check", "positions", "conflicts", "promptrow", "plan", "planjson", "patches", "measures",
    "formulas", "chains", "planner", "dsl", "explain", "analyse", "compose", "plandiff", "show",
}  # fmt: skip
"""Checked and planned before anything heavy is imported."""
HEAVY = {"mlx", "mlx_lm", "transformers", "torch", "numpy", "safetensors"}


def name_of(path: Path) -> str:
    """`saedsl/sae/config.py` -> `sae`; `saedsl/plan.py` -> `plan`; `grammar/parse.py` -> `grammar`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] != "saedsl" else parts[1]


def imports(path: Path) -> list[tuple[str, bool]]:
    """(module, whether it is imported when the file is) for every import that runs: not those for types only."""
    tree = ast.parse(path.read_text())
    found: list[tuple[str, bool]] = []

    def walk(node: ast.AST, at_import: bool) -> None:
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                return
            case ast.Import(names=names):
                found.extend((a.name, at_import) for a in names)
            case ast.ImportFrom(module=module, level=0):
                found.append((module or "", at_import))
            case ast.ImportFrom():
                found.append(("relative import", at_import))
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                at_import = False
        for child in ast.iter_child_nodes(node):
            walk(child, at_import)

    walk(tree, True)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_what_is_below_it(path: Path) -> None:
    name = name_of(path)
    if name == "__init__":
        return
    for module, at_import in imports(path):
        if not module.startswith("saedsl.") or not at_import:
            continue  # upward imports inside functions are how the convenience methods reach their makers
        other = module.split(".")[1]
        assert LEVEL[other] <= LEVEL[name], f"{name} imports {module}, which is above it"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_grammar_check_and_plan_never_import_anything_heavy(path: Path) -> None:
    heavy = {(module, at) for module, at in imports(path) if module.split(".")[0] in HEAVY}
    if name_of(path) in WITHOUT_MLX:
        assert not heavy
    elif name_of(path) == "cli" or (
        path.parent.name in ("sae", "formats") and path.stem not in ("dictionary", "sitewise", "topk")
    ):
        assert not {module for module, at in heavy if at}


def test_sites_and_edits_never_import_lark() -> None:
    code = "import sys, saedsl.sites, saedsl.grammar.words, saedsl.grammar.nodes; assert 'lark' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env(), timeout=60).returncode == 0


GRAPHS = (
    "caption", "colours", "cytoscape", "dot", "dotplaces", "draw", "dsl", "export", "figure", "fonts", "graph",
    "labels", "layout", "legend", "marks", "neuronpedia", "node", "page", "store", "svgfont", "tikz", "xmlgraph",
)  # fmt: skip
"""Modules of circuits that know networkx, not MLX."""


def test_graphs_are_read_exported_and_drawn_without_mlx() -> None:
    for name in GRAPHS:
        for module, _ in imports(ROOT / "circuits" / f"{name}.py"):
            assert module.split(".")[0] not in HEAVY, f"circuits/{name}.py imports {module}"
            if module.startswith("saedsl.circuits."):
                assert module.split(".")[2] in GRAPHS, f"circuits/{name}.py imports {module}"
    code = (
        "import sys; from saedsl.circuits.draw import draw; from saedsl.circuits.export import export\n"
        "found = {'mlx', 'mlx_lm', 'transformers', 'numpy', 'matplotlib'} & set(sys.modules); assert not found, found"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env(), timeout=60).returncode == 0


CHOICES = (*GRAPHS, "communities", "discover", "influence", "quality", "rankstats", "scores", "supernodes")
"""These know numpy too."""


def test_circuits_are_chosen_and_judged_without_mlx() -> None:
    for name in CHOICES:
        for module, _ in imports(ROOT / "circuits" / f"{name}.py"):
            assert module.split(".")[0] not in HEAVY - {"numpy"}, f"circuits/{name}.py imports {module}"
            if module.startswith("saedsl.circuits."):
                assert module.split(".")[2] in CHOICES, f"circuits/{name}.py imports {module}"


def test_nothing_imports_the_command_line() -> None:
    for path in FILES:
        assert all(module != "saedsl.cli" for module, _ in imports(path)), path


def test_hooking_exists_once() -> None:
    for path in FILES:
        if path.name != "trace.py":
            assert "__class__" not in path.read_text(), path


def test_the_packages_of_the_wheel_are_the_folders() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {p.parent.relative_to(ROOT) for p in FILES if p.name == "__init__.py"}
    names = {".".join(("saedsl", *f.parts) if f.parts[0] != "saedsl" else f.parts) for f in folders}
    assert set(settings["packages"]) == names
    for package, folder in settings["package-dir"].items():
        assert (ROOT / folder / "__init__.py").is_file(), package


def test_arrays_on_a_gpu_have_no_float64_and_linear_algebra_runs_on_the_cpu() -> None:
    """MLX raises for both on a GPU; none is at hand to find out."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Attribute | ast.Call):
                continue
            if isinstance(node, ast.Attribute):
                assert ast.unparse(node) != "mx.float64", f"{path}:{node.lineno}"
            elif ast.unparse(node.func).startswith("mx.linalg."):
                streams = [ast.unparse(k.value) for k in node.keywords if k.arg == "stream"]
                assert streams == ["mx.cpu"], f"{path}:{node.lineno}"


def env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "-e", "at L0.mlp ablate f1"],
        ["check", "--json", "-e", "at L0.mlp ablate f1 @ \" cat\"", "-p", "The cat sat"],
        ["explain", "-e", "at L0.mlp ablate f1", "-p", "The cat sat"],
        ["fmt", "-e", "at L0.mlp   ablate f1"],
    ],
    ids=lambda a: " ".join(a[:2]),
)  # fmt: skip
def test_checking_imports_neither_mlx_nor_transformers(
    arguments: list[str], llama_folder: Path, sae_folder: Path
) -> None:
    if arguments[0] != "fmt":
        arguments = [*arguments, "-m", str(llama_folder), "--sae", f"L0.mlp={sae_folder}"]
    code = (
        "import sys; from saedsl.cli import cli\n"
        "try: cli(sys.argv[1:])\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        "heavy = {'mlx', 'mlx_lm', 'transformers', 'torch', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, env=env(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
