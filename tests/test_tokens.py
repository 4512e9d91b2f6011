"""Text to tokens: one rule for BOS, no text cut or padded, and what is no text refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from saedsl.errors import ModelError
from saedsl.tokens import Encoder, Tokens, read_encoder, wrap_tokenizer

AS_OBJECT = {"__type": "AddedToken", "content": "</s>", "special": True}


def folder(path: Path, tokenizer: Any, *, template: str = "<s> $A", names: Any = None) -> Path:
    """A tokenizer's files: its post-processor follows `template`, `names` is tokenizer_config.json."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    specials = [("<s>", 0), ("</s>", 1)]
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=specials)
    backend.save(str(path / "tokenizer.json"))
    if names is not None:
        (path / "tokenizer_config.json").write_text(json.dumps(names))
    return path


def both(path: Path, config: int | None) -> list[Encoder]:
    """The folder's encoder as a check reads it, and as a run wraps it."""
    read = read_encoder(path, config)
    assert read is not None
    return [read, wrap_tokenizer(PreTrainedTokenizerFast.from_pretrained(path), config)]


@pytest.mark.parametrize(
    ("template", "names", "config", "bos", "positions"),
    [
        ("<s> $A", None, None, 0, (0,)),
        ("<s> $A", None, 1, 0, (0,)),  # what is put in front is BOS, whatever the files say
        ("<s> $A", {"bos_token": "</s>"}, 1, 0, (0,)),
        ("</s> $A", {"bos_token": "<s>"}, 0, 1, (0,)),
        ("<s> <s> $A", None, None, 0, (0, 1)),
        ("$A", None, None, None, ()),
        ("$A", None, 1, 1, ()),  # Qwen2: config.json has one, the tokenizer adds none
        ("$A", {"bos_token": None}, 1, 1, ()),
        ("$A", {"bos_token": "</s>"}, None, 1, ()),
        ("$A", {"bos_token": "</s>"}, 0, 1, ()),
        ("$A", {"bos_token": AS_OBJECT}, 0, 1, ()),
        ("$A </s>", None, 0, 0, ()),  # at the end is not in front
        ("<s> $A </s>", None, 1, 0, (0,)),
    ],
)
def test_a_check_and_a_run_agree_on_bos(
    tmp_path: Path, tokenizer: Any, template: str, names: Any, config: int | None, bos: int | None, positions: Any
) -> None:
    for encoder in both(folder(tmp_path, tokenizer, template=template, names=names), config):
        tokens = encoder.encode("the cat")
        assert (encoder.bos_token_id, tokens.bos_token_id, tokens.bos) == (bos, bos, positions)


@pytest.mark.parametrize(("names", "bos"), [({"bos_token": "<nowhere>"}, 1), ({"bos_token": 5}, 1), ([], 1)])
def test_a_declared_bos_that_is_no_token_of_the_vocabulary_does_not_count(
    tmp_path: Path, tokenizer: Any, names: Any, bos: int
) -> None:
    read = read_encoder(folder(tmp_path, tokenizer, template="$A", names=names), 1)
    assert read is not None
    assert read.bos_token_id == bos


class Words:
    """A tokenizer of another make: a word a token, `^` in front."""

    all_special_ids = (0,)

    def encode(self, text: str) -> list[int]:
        return [0, *map(len, text.split())]

    def decode(self, ids: list[int]) -> str:
        return "^" if ids == [0] else "x" * ids[0]


def test_any_object_that_encodes_and_decodes_is_a_tokenizer() -> None:
    encoder = wrap_tokenizer(Words(), 7)
    tokens = encoder.encode("ab c")
    assert (tokens.ids, tokens.pieces, tokens.bos) == ((0, 2, 1), ("^", "xx", "x"), (0,))
    with pytest.raises(ModelError, match="this is int"):
        encoder.encode(3)  # type: ignore[arg-type]


def test_a_folder_without_a_tokenizer_has_no_encoder(tmp_path: Path) -> None:
    assert read_encoder(tmp_path, 0) is None


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_broken_file_is_named(tmp_path: Path, tokenizer: Any, name: str) -> None:
    (folder(tmp_path, tokenizer) / name).write_text("{")
    with pytest.raises(ModelError, match=name):
        read_encoder(tmp_path, 0)


TEXT = "the cat sat on a mat"


def test_no_text_is_cut_or_padded(tmp_path: Path, tokenizer: Any) -> None:
    whole = wrap_tokenizer(tokenizer).encode(TEXT)
    backend = Tokenizer.from_file(str(folder(tmp_path, tokenizer) / "tokenizer.json"))
    backend.enable_truncation(3)
    backend.enable_padding(length=64)
    backend.save(str(tmp_path / "tokenizer.json"))
    shared = PreTrainedTokenizerFast(tokenizer_object=backend)
    shared.backend_tokenizer.enable_truncation(3)
    shared.backend_tokenizer.enable_padding(length=64)
    read = read_encoder(tmp_path)
    assert read is not None
    for encoder in (read, wrap_tokenizer(shared)):
        assert encoder.encode(TEXT) == whole
        assert encoder.bos_token_id == 0
    assert shared.backend_tokenizer.truncation["max_length"] == 3
    assert shared.backend_tokenizer.padding["length"] == 64


def test_a_call_of_the_tokenizer_itself_leaves_nothing_behind(tokenizer: Any) -> None:
    own = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()))
    encoder = wrap_tokenizer(own)
    before = encoder.encode(TEXT)
    own(TEXT, truncation=True, max_length=4)
    assert own.backend_tokenizer.truncation is not None
    assert encoder.encode(TEXT) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (3, "a prompt is text, this is int"),
        (None, "a prompt is text, this is NoneType"),
        (b"the cat", "a prompt is text, this is bytes"),
        (["the cat"], "a prompt is text, this is list"),
        ("the \ud83d cat", "a prompt is text, this has half a character (U+D83D) at place 4"),
    ],
)
def test_what_is_no_text_is_refused(tokenizer: Any, text: Any, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        wrap_tokenizer(tokenizer).encode(text)
    assert str(caught.value) == message


def test_the_empty_text_is_spelled_nowhere(tokenizer: Any) -> None:
    assert wrap_tokenizer(tokenizer).encode("the cat").spelled("") == ()
    assert Tokens((), (), (), "").spelled("") == ()


def test_a_word_is_found_with_and_without_the_space_before_it(tokenizer: Any) -> None:
    tokens = wrap_tokenizer(tokenizer).encode("a cat sat on a cat")
    assert [tokens.pieces[p[-1]] for p in tokens.spelled(" cat")] == [" cat", " cat"]
    assert len(tokens.spelled(" a")) == 2
