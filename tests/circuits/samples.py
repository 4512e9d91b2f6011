"""Circuits for tests of exports, figures and pages."""

from __future__ import annotations

import random

from saedsl.circuits.graph import CircuitGraph, Meta, Node

NASTY = [
    "</script><script>alert('x')</script>",
    "quotes \" and ' and `",
    "two\nlines\r\nand\ttabs",
    "100 % of {a_b}^c ~ #1 & $x$",
    "back\\slash \\N \\n \\label",
    "]]> <![CDATA[ --> <!--",
    "naïve 中文 🙂 e\u0301",
    "עברית and العربية \u202e\u2066",
    "\x00\x07\x1b\x7f\ud800\uffff",
    "json:1",
    "&lt;b&gt; &amp; &#10;",
    "  spaces  ",
    "",
    "<%= x %> ${y} {{z}} {%raw%}",
    "\u2028\u2029",
]


def kinds() -> CircuitGraph:
    """A node of every kind, two dictionaries at a site, every attribute, supernodes, an extra of every type."""
    meta = Meta(
        model="org/tiny model", prompts=("The capital of France is",),
        tokens=("<s>", "The", " capital", " of", " France", " is"),
        metric='logit(" Paris") - logit(" Rome")', ablation='mean of "texts.txt"', errors="remove",
        method="integrated gradients, 10 steps", plan_id="0123456789abcdef0123", n_layers=3,
        scores={"faithfulness": 0.97, "completeness": 0.12, "error_share": 0.21},
        supernodes=(("say a capital", ("L1.mlp.f42@5", "g:L1.mlp.f42@5")), ("France", ("L0.mlp.f7@4", "L0.attn.h1@4"))),
        notes={"seed": 3},
    )  # fmt: skip
    graph = CircuitGraph(meta=meta)
    listed: list[tuple[str, float, dict[str, float | str | bool | int]]] = [
        ("embed.t11@2", 0.2, {"label": " capital"}),
        ("embed.t17@4", 0.5, {"label": " France"}),
        ("L0.attn.h1@4", -0.2, {}),
        ("L0.mlp.act.n9@4", 0.1, {}),
        ("L0.mlp@2", 0.15, {}),
        ("L0.mlp.f7@4", 0.6, {"activation": 3.5, "label": "European countries", "influence": 0.3}),
        ("L0.mlp.error@4", -0.1, {"influence": 0.9}),
        ("L1.attn.h3@5", 0.7, {"rank": 1, "hot": True, "share": 0.1, "note": "mover"}),
        ("L1.mlp.f42@5", 0.8, {"activation": 1.25, "label": "say a capital city", "influence": 0.1}),
        ("g:L1.mlp.f42@5", -0.3, {"influence": 0.5}),
        ("t:L1.mlp.tc3@5", 0.3, {"influence": 0.6}),
        ("g:L1.mlp.error@5", 0.05, {"influence": 0.95}),
        ("logits.t31@5", 1.1, {"label": " Paris", "token_prob": 0.8125}),
        ("logits.t20@5", -0.4, {"label": " Rome", "token_prob": 0.0625}),
    ]
    for text, score, more in listed:
        graph.add_typed_node(Node.parse(text), score, **more)  # type: ignore[arg-type]
    for source, target, weight in [
        ("embed.t11@2", "L0.mlp@2", 0.4), ("embed.t17@4", "L0.attn.h1@4", -0.3),
        ("embed.t17@4", "L0.mlp.act.n9@4", 0.2), ("L0.attn.h1@4", "L0.mlp.f7@4", 0.5),
        ("L0.mlp.act.n9@4", "L0.mlp.f7@4", 0.3), ("embed.t17@4", "L0.mlp.error@4", 0.1),
        ("L0.mlp@2", "L1.attn.h3@5", 0.2), ("L0.mlp.f7@4", "L1.attn.h3@5", 0.9),
        ("L0.mlp.error@4", "L1.attn.h3@5", -0.2), ("L1.attn.h3@5", "L1.mlp.f42@5", 1.0),
        ("L1.attn.h3@5", "g:L1.mlp.f42@5", -0.6), ("L1.attn.h3@5", "t:L1.mlp.tc3@5", 0.3),
        ("L1.attn.h3@5", "g:L1.mlp.error@5", 0.05), ("L1.mlp.f42@5", "logits.t31@5", 1.2),
        ("g:L1.mlp.f42@5", "logits.t20@5", 0.4), ("t:L1.mlp.tc3@5", "logits.t31@5", 0.25),
        ("g:L1.mlp.error@5", "logits.t31@5", -0.07), ("L0.mlp.f7@4", "logits.t31@5", 0.35),
    ]:  # fmt: skip
        graph.add_typed_edge(Node.parse(source), Node.parse(target), weight, "attribution", delta=weight / 2)
    return graph


def nasty() -> CircuitGraph:
    """Labels, tokens, prompts and supernodes of the worst kind."""
    tokens = tuple(NASTY)
    meta = Meta(
        model="</title><script>x</script>", prompts=tuple(NASTY), tokens=tokens,
        metric='logit("</script>")', n_layers=2,
        plan_id="</b>", scores={"faithfulness": 1.0}, notes={"n": NASTY},
        supernodes=tuple((label, (f"L1.mlp.f{i}@{i}",)) for i, label in enumerate(NASTY)),
    )  # fmt: skip
    graph = CircuitGraph(meta=meta)
    target = Node.parse(f"logits.t1@{len(NASTY) - 1}")
    graph.add_typed_node(target, 1.0, label=NASTY[0], token_prob=0.5)
    for i, label in enumerate(NASTY):
        node = Node.parse(f"L1.mlp.f{i}@{i}")
        graph.add_typed_node(node, (-1) ** i * 0.1 * (i + 1), label=label, note=label)
        graph.add_typed_edge(node, target, (-1) ** i * 0.1 * (i + 1), "flow", why=label)
    return graph


def free(n: int = 24, seed: int = 0) -> CircuitGraph:
    """Co-activation over two layers, without positions."""
    rng = random.Random(seed)
    graph = CircuitGraph(meta=Meta(model="tiny", method="co-activation, phi", prompts=("a corpus",)))
    found = [Node.of("feature", f"L{1 + i % 2}.mlp", i) for i in range(n)]
    for i, node in enumerate(found):
        graph.add_typed_node(node, 0.0, label=f"topic {i // 6}" if i % 3 == 0 else None)
    for i, u in enumerate(found):
        for j, v in enumerate(found):
            if i < j and (i // 6 == j // 6 or rng.random() < 0.03):
                graph.add_typed_edge(u, v, round(rng.uniform(0.1, 0.9), 3), "coactivation")
    return graph


def large(n: int = 2000, tokens: int = 32, layers: int = 12, seed: int = 0, degree: int = 4) -> CircuitGraph:
    """`n` features of `layers` layers at `tokens` tokens, each read by about `degree` later ones."""
    rng = random.Random(seed)
    words = [" the", " capital", " of", " France", " is", " a", " city", " where", " people", " live"]
    meta = Meta(
        model="demo", prompts=("".join(words[i % len(words)] for i in range(tokens)),), n_layers=layers,
        tokens=tuple(words[i % len(words)] for i in range(tokens)), metric='logit(" Paris")', ablation="zero",
        method="attribution", plan_id="fedcba9876543210", scores={"faithfulness": 0.91, "completeness": 0.08},
    )  # fmt: skip
    graph = CircuitGraph(meta=meta)
    listed: list[Node] = []
    for i in range(tokens):
        listed.append(Node.of("embedding", "embed", i, i))
    while len(listed) < n - 3:
        kind, index = ("error", None) if rng.random() < 0.08 else ("feature", rng.randrange(4096))
        site = f"L{rng.randrange(layers)}.{rng.choice(['mlp', 'resid'])}"
        node = Node.of(
            "error" if kind == "error" else "feature", site, index, min(tokens - 1, int(tokens * rng.random() ** 0.7))
        )
        if node not in listed[-50:]:
            listed.append(node)
    listed += [Node.of("logit", "logits", 31 + i, tokens - 1) for i in range(3)]
    listed = sorted(set(listed))
    for node in listed:
        graph.add_typed_node(
            node,
            round(rng.gauss(0, 0.3), 4),
            influence=round(rng.random(), 4),
            token_prob=0.2 if node.kind == "logit" else None,
        )
    for i, source in enumerate(listed):
        for _ in range(degree):
            target = listed[min(len(listed) - 1, i + 1 + int(rng.random() * 600))]
            if source.depth < target.depth and (source.position or 0) <= (target.position or 0):
                graph.add_typed_edge(source, target, round(rng.gauss(0, 0.4), 4) or 0.1, "attribution")
    return graph
