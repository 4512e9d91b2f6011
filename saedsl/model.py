"""`InterpretableModel`: an mlx-lm model with its tokenizer, and what programs do to it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from saedsl.analyse import Given, analyse
from saedsl.anatomy import ModelInfo
from saedsl.builder import ScriptBuilder
from saedsl.callers import at_caller
from saedsl.errors import ModelError, ProgramError, RunError
from saedsl.firing import silent_edits
from saedsl.grammar.source import Source
from saedsl.included import fetch_declared
from saedsl.locate import bundled, find_model, find_sae
from saedsl.metrics import valueless
from saedsl.plan import Plan
from saedsl.read import read_program
from saedsl.report import Report
from saedsl.results import Result
from saedsl.runner import Runner
from saedsl.sae.dictionary import SAE
from saedsl.sae.statistics import Statistics
from saedsl.sae.tensorfile import file_sha256
from saedsl.sites import Site
from saedsl.tokens import Encoder, Tokens, wrap_tokenizer
from saedsl.trace import Hooks, verify
from saedsl.traceblock import Recorder, TraceBlock
from saedsl.traced import Trace

if TYPE_CHECKING:
    from saedsl.training import SAEConfig
    from saedsl.training.of_model import Dataset

Prompts = str | Sequence[str] | Mapping[str, str]
SAEs = Mapping[str, SAE | str | Path]
Code = str | Path | ScriptBuilder
"""A program: text, the path of a file, or one built with `saedsl.script()`."""


class InterpretableModel(Recorder):
    """A language model whose activations programs read and edit.

    Loading checks that the model's family is known and that its residual stream adds up, so that a site is where its
    name says. The model itself is never changed: hooks are there for the length of one forward only.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, *, name: str | None = None, path: Path | None = None) -> None:
        """
        Args:
            model: an mlx-lm model, as `mlx_lm.load` returns it.
            tokenizer: its tokenizer, mlx-lm's or Hugging Face's.
            name: what programs and results call it; by default its model_type.
            path: the folder it was loaded from.

        Raises:
            ModelError: if the family is not supported, or its modules are not where they are expected.
        """
        args = getattr(model, "args", None)
        if not isinstance(model, nn.Module) or args is None:
            raise ModelError(f"this {type(model).__name__} is not an mlx-lm model: load one with mlx_lm.load")
        config = {k: v for k, v in vars(args).items() if not k.startswith("_")}
        self.model = model
        """The mlx-lm model."""
        self.tokenizer = tokenizer
        info = ModelInfo.from_config(config, name or str(config.get("model_type")), path)
        if not (hasattr(tokenizer, "encode") and hasattr(tokenizer, "decode")):
            raise ModelError(f"this {type(tokenizer).__name__} is not a tokenizer: it has no encode and decode")
        self.encoder: Encoder = wrap_tokenizer(tokenizer, info.bos_token_id)
        """Text to tokens, with pieces and offsets."""
        _ = info.family
        paths = frozenset(path for path, _ in model.named_modules() if path)
        self.info: ModelInfo = replace(info, bos_token_id=self.encoder.bos_token_id, modules=paths)
        """Sizes and names; what programs are checked against."""
        self._saes: dict[str, SAE] = {}
        verify(model, self.info)

    @classmethod
    def load(cls, name: str | Path, base: Path = Path()) -> InterpretableModel:
        """Load `demo`, a model folder (relative to `base`, then to here), or a hub model, downloaded if need be.

        On a CPU, half-precision weights become float32: MLX multiplies those many times faster there.

        Raises:
            ModelError: if it cannot be found, read or understood.
        """
        from mlx_lm.utils import load_model, load_tokenizer

        path = find_model(str(name), base, download=True)
        ModelInfo.read(path, str(name))
        try:
            model, config = load_model(path)
            tokenizer = load_tokenizer(path, eos_token_ids=config.get("eos_token_id"))
        except Exception as e:  # whatever the readers of damaged files raise
            raise ModelError(f"{name}: cannot be loaded ({type(e).__name__}: {str(e).strip()})") from e
        if mx.default_device() == mx.cpu:
            model.set_dtype(mx.float32)
        mx.eval(model.parameters())
        return cls(model, tokenizer, name=str(name), path=path)

    # Running programs ---------------------------------------------------------------------------------------------

    def run(
        self,
        program: Code,
        *,
        prompts: Prompts | None = None,
        saes: SAEs | None = None,
        bind: Mapping[str, Any] | None = None,
        top: int = 10,
        progress: Callable[[str], None] | None = None,
        batch_size: int | None = None,
    ) -> Result:
        """Run a program: each prompt twice, as it is and edited.

        Args:
            program: text, the path of a `.saedsl` file (a `Path`), or a `saedsl.script()`.
            prompts: what to run on where the program does not say; a text, several, or texts by name.
            saes: dictionaries (or their folders) by site text (`"L2.mlp"`) or by the name the program uses.
            bind: values of `$name`.
            top: how many next tokens of either side `PromptResult.top` lists.
            progress: called with the names of prompts before they run.
            batch_size: most rows of one forward (a prompt, with a combination of sweep values); by default as many as
                memory allows. Results do not depend on it, but for rounding.

        Raises:
            ProgramError: if the program has mistakes; all of them are in it.
            RunError: if the model yields NaN, or an edit of the user's own fails.
            ValueError: if `top` or `batch_size` is not a whole number from 1.
        """
        source, given, objects = self._given(program, prompts, saes, bind)
        return self.run_source(source, given, objects, top=top, progress=progress, batch_size=batch_size)

    def run_source(
        self,
        source: Source,
        given: Given,
        saes: Mapping[str, SAE] | None = None,
        *,
        top: int = 10,
        progress: Callable[[str], None] | None = None,
        batch_size: int | None = None,
    ) -> Result:
        """As `run`, of a source with its name; `saes` are those of the dictionaries in `given` that are in memory."""
        runner = Runner(self.model, self.info, self.encoder.piece, self.decode, self.stop_tokens, top, batch_size)
        planned, weights, report = self._planned(source, given, saes or {})
        results = runner.run(planned, weights, progress)
        ids = {d.name: d.info.fingerprint for d in planned.program.used}
        plan_id = planned.plan_id({"the model": self.sha256, "the tokenizer": self.tokenizer_sha256, **ids})
        metrics = (m for s in planned.steps for p in s.prompts for m in p.metrics)
        warnings = [
            *(d.render() for d in report.warnings),
            *silent_edits(p.firings for p in results),
            *valueless(metrics, (p.metrics for p in results)),
        ]
        return Result(planned.program_id, plan_id, self.info.name, tuple(results), tuple(warnings))

    def plan(
        self,
        program: Code,
        *,
        prompts: Prompts | None = None,
        saes: SAEs | None = None,
        bind: Mapping[str, Any] | None = None,
    ) -> Plan:
        """Check and plan a program; arguments as in `run`.

        Raises:
            ProgramError: if the program has mistakes.
        """
        return self.plan_source(*self._given(program, prompts, saes, bind))

    def plan_source(self, source: Source, given: Given, saes: Mapping[str, SAE] | None = None) -> Plan:
        """As `plan`, of a source with its name; arguments as in `run_source`."""
        return self._planned(source, given, saes or {})[0]

    def _given(
        self,
        program: Code,
        prompts: Mapping[str, str | Tokens] | Prompts | None,
        saes: SAEs | None,
        bind: Mapping[str, Any] | None,
    ) -> tuple[Source, Given, dict[str, SAE]]:
        match program:
            case ScriptBuilder():
                source, bind = program.source, {**program.bound, **(bind or {})}
            case Path():
                source = read_program(program)
            case str():
                source = at_caller(program)
            case _:
                kind = type(program).__name__
                raise TypeError(f"a program is text, the Path of a file, or a saedsl.script(); this is {kind}")
        base = program.parent if isinstance(program, Path) else Path()
        objects = {
            _site_name(k): v if isinstance(v, SAE) else SAE.load(find_sae(str(v), download=True))
            for k, v in (saes or {}).items()
        }
        infos = {k: v.info for k, v in objects.items()}
        return source, Given(self.info, self.encoder, infos, bind or {}, _by_name(prompts), base), objects

    def _planned(self, source: Source, given: Given, objects: Mapping[str, SAE]) -> tuple[Plan, dict[str, SAE], Report]:
        """The plan, the dictionaries by name, and the report, which holds warnings only."""
        given = replace(given, model=self.info, encoder=self.encoder)
        planned, report = analyse(source, given)
        if any(d.code == "S307" for d in report.errors):  # it may be on the hub
            fetch_declared(source, given.base, model=False)
            planned, report = analyse(source, given)
        if report.errors or planned is None:
            raise ProgramError(report.diagnostics)
        return (
            planned,
            {d.name: objects.get(d.name) or self._sae(d.info.path) for d in planned.program.used},
            report,
        )

    def _sae(self, path: Path | None) -> SAE:
        key = str(path)
        if key not in self._saes:
            self._saes[key] = SAE.load(key)
        return self._saes[key]

    # Traces -------------------------------------------------------------------------------------------------------

    def trace(
        self,
        prompt: str | Sequence[int] | mx.array,
        program: Code = "",
        *,
        saes: SAEs | None = None,
        bind: Mapping[str, Any] | None = None,
    ) -> TraceBlock:
        """One edited forward: `with model.trace("...", "at L2.mlp ablate f42") as t: t.output`.

        Edits are given as a program, or said in the block: `model.ablate_feature(sae, 42)`, `t.at("L2.mlp").ablate()`.
        The forward runs when its output or an activation is first asked for, at the latest when the block ends.

        Args:
            prompt: text, token ids, or an array of ids [seq] or [batch, seq].
            program: its `at` and `record` statements count, its own prompts and runs do not; the block warns of
                metrics, modes and `generate`, which have no effect in one forward.
            saes: as in `run`.
            bind: as in `run`.

        Raises:
            ProgramError: if the program has mistakes.
        """
        rows = self.rows(prompt)
        named = {f"row {i}": r for i, r in enumerate(rows)}
        source, given, objects = self._given(program, named, saes, bind)

        def make(source: Source, more: Mapping[str, SAE]) -> Trace:
            infos = {name: sae.info for name, sae in more.items()}
            whole = replace(given, saes={**given.saes, **infos}, whole=True)
            planned, weights, report = self._planned(source, whole, more)
            return Trace(self.model, self.info, planned, weights, rows, report.warnings)

        return TraceBlock(self, source, objects, make)

    def _site_list(self) -> tuple[Site, ...]:
        return self.info.sites

    def _bundled(self, site: str) -> SAE | None:
        return self.dictionary(site) if self.info.name == "demo" and site in bundled("saes") else None

    def rows(self, prompt: str | Sequence[int] | mx.array) -> list[Tokens]:
        """A prompt's tokens, a list entry for each row of the batch."""
        if isinstance(prompt, str):
            return [self.encoder.encode(prompt)]
        try:
            ids = np.array(prompt)
        except ValueError:
            raise RunError("the rows of a batch of token ids must be equally long") from None
        if ids.ndim not in (1, 2) or ids.size == 0 or ids.dtype.kind not in "iu":
            raise RunError("a prompt is text, or token ids [seq] or [batch, seq], at least one")
        if ids.min() < 0 or ids.max() >= self.info.d_vocab:
            raise RunError(f"token ids go from 0 to {self.info.d_vocab - 1}, these from {ids.min()} to {ids.max()}")
        return [self.encoder.from_ids([int(i) for i in row]) for row in np.atleast_2d(ids)]

    def forward(
        self,
        tokens: mx.array,
        captures: Collection[Site] = (),
        functions: Mapping[Site, Callable[[mx.array], mx.array]] | None = None,
    ) -> tuple[mx.array, dict[Site, mx.array]]:
        """One forward with any functions at sites: what programs are made of.

        Args:
            tokens: [batch, seq] token ids.
            captures: sites to keep.
            functions: at each site, activation [batch, seq, width] -> the one that the model goes on with.

        Returns:
            Logits [batch, seq, d_vocab] and the captured activations, evaluated.
        """
        at = {site: (lambda x, frame, fn=fn: fn(x)) for site, fn in (functions or {}).items()}
        logits, frame = Hooks(self.model, self.info, at, captures)(tokens)
        mx.eval(logits, *frame.captured.values())
        return logits, frame.captured

    def activations(self, tokens: mx.array, sites: Collection[Site]) -> dict[Site, mx.array]:
        """Activations of the plain model: site -> [batch, seq, width]. What comes behind the sites is not computed."""
        captured = Hooks(self.model, self.info, {}, sites)(tokens)[1].captured
        mx.eval(*captured.values())
        return captured

    def dictionary(self, name: str) -> SAE:
        """A dictionary that the model brings with it, by the text of its site; only the bundled model has some.

        Raises:
            SAEError: if there is none by that name.
        """
        return self._sae(find_sae(f"{self.info.name}:{_site_name(name)}"))

    def feature_statistics(
        self,
        sae: SAE | str | Path,
        texts: Iterable[str],
        *,
        site: str | None = None,
        context: int = 128,
        progress: Callable[[int], None] | None = None,
    ) -> Statistics:
        """How strongly a dictionary's features fire on texts; `.save(folder)` keeps it beside the weights.

        Args:
            sae: a dictionary, or its folder.
            texts: one document each; BOS is left out.
            site: where it reads; by default where it says.
            context: tokens a row at most.
            progress: called with the number of tokens so far.

        Raises:
            SAEError: if the dictionary cannot be read, or does not fit this model.
            ValueError: if `site` is no site.
        """
        from saedsl.training.statistics import feature_statistics

        dictionary = sae if isinstance(sae, SAE) else SAE.load(find_sae(str(sae), download=True))
        where = None if site is None else Site.parse(site)
        return feature_statistics(self, dictionary, texts, site=where, context=context, progress=progress)

    @overload
    def train_sae(
        self,
        layer: int,
        component: str,
        dataset: Dataset,
        config: SAEConfig | None = None,
        save_path: str | Path | None = None,
        *,
        output: str | None = None,
        context: int = 128,
        max_tokens: int | None = None,
        checkpoint_path: str | Path | None = None,
        resume: bool = True,
        progress: bool = True,
    ) -> SAE: ...
    @overload
    def train_sae(
        self,
        layer: int | Sequence[int],
        component: str | Sequence[str],
        dataset: Dataset,
        config: SAEConfig | None = None,
        save_path: str | Path | None = None,
        *,
        output: str | Sequence[str] | None = None,
        context: int = 128,
        max_tokens: int | None = None,
        checkpoint_path: str | Path | None = None,
        resume: bool = True,
        progress: bool = True,
    ) -> SAE | dict[str, SAE]: ...
    def train_sae(
        self,
        layer: int | Sequence[int],
        component: str | Sequence[str],
        dataset: Dataset,
        config: SAEConfig | None = None,
        save_path: str | Path | None = None,
        *,
        output: str | Sequence[str] | None = None,
        context: int = 128,
        max_tokens: int | None = None,
        checkpoint_path: str | Path | None = None,
        resume: bool = True,
        progress: bool = True,
    ) -> SAE | dict[str, SAE]:
        """Train a dictionary on this model's activations at `L{layer}.{component}`; BOS and padding are left out.

        Of several layers or components, a dictionary each, all from the same forwards; or one for all of them, if
        `config.kind` is `crosscoder` or `clt`.

        Args:
            layer: block, from 0; or several.
            component: `mlp`, `resid_post`, `attn` ... as in a site; or several.
            dataset: texts, one document each; the path of a file or folder of them; or a source of activations.
            config: settings; by default those of `SAEConfig`.
            save_path: a folder to save in; of several dictionaries, for a folder each, named by site. The report is
                written beside it, and checkpoints are kept there until the end.
            output: transcoder, clt: the component that is written; one for each component.
            context: tokens a row at most.
            max_tokens: of the data set; None for all.
            checkpoint_path: another place for checkpoints.
            resume: whether to go on from a checkpoint that is there.
            progress: whether a bar is drawn.

        Returns:
            The dictionary; of several, by the text of the site that each writes.

        Raises:
            ValueError: if there is no such site.
            TrainingError: if the data or the settings are impossible.
        """
        from saedsl.training import SAEConfig
        from saedsl.training.of_model import Where, train_at

        where = Where(
            (layer,) if isinstance(layer, int) else tuple(layer),
            (component,) if isinstance(component, str) else tuple(component),
            () if output is None else (output,) if isinstance(output, str) else tuple(output),
        )
        config = config or SAEConfig()
        trained = train_at(
            self, where, dataset, config, context=context, max_tokens=max_tokens, save_path=save_path,
            checkpoint_path=checkpoint_path, resume=resume, progress=progress,
        )  # fmt: skip
        saes = {name: t.sae for name, t in trained.items()}
        one = (isinstance(layer, int) and isinstance(component, str)) or config.kind in ("crosscoder", "clt")
        return next(iter(saes.values())) if one else saes

    # What it is ---------------------------------------------------------------------------------------------------

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, specials left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    @cached_property
    def stop_tokens(self) -> frozenset[int]:
        """Tokens that end a text."""
        many = getattr(self.tokenizer, "eos_token_ids", None)  # mlx-lm's; Hugging Face's gives the one id by this name
        one = getattr(self.tokenizer, "eos_token_id", None)
        return frozenset(many if isinstance(many, Collection) and many else () if one is None else (one,))

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the weights and the config: of the files, or of the arrays of a model without files."""
        h = hashlib.sha256()
        if self.info.path is not None:
            for file in sorted([*self.info.path.glob("*.safetensors"), self.info.path / "config.json"]):
                h.update(f"{file.name} {file_sha256(file)}\n".encode())
            return h.hexdigest()
        for name, value in sorted(tree_flatten(self.model.parameters())):
            h.update(f"{name} {value.dtype} {value.shape}\n".encode())
            h.update(np.array(value.view(mx.uint8)).tobytes())
        return h.hexdigest()

    @cached_property
    def tokenizer_sha256(self) -> str:
        """SHA-256 of the tokenizer, its chat template included."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        text = backend.to_str() if backend is not None else repr(type(self.tokenizer))
        return hashlib.sha256(f"{text}\n{getattr(self.tokenizer, 'chat_template', None)}".encode()).hexdigest()


def _site_name(key: str) -> str:
    try:
        return str(Site.parse(key))
    except ValueError:
        return key


def _by_name(prompts: Mapping[str, str | Tokens] | Prompts | None) -> Mapping[str, str | Tokens]:
    if prompts is None or isinstance(prompts, Mapping):
        for t in (prompts or {}).values():
            if not isinstance(t, str | Tokens):
                raise TypeError(f"a prompt is text, this is {type(t).__name__}")
        return prompts or {}
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    for t in texts:
        if not isinstance(t, str):
            raise TypeError(f"a prompt is text, this is {type(t).__name__}")
    if not texts:
        raise ValueError("prompts is empty: give a text or several, or leave it out")
    found: dict[str, str | Tokens] = {}
    for t in texts:  # one that stands twice runs twice
        name = next(n for n in (t, *(f"{t} ({i})" for i in range(2, len(texts) + 1))) if n not in found)
        found[name] = t
    return found
