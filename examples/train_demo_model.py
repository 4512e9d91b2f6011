"""Train the bundled demo model from scratch: text, tokenizer, weights, evaluation.

    python examples/train_demo_model.py                  # 10 to 20 minutes on 2 CPU cores
    python examples/train_demo_model.py --quick --out /tmp/demo   # a smoke run, seconds

Everything follows from `--seed`. The folder that it writes is an ordinary mlx-lm model. Exit status 1 means
that a task stayed below 95 % on combinations that never occur in the training text; then nothing is written.
"""

# ruff: noqa: E402 (the BLAS has to be loaded before mlx)

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

from saedsl.blas import preload

preload()

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models import llama
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from saedsl.demo.tasks import TASKS, YEARS, Example, Task, examples
from saedsl.demo.text import documents
from saedsl.demo.words import LEXICON

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
D_VOCAB = 1024
N_MERGES = 48
"""Byte-pair merges, for words outside the lexicon; the rest are bytes, whole words and two-digit numbers."""

PRETOKEN = r"\p{N}{2}|\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What a token never crosses: digits go in pairs ("1732" is "17" "32"), a word keeps the space before it."""

ARGS: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "intermediate_size": 384,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-5,
    "vocab_size": D_VOCAB,
    "max_position_embeddings": 128,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}

NEEDED_ACCURACY = 0.95


@dataclass(frozen=True)
class Settings:
    """How long and how fast to train."""

    steps: int
    seed: int
    batch: int = 16
    """Rows a step."""
    seq: int = 96
    """Tokens a row; the few documents that are longer are left out."""
    learning_rate: float = 2e-3
    warmup: int = 100
    weight_decay: float = 0.01
    skew: float = 4.0
    """How uneven the choice of words is at first (see `saedsl.demo.text.SkewedRandom`)."""
    skewed_share: float = 0.5
    """Share of the steps over which the choice becomes even. Attention to names and countries forms sooner on
    few of them (Zucchet et al. 2025, arXiv:2503.21676)."""
    n_eval: int = 400
    """Held-out examples a task."""


@dataclass(frozen=True)
class Score:
    """How the model does on one task."""

    accuracy: float
    """Share of prompts after which the likeliest token is a right one."""
    probability: float
    """Mean probability of all right tokens together."""


def build_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """A byte-level BPE tokenizer of `D_VOCAB` tokens in which every word of the lexicon is one token.

    The words stand in the vocabulary whole (`ignore_merges`, as in Llama 3), the merges serve all other text.
    """
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKEN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(piece for piece, _ in splitter.pre_tokenize_str(text))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n"), behavior="removed")
    bpe.train_from_iterator(
        sorted(piece for piece in counts if not piece.isdigit()),
        trainers.BpeTrainer(vocab_size=len(alphabet) + N_MERGES, initial_alphabet=alphabet, show_progress=False),
    )
    merges = [tuple(merge) for merge in json.loads(bpe.to_str())["model"]["merges"]]

    lexicon = ["\u0120" + word for words in LEXICON.values() for word in words]
    frequent = [piece for piece, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    tokens = dict.fromkeys([PAD, BOS, EOS, *alphabet, *YEARS, *("".join(merge) for merge in merges), *lexicon])
    for piece in frequent:
        if len(tokens) == D_VOCAB:
            break
        tokens[piece] = None
    tokenizer = Tokenizer(
        models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges, ignore_merges=True)
    )
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([PAD, BOS, EOS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


def pack(texts: Iterable[str], tokenizer: Tokenizer, seq: int) -> Iterator[list[int]]:
    """Rows of `seq + 1` token ids: whole documents, `<s>` before and `</s>` after each, then padding."""
    vocabulary = tokenizer.get_vocab()
    pad, eos = vocabulary[PAD], vocabulary[EOS]
    row: list[int] = []
    for text in texts:
        ids = [*tokenizer.encode(text).ids, eos]
        if len(ids) > seq + 1:
            continue
        if len(row) + len(ids) > seq + 1:
            yield row + [pad] * (seq + 1 - len(row))
            row = []
        row += ids


@mx.compile
def exp(x: mx.array) -> mx.array:
    """e ** x to within 2e-5, for |x| <= 80: MLX's own is not vectorised on a CPU and takes half of a step."""
    u = mx.clip(x, -80.0, 80.0) / 256
    e = 1 + u * (1 + u * (1 / 2 + u * (1 / 6 + u * (1 / 24 + u / 120))))
    for _ in range(8):
        e = e * e
    return e


@mx.custom_function
def softmax(x: mx.array) -> mx.array:
    """Softmax over the last axis."""
    e = exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@softmax.vjp
def softmax_vjp(x: mx.array, cotangent: mx.array, out: mx.array) -> mx.array:
    weighted = cotangent * out
    return weighted - out * weighted.sum(axis=-1, keepdims=True)


@mx.custom_function
def swiglu(gate: mx.array, x: mx.array) -> mx.array:
    """silu(gate) * x."""
    return gate / (1 + exp(-gate)) * x


@swiglu.vjp
@mx.compile
def swiglu_vjp(primals: list[mx.array], cotangent: mx.array, out: mx.array) -> tuple[mx.array, mx.array]:
    gate, x = primals
    sigmoid = 1 / (1 + exp(-gate))
    silu = gate * sigmoid
    return cotangent * x * (sigmoid + silu * (1 - sigmoid)), cotangent * silu


@mx.custom_function
def cross_entropy(logits: mx.array, targets: mx.array) -> mx.array:
    """-log softmax(logits)[target], one number a position."""
    top = logits.max(axis=-1, keepdims=True)
    found = mx.take_along_axis(logits, targets[..., None], axis=-1)
    return (mx.log(exp(logits - top).sum(axis=-1, keepdims=True)) + top - found)[..., 0]


@cross_entropy.vjp
def cross_entropy_vjp(primals: list[mx.array], cotangent: mx.array, out: mx.array) -> tuple[mx.array, mx.array]:
    logits, targets = primals
    hit = mx.arange(logits.shape[-1]) == targets[..., None]
    probabilities: Any = softmax(logits)
    return (probabilities - hit) * cotangent[..., None], mx.zeros_like(targets)


def attention(queries: mx.array, keys: mx.array, values: mx.array, cache: None, scale: float, mask: str) -> mx.array:
    """Causal attention, [batch, n_heads, seq, d_head] each: what mlx-lm's own computes."""
    seq = queries.shape[2]
    later = mx.triu(mx.full((seq, seq), -1e9), k=1)
    pattern: Any = softmax((queries * scale) @ keys.swapaxes(-1, -2) + later)
    return cast(mx.array, pattern @ values)


def learning_rate_at(step: int, settings: Settings) -> float:
    """Linear warm-up, then a cosine down to zero."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return float(settings.learning_rate * 0.5 * (1 + np.cos(np.pi * done)))


def batches(tokenizer: Tokenizer, settings: Settings) -> Iterator[mx.array]:
    """One batch [batch, seq + 1] a step, of ever new text, from a few words often to all words evenly."""
    for chunk in range(0, settings.steps, 50):
        done = chunk / (settings.steps * settings.skewed_share)
        skew = max(1.0, settings.skew + (1 - settings.skew) * done)
        n_documents = 50 * settings.batch * 8  # more than fit
        texts = documents(n_documents, seed=settings.seed * 1_000_000 + chunk, skew=skew)
        rows = pack(texts, tokenizer, settings.seq)
        for _ in range(min(50, settings.steps - chunk)):
            yield mx.array([next(rows) for _ in range(settings.batch)])


def train(model: nn.Module, tokenizer: Tokenizer, settings: Settings, console: Console) -> None:
    """Train `model` in place, in float32, one pass over freshly made text."""
    pad = tokenizer.token_to_id(PAD)
    optimizer = optim.AdamW(
        settings.learning_rate, betas=[0.9, 0.98], weight_decay=settings.weight_decay, bias_correction=True
    )

    def mean_loss(model: nn.Module, rows: mx.array) -> mx.array:
        targets = rows[:, 1:]
        kept = targets != pad
        losses: Any = cross_entropy(model(rows[:, :-1]), targets)
        return cast(mx.array, (losses * kept).sum() / kept.sum())

    loss_and_grads = nn.value_and_grad(model, mean_loss)
    with (
        patch.object(llama, "swiglu", swiglu),
        patch.object(llama, "scaled_dot_product_attention", attention),
        Progress(console=console) as progress,
    ):
        bar = progress.add_task("training", total=settings.steps)
        for step, rows in enumerate(batches(tokenizer, settings)):
            optimizer.learning_rate = mx.array(learning_rate_at(step, settings))
            loss, grads = loss_and_grads(model, rows)
            grads, _ = optim.clip_grad_norm(grads, 1.0)
            optimizer.update(model, grads)
            mx.eval(loss, model.parameters(), optimizer.state)
            progress.update(bar, advance=1, description=f"loss {loss.item():.3f}")
            if step % 100 == 99:
                accuracies = (
                    f"{task} {evaluate(model, tokenizer, examples(task, 50, 1, 'held_out')).accuracy:.0%}"
                    for task in TASKS
                )
                console.print(f"{step + 1}: loss {loss.item():.3f}, {', '.join(accuracies)}", soft_wrap=True)


def evaluate(model: nn.Module, tokenizer: Tokenizer, found: list[Example]) -> Score:
    """Accuracy and probability of the right answers after the prompts of `found`."""
    right, mass = 0, 0.0
    for start in range(0, len(found), 50):
        part = found[start : start + 50]
        prompts = [tokenizer.encode(example.prompt).ids for example in part]
        longest = max(map(len, prompts))
        padded = mx.array([ids + [0] * (longest - len(ids)) for ids in prompts])
        last = mx.array([len(ids) - 1 for ids in prompts])
        logits = mx.take_along_axis(model(padded), last[:, None, None], axis=1)[:, 0]  # [batch, d_vocab]
        probabilities = np.array(mx.softmax(logits.astype(mx.float32), axis=-1))
        for example, row in zip(part, probabilities, strict=True):
            answers = [tokenizer.encode(answer, add_special_tokens=False).ids[0] for answer in example.answers]
            right += int(row.argmax()) in answers
            mass += float(row[answers].sum())
    return Score(accuracy=right / len(found), probability=mass / len(found))


def write(model: nn.Module, tokenizer: Tokenizer, out: Path) -> None:
    """Write an mlx-lm model folder in float16; `out` is replaced as a whole or left as it was."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
        folder = Path(temporary) / out.name
        folder.mkdir()
        weights = dict(tree_flatten(tree_map(lambda w: w.astype(mx.float16), model.parameters())))
        mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
        tokenizer.save(str(folder / "tokenizer.json"))
        ids = {name: tokenizer.token_to_id(token) for name, token in (("bos", BOS), ("eos", EOS), ("pad", PAD))}
        config = {
            "architectures": ["LlamaForCausalLM"],
            **ARGS,
            "hidden_act": "silu",
            "torch_dtype": "float16",
            **{f"{name}_token_id": token_id for name, token_id in ids.items()},
        }
        tokenizer_config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOS,
            "eos_token": EOS,
            "pad_token": PAD,
            "clean_up_tokenization_spaces": False,
            "model_max_length": ARGS["max_position_embeddings"],
        }
        for name, content in (("config.json", config), ("tokenizer_config.json", tokenizer_config)):
            (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        old = Path(temporary) / "old"
        try:
            if out.exists():
                out.rename(old)
            folder.rename(out)
        except BaseException:  # Ctrl-C between the two
            if old.exists() and not out.exists():
                old.rename(out)
            raise


def main() -> int:
    parser = argparse.ArgumentParser(description="Train the bundled demo model.")
    default_out = Path(__file__).resolve().parent.parent / "saedsl" / "demo" / "data" / "model"
    parser.add_argument("--out", type=Path, default=default_out, help="folder to write (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=2600, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of text, initial weights, order (default: 0)")
    parser.add_argument("--quick", action="store_true", help="a few steps, no demands on accuracy")
    options = parser.parse_args()

    console = Console()
    settings = Settings(steps=options.steps, seed=options.seed)
    if options.quick:
        settings = Settings(steps=3, seed=options.seed, batch=4, warmup=1, n_eval=20)
    started, cpu_started = time.perf_counter(), time.process_time()
    tokenizer = build_tokenizer(documents(2000 if options.quick else 30000, seed=options.seed + 1))
    mx.random.seed(settings.seed)
    model = llama.Model(llama.ModelArgs(**ARGS))
    mx.eval(model.parameters())
    train(model, tokenizer, settings, console)

    model.update(tree_map(lambda w: w.astype(mx.float16).astype(mx.float32), model.parameters()))
    table = Table("task", "held-out accuracy", "probability", title="What the stored weights can do")
    scores: dict[Task, Score] = {}
    for task in TASKS:
        found = examples(task, settings.n_eval, seed=settings.seed, split="held_out")
        scores[task] = evaluate(model, tokenizer, found)
        table.add_row(task, f"{scores[task].accuracy:.1%}", f"{scores[task].probability:.3f}")
    console.print(table)
    console.print(f"{time.perf_counter() - started:.0f} s, {time.process_time() - cpu_started:.0f} s of processor time")
    weak = [task for task in TASKS if scores[task].accuracy < NEEDED_ACCURACY]
    if weak and not options.quick:
        console.print(f"below {NEEDED_ACCURACY:.0%}: {', '.join(weak)}; nothing was written")
        return 1
    write(model, tokenizer, options.out)
    console.print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
