"""Chat templates: the tokens that Hugging Face gives, and which of them the template wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from saedsl.chat import ChatTemplate
from saedsl.errors import ModelError
from saedsl.tokens import Encoder, read_encoder, wrap_tokenizer

CHATML = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TRIMMED = (
    "{{ bos_token }}\n{%- for m in messages %}\n    {%- if loop.index0 > 5 %}{% break %}{% endif %}\n"
    "    {{- '<' + m.role + '>' + (m.content | trim) + eos_token }}\n{%- endfor %}\n"
    "{%- if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% generation %}{{ m.content | tojson }}{% endgeneration %}{% endfor %}"
)
TEMPLATES = {"chatml": CHATML, "trimmed": TRIMMED}
TEXTS = [
    ("the cat", None),
    ("the cat", "a dog"),
    ("  the cat\n", " sat on "),
    ("user", "user"),
    ("assistant", "system"),
    ("the cat", "the cat"),
    ("<s>", ""),
    ("é 漢字 {{ bos_token }}", None),
]


def hugging_face(tokenizer: Any, template: str) -> PreTrainedTokenizerFast:
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    made = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    made.chat_template = template
    return made


def encoders(tokenizer: Any, template: str, path: Path) -> list[Encoder]:
    """As a run wraps it, and as a check reads it: from tokenizer_config.json, and from chat_template.jinja."""
    made = hugging_face(tokenizer, template)
    found = [wrap_tokenizer(made)]
    names = {"bos_token": "<s>", "eos_token": {"content": "</s>"}}
    several = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": template}]
    for i, given in enumerate((template, several, None)):
        folder = path / str(i)
        folder.mkdir()
        made.backend_tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps({**names, "chat_template": given}))
        if given is None:
            (folder / "chat_template.jinja").write_text(template)
        read = read_encoder(folder, 0)
        assert read is not None
        found.append(read)
    return found


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize(("text", "system"), TEXTS)
def test_tokens_are_those_of_hugging_face(
    tmp_path: Path, tokenizer: Any, template: str, text: str, system: str | None
) -> None:
    messages = [{"role": "system", "content": system}] if system is not None else []
    wanted = hugging_face(tokenizer, template).apply_chat_template(
        [*messages, {"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
    )
    for encoder in encoders(tokenizer, template, tmp_path):
        assert encoder.chat is not None
        tokens = encoder.chat(text, system)
        assert list(tokens.ids) == wanted
        assert tokens.bos == (0,)  # not doubled
        assert "".join(tokens.text[a:b] for a, b in tokens.content) == "".join(
            t.strip() if template == TRIMMED else t for t in (system or "", text)
        )


def test_tokens_of_the_template_are_known_where_the_user_says_the_same_words(tokenizer: Any) -> None:
    encoder = wrap_tokenizer(hugging_face(tokenizer, CHATML))
    assert encoder.chat is not None
    tokens = encoder.chat("user", None)
    own = [p for p in range(len(tokens)) if p not in tokens.template and p not in tokens.bos]
    assert [tokens.pieces[p] for p in own] == list("user")
    before = "<s><|im_start|>user\n"
    assert tokens.content == ((len(before), len(before) + 4),)
    assert tokens.spelled("user") == (tuple(own),)
    assert len(tokens.spelled("im_start")) == 2  # only the template spells it


def test_a_word_at_the_start_of_the_users_text_is_found_with_its_space(tokenizer: Any) -> None:
    encoder = wrap_tokenizer(hugging_face(tokenizer, CHATML))
    assert encoder.chat is not None
    assert len(encoder.chat("cat sat", None).spelled(" cat")) == 1


def test_a_template_may_refuse(tokenizer: Any) -> None:
    encoder = wrap_tokenizer(hugging_face(tokenizer, NO_SYSTEM))
    assert encoder.chat is not None
    assert encoder.chat('a "cat" é', None).text == '"a \\"cat\\" é"'
    with pytest.raises(ModelError, match="System role not supported"):
        encoder.chat("the cat", "a dog")
    with pytest.raises(ModelError, match="cannot be read"):
        ChatTemplate("{% if %}").render("x")
    with pytest.raises(ModelError, match="cannot be used here"):
        ChatTemplate("{{ messages.__class__.__mro__ }}").render("x")


def test_a_tokenizer_without_a_template_has_no_chat(tokenizer: Any) -> None:
    assert wrap_tokenizer(tokenizer).chat is None


def test_ids_of_a_text_behind_others(tokenizer: Any) -> None:
    encoder = wrap_tokenizer(tokenizer)
    assert [encoder.piece(i) for i in encoder.ids(" Paris")] == [" Paris"]
    assert "".join(map(encoder.piece, encoder.ids("Paris"))) == "Paris"
    assert encoder.ids("") == ()


def test_a_tokenizer_that_writes_a_first_space_gives_one_token_for_a_word_with_its_space() -> None:
    from tokenizers import decoders, models, normalizers

    vocab = {"<unk>": 0, "▁": 1, "▁Paris": 2, **{c: i for i, c in enumerate("Paris", 3)}}
    merges = [("▁", "P"), ("▁P", "a"), ("▁Pa", "r"), ("▁Par", "i"), ("▁Pari", "s")]
    vocab |= {a + b: 20 + i for i, (a, b) in enumerate(merges) if a + b not in vocab}
    backend = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    encoder = wrap_tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend))
    assert backend.encode(" Paris").ids == [1, 2]
    assert encoder.ids(" Paris") == (2,)
