"""Text to token ids and back, with the pieces and their places in the text. No mlx here."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from saedsl.chat import ChatTemplate, Rendered, named_tokens, read_config, read_template, template_source
from saedsl.errors import ModelError


@dataclass(frozen=True)
class Tokens:
    """A prompt as the model reads it."""

    ids: tuple[int, ...]
    """Token ids, BOS included."""
    pieces: tuple[str, ...]
    """What each token spells; specials by their name, e.g. `<s>`."""
    offsets: tuple[tuple[int, int], ...]
    """Characters of `text` that each token covers, (0, 0) for specials."""
    text: str
    bos_token_id: int | None = None
    template: tuple[int, ...] = ()
    """Positions that the chat template wrote, BOS left out."""
    content: tuple[tuple[int, int], ...] = ()
    """Characters of `text` that are the user's and the system's own, of a prompt that went through a template."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def bos(self) -> tuple[int, ...]:
        """Positions of leading BOS tokens: none, one, or more when BOS was doubled."""
        n = next((i for i, t in enumerate(self.ids) if t != self.bos_token_id), len(self.ids))
        return tuple(range(n))

    def spelled(self, text: str) -> tuple[tuple[int, ...], ...]:
        """The places that spell `text`, each as the positions of its tokens, in order.

        A leading space also matches the start of the prompt: tokenizers write a first word with or without one.
        The empty text is spelled nowhere. In a chat, the template's own words count where the user's and the system's
        do not spell it.
        """
        if not text:
            return ()
        own = [p for a, b in self.content for p in self._places(text, a, b)]
        places = own or self._places(text, 0, len(self.text))
        written = [(p, s, e) for p, (s, e) in enumerate(self.offsets) if e > s]
        starts, ends = [s for _, s, _ in written], [e for _, _, e in written]
        ordered = starts == sorted(starts) and ends == sorted(ends)
        found = []
        for a, b in places:
            near = written[bisect_right(ends, a) : bisect_left(starts, b)] if ordered else written
            inside = [p for p, s, e in near if s < b and e > a]
            visible = [p for p in inside if self.text[max(a, self.offsets[p][0]) : min(b, self.offsets[p][1])].strip()]
            if inside:
                found.append(tuple(visible or inside))
        return tuple(found)

    def _places(self, text: str, start: int, end: int) -> list[tuple[int, int]]:
        """Characters that read `text`, from `start` to `end`."""
        places = []
        i = self.text.find(text, start, end)
        while i >= 0:
            places.append((i, i + len(text)))
            i = self.text.find(text, i + 1, end)
        if text[:1] == " " and len(text) > 1 and self.text.startswith(text[1:], start, end):
            places.insert(0, (start, start + len(text) - 1))
        return places


@dataclass(frozen=True)
class Encoder:
    """A tokenizer, reduced to what programs need."""

    encode: Callable[[str], Tokens]
    """Text -> Tokens, BOS added once where the tokenizer adds one. Raises ModelError for what is not text."""
    piece: Callable[[int], str]
    """What one token spells."""
    bos_token_id: int | None
    """See `_bos`."""
    words: Callable[[str], tuple[int, ...]] | None = None
    """Text -> its ids, as they stand behind other text: no BOS, nothing added. None: what `encode` gives, less BOS."""
    chat: Callable[[str, str | None], Tokens] | None = None
    """User's text, system's text -> Tokens, through the chat template; None without one. Raises ModelError."""

    def ids(self, text: str) -> tuple[int, ...]:
        """The token ids of a text that stands behind other text.

        Tokenizers that write a space before every first word would make two of the space that `text` starts with, so
        the spelling without it counts where it reads the same.
        """
        words = self.words or (lambda t: tuple(i for i in self.encode(t).ids if i != self.bos_token_id))
        found = words(text)
        if len(found) > 1 and text[:1] == " ":
            bare = words(text[1:])
            if len(bare) < len(found) and "".join(map(self.piece, bare)) == text:
                return bare
        return found

    def from_ids(self, ids: Sequence[int]) -> Tokens:
        """Tokens of ids that are given; their text is their pieces, joined."""
        pieces = tuple(self.piece(i) for i in ids)
        offsets, at = [], 0
        for i, piece in zip(ids, pieces, strict=True):
            special = i == self.bos_token_id
            offsets.append((0, 0) if special else (at, at + len(piece)))
            at += 0 if special else len(piece)
        text = "".join(p for p, i in zip(pieces, ids, strict=True) if i != self.bos_token_id)
        return Tokens(tuple(ids), pieces, tuple(offsets), text, self.bos_token_id)


def read_encoder(folder: Path, bos_token_id: int | None = None) -> Encoder | None:
    """The encoder of a model folder's tokenizer.json, or None where the folder has none.

    Args:
        folder: the model's.
        bos_token_id: what config.json says.

    Raises:
        ModelError: if a file of the tokenizer is broken.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    from tokenizers import Tokenizer

    try:
        backend = Tokenizer.from_file(str(path))
    except Exception as e:  # the tokenizers library raises bare Exception
        raise ModelError(f"{path}: cannot be read as a tokenizer ({e})") from None
    declared = named_tokens(read_config(folder / "tokenizer_config.json").get).get("bos_token")
    bos = None if declared is None else backend.token_to_id(declared)
    return _encoder(backend, bos, bos_token_id, read_template(folder))


def wrap_tokenizer(tokenizer: Any, bos_token_id: int | None = None) -> Encoder:
    """The encoder of an mlx-lm or Hugging Face tokenizer, or of any object with `encode` and `decode`.

    Args:
        tokenizer: left as it is.
        bos_token_id: what config.json says.
    """
    # mlx-lm's wrapper hands every name on, Hugging Face's fast tokenizers have `_tokenizer` too, with another meaning
    declared = getattr(tokenizer, "bos_token_id", None)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        source = template_source(getattr(tokenizer, "chat_template", None))
        template = ChatTemplate(source, named_tokens(lambda name: getattr(tokenizer, name, None))) if source else None
        return _encoder(backend, declared, bos_token_id, template)

    def piece(i: int) -> str:
        return str(tokenizer.decode([i]))

    def ids(text: str) -> list[int]:
        return [int(i) for i in tokenizer.encode(text)]

    def leading(text: str) -> int | None:
        return next((i for i in ids(text)[:1] if i in getattr(tokenizer, "all_special_ids", ())), None)

    bos = _bos(leading, declared, bos_token_id)
    plain = Encoder(lambda text: Tokens((), (), (), text), piece, bos)
    return Encoder(lambda text: plain.from_ids(ids(_checked(text))), piece, bos)


def _bos(leading: Callable[[str], int | None], declared: int | None, config: int | None) -> int | None:
    """The one rule for which token is BOS: what the tokenizer puts in front, else what it declares, else the config.

    Args:
        leading: text -> the special token that the tokenizer puts in front of it, if any.
        declared: the id of the tokenizer's own `bos_token`, where its vocabulary has it.
        config: `bos_token_id` of the model's config.json.
    """
    first = leading("")
    if first is not None and leading("a") == first:  # where they differ, the tokenizer only ends texts with it
        return first
    return config if declared is None else declared


def _checked(text: object) -> str:
    """`text`, if a tokenizer can read it."""
    if not isinstance(text, str):
        raise ModelError(f"a prompt is text, this is {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise ModelError(
            f"a prompt is text, this has half a character (U+{ord(text[e.start]):04X}) at place {e.start}"
        ) from None
    return text


def _encoder(backend: Any, declared: int | None, config: int | None, template: ChatTemplate | None) -> Encoder:
    """The encoder of a `tokenizers.Tokenizer`, which is left as it is."""
    whole = cache(lambda: _uncut(backend))

    def read(text: str, specials: bool = True) -> Any:
        # Hugging Face's own calls switch truncation and padding on and off in the tokenizer that we share
        own = backend if backend.truncation is None and backend.padding is None else whole()
        try:
            return own.encode(text, add_special_tokens=specials)
        except Exception as e:  # the tokenizers library raises bare Exception
            raise ModelError(f"the tokenizer cannot read {text[:40]!r} ({e})") from None

    def leading(text: str) -> int | None:
        e = read(text)
        return e.ids[0] if e.ids and e.special_tokens_mask[0] else None

    bos = _bos(leading, declared, config)

    @cache
    def piece(i: int) -> str:
        raw = backend.id_to_token(i)
        if raw is None:
            return f"<{i}>"
        text = backend.decode([i], skip_special_tokens=False)
        # A decoder may strip the leading space that marks the start of a word.
        return str(" " + text if raw[:1] in "▁Ġ" and not text.startswith(" ") else text)

    def encode(text: str) -> Tokens:
        e = read(_checked(text))
        return Tokens(tuple(e.ids), tuple(map(piece, e.ids)), tuple(e.offsets), text, bos)

    def words(text: str) -> tuple[int, ...]:
        return tuple(read(_checked(text), specials=False).ids)

    def chat(text: str, system: str | None) -> Tokens:
        assert template is not None
        rendered = template.render(_checked(text), system if system is None else _checked(system))
        e = read(rendered.text, specials=False)  # the template writes BOS itself
        found = Tokens(tuple(e.ids), tuple(map(piece, e.ids)), tuple(e.offsets), rendered.text, bos)
        return replace(found, template=_template(found, rendered), content=rendered.content)

    return Encoder(encode, piece, bos, words, None if template is None else chat)


def _template(tokens: Tokens, rendered: Rendered) -> tuple[int, ...]:
    """Positions of tokens that hold no character of the conversation itself, BOS left out."""
    inside = (any(a < end and b > start for start, end in rendered.content) for a, b in tokens.offsets)
    return tuple(p for p, own in enumerate(inside) if not own and p >= len(tokens.bos))


def _uncut(backend: Any) -> Any:
    """A copy of `backend` that neither cuts texts nor pads them."""
    from tokenizers import Tokenizer

    copy = Tokenizer.from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy
