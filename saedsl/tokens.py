"""Text to token ids and back, with the pieces and their places in the text. No mlx here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        """
        starts = [i for i in range(len(self.text)) if self.text.startswith(text, i)]
        places = [(i, i + len(text)) for i in starts]
        if text[:1] == " " and len(text) > 1 and self.text.startswith(text[1:]):
            places.insert(0, (0, len(text) - 1))
        found = []
        for a, b in places:
            inside = [p for p, (s, e) in enumerate(self.offsets) if s < b and e > a and e > s]
            visible = [p for p in inside if self.text[max(a, self.offsets[p][0]) : min(b, self.offsets[p][1])].strip()]
            if inside:
                found.append(tuple(visible or inside))
        return tuple(found)


@dataclass(frozen=True)
class Encoder:
    """A tokenizer, reduced to what programs need."""

    encode: Callable[[str], Tokens]
    """Text -> Tokens, BOS added once where the tokenizer adds one."""
    piece: Callable[[int], str]
    """What one token spells."""
    bos_token_id: int | None

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


def read_encoder(folder: Path, bos_token_id: int | None) -> Encoder | None:
    """The encoder of a model folder's tokenizer.json, or None where the folder has none.

    Raises:
        ModelError: if the file is broken.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    from tokenizers import Tokenizer

    try:
        return _encoder(Tokenizer.from_file(str(path)), bos_token_id)
    except Exception as e:  # the tokenizers library raises bare Exception
        raise ModelError(f"{path}: cannot be read as a tokenizer ({e})") from None


def wrap_tokenizer(tokenizer: Any, bos_token_id: int | None = None) -> Encoder:
    """The encoder of an mlx-lm or Hugging Face tokenizer, or of any object with `encode` and `decode`."""
    # mlx-lm's wrapper hands every name on, Hugging Face's fast tokenizers have `_tokenizer` too, with another meaning
    bos = getattr(tokenizer, "bos_token_id", None)
    bos = bos_token_id if bos is None else bos
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return _encoder(backend, bos)

    def piece(i: int) -> str:
        return str(tokenizer.decode([i]))

    plain = Encoder(lambda text: Tokens((), (), (), text), piece, bos)

    def encode(text: str) -> Tokens:
        ids = [int(i) for i in tokenizer.encode(text)]
        return plain.from_ids(ids)

    return Encoder(encode, piece, bos)


def _encoder(backend: Any, bos: int | None) -> Encoder:
    """The encoder of a `tokenizers.Tokenizer`."""

    def piece(i: int) -> str:
        raw = backend.id_to_token(i)
        if raw is None:
            return f"<{i}>"
        text = backend.decode([i], skip_special_tokens=False)
        # A decoder may strip the leading space that marks the start of a word.
        return str(" " + text if raw[:1] in "▁Ġ" and not text.startswith(" ") else text)

    def encode(text: str) -> Tokens:
        e = backend.encode(text)
        return Tokens(tuple(e.ids), tuple(map(piece, e.ids)), tuple(e.offsets), text, bos)

    return Encoder(encode, piece, bos)
