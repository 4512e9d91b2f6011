"""Chat templates: a user's and a system's text -> the text that a chat model was trained on. No mlx here.

Templates are rendered as Hugging Face renders them (https://huggingface.co/docs/transformers/chat_templating): Jinja
in a sandbox, with the same helpers; tests hold the two against each other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from saedsl.errors import ModelError

TOKENS: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Special tokens that templates may name."""
_USER, _SYSTEM = "\ue000user\ue001", "\ue000system\ue001"
"""Stand for the texts where their places are looked for; private characters that no template holds."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as text."""

    text: str
    """Special tokens by their names, `<|im_start|>`."""
    content: tuple[tuple[int, int], ...]
    """The characters of it that are the system's and the user's own; the rest is the template's."""


@dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer's chat template."""

    source: str
    """Jinja."""
    tokens: Mapping[str, str] = field(default_factory=dict)
    """Special tokens by the names that templates use: `bos_token` ..."""

    def render(self, text: str, system: str | None = None) -> Rendered:
        """One turn of a user, up to where the model answers.

        Args:
            text: the user's.
            system: what the system says before, if anything.

        Raises:
            ModelError: if the template refuses it, e.g. because the model knows no system's text.
        """
        whole = self._text(text, system)
        marked = self._text(_USER, None if system is None else _SYSTEM)
        texts = [(_USER, text)] if system is None else [(_SYSTEM, system), (_USER, text)]
        return Rendered(whole, _places(whole, marked, texts))

    def _text(self, text: str, system: str | None) -> str:
        messages = [{"role": "user", "content": text}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        try:
            rendered: str = self._compiled.render(
                messages=messages, tools=None, documents=None, add_generation_prompt=True, **self.tokens
            )
        except Exception as e:  # whatever a template does: its own raise_exception, a type it does not expect
            raise ModelError(f"the chat template cannot be used here ({str(e).strip() or type(e).__name__})") from None
        return rendered

    @cached_property
    def _compiled(self) -> Any:
        import jinja2
        from jinja2.ext import Extension
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        class Generation(Extension):
            """`{% generation %} ... {% endgeneration %}` marks the assistant's text for training: here it is text."""

            tags = {"generation"}  # noqa: RUF012 (jinja2's own declaration)

            def parse(self, parser: Any) -> Any:
                next(parser.stream)
                return parser.parse_statements(("name:endgeneration",), drop_needle=True)

        def refuse(message: str) -> str:
            raise jinja2.TemplateError(message)

        def to_json(value: Any, ensure_ascii: bool = False, **more: Any) -> str:
            return json.dumps(value, ensure_ascii=ensure_ascii, **more)

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = to_json
        environment.globals["raise_exception"] = refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            return environment.from_string(self.source)
        except jinja2.TemplateError as e:
            raise ModelError(f"the chat template cannot be read ({e})") from None


def _places(whole: str, marked: str, texts: list[tuple[str, str]]) -> tuple[tuple[int, int], ...]:
    """Where the texts are in `whole`, from where their marks are in the same conversation about the marks.

    A text that the template changes by more than its outer spaces is searched for, the user's from the end.
    """
    parts: list[str] = []
    rest = marked
    for mark, _ in texts:
        before, found, rest = rest.partition(mark)
        parts.append(before)
        if not found:
            break
    else:
        at, places = 0, []
        for before, (_, text) in zip(parts, texts, strict=True):
            at += len(before)
            shown = next((t for t in (text, text.strip()) if whole.startswith(t, at)), None)
            if shown is None:
                break
            places.append((at, at + len(shown)))
            at += len(shown)
        else:
            if whole[at:] == rest:
                return tuple(p for p in places if p[1] > p[0])
    found_at = ((whole.rfind(t.strip()), len(t.strip())) for _, t in texts)
    return tuple(sorted((a, a + n) for a, n in found_at if a >= 0 and n))


def read_template(folder: Path) -> ChatTemplate | None:
    """The chat template of a model's folder: `chat_template.jinja`, or that of tokenizer_config.json; None if none.

    Raises:
        ModelError: if a file is broken.
    """
    config = read_config(folder / "tokenizer_config.json")
    path = folder / "chat_template.jinja"
    try:
        source = path.read_text(encoding="utf-8") if path.is_file() else template_source(config.get("chat_template"))
    except (OSError, ValueError) as e:
        raise ModelError(f"{path}: cannot be read ({e})") from None
    if source is None:
        return None
    names = {**read_config(folder / "special_tokens_map.json"), **config}
    return ChatTemplate(source, named_tokens(names.get))


def template_source(value: object) -> str | None:
    """The template of a tokenizer that has one, or several by name: then the one called `default`."""
    if isinstance(value, list):
        value = {t.get("name"): t.get("template") for t in value if isinstance(t, dict)}
    if isinstance(value, Mapping):
        value = value.get("default")
    return value if isinstance(value, str) else None


def named_tokens(get: Callable[[str], object]) -> dict[str, str]:
    """The special tokens that `get` knows, as text or as objects with `content`."""
    found: dict[str, str] = {}
    for name in TOKENS:
        token = get(name)
        token = token.get("content") if isinstance(token, Mapping) else token
        if token is not None and (isinstance(token, str) or hasattr(token, "content")):
            found[name] = str(token)
    return found


def read_config(path: Path) -> Mapping[str, Any]:
    """A file of JSON beside a tokenizer; nothing where there is none, or where it holds no object.

    Raises:
        ModelError: if it is no JSON.
    """
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise ModelError(f"{path}: cannot be read as JSON ({e})") from None
    return config if isinstance(config, dict) else {}
