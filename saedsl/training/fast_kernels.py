"""The inner loops of a sparse training step: pure functions on arrays, one part of the work a call.

A sparse [B, F] is `start` [B + 1], `features` and `values` [entries], the features of a row ascending. Letters in
shapes: B tokens, F features, I and O the widths of input and output, P nested dictionaries, 1 unless Matryoshka.
"""

from __future__ import annotations

import numpy as np

from saedsl.training.compiled import compiled
from saedsl.training.sparse import ByFeature, Extra, Sparse

NOTHING = np.float32(1e-30)
"""First moments below it become 0: they move no weight, and the numbers after them are slow."""


@compiled
def _add_rows(out: np.ndarray, W: np.ndarray, rows: np.ndarray, factors: np.ndarray, start: int, end: int) -> None:
    """Add `factors[i] * W[rows[i]]` to `out` for i from `start` to `end`, four at a time."""
    n, i = len(out), start
    while i + 4 <= end:
        a, b, c, d = W[rows[i]], W[rows[i + 1]], W[rows[i + 2]], W[rows[i + 3]]
        fa, fb, fc, fd = factors[i], factors[i + 1], factors[i + 2], factors[i + 3]
        for e in range(n):
            out[e] += (fa * a[e] + fb * b[e]) + (fc * c[e] + fd * d[e])
        i += 4
    while i < end:
        a, fa = W[rows[i]], factors[i]
        for e in range(n):
            out[e] += fa * a[e]
        i += 1


@compiled
def _dot_rows(out: np.ndarray, W: np.ndarray, rows: np.ndarray, x: np.ndarray, start: int, end: int) -> None:
    """`out[i] = W[rows[i]] . x` for i from `start` to `end`, four at a time."""
    n, i = len(x), start
    while i + 4 <= end:
        a, b, c, d = W[rows[i]], W[rows[i + 1]], W[rows[i + 2]], W[rows[i + 3]]
        sa, sb, sc, sd = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for e in range(n):
            sa += a[e] * x[e]
            sb += b[e] * x[e]
            sc += c[e] * x[e]
            sd += d[e] * x[e]
        out[i], out[i + 1], out[i + 2], out[i + 3] = sa, sb, sc, sd
        i += 4
    while i < end:
        a, sa = W[rows[i]], np.float32(0)
        for e in range(n):
            sa += a[e] * x[e]
        out[i] = sa
        i += 1


@compiled
def reconstruct(
    start: np.ndarray,
    features: np.ndarray,
    values: np.ndarray,
    W_dec: np.ndarray,
    ends: np.ndarray,
    scale: np.float32,
    g: np.ndarray,
    df: np.ndarray,
    total: np.ndarray,
) -> float:
    """Decode rows, and take the reconstruction loss's gradients of what was decoded and of the features.

    Args:
        start: [B + 1], where these rows' entries are.
        features: [entries].
        values: [entries].
        W_dec: [F, O].
        ends: [P], where the nested dictionaries end.
        scale: the gradient's, of half a squared error.
        g: [P, B, O]; g[0] is what decoding adds to, `b_dec - y`. They become, for each nested dictionary, the gradient
            of what the features between the one before it and its own end decode to.
        df: [entries], becomes the gradient of the features.
        total: [O], becomes the sum of g[0] over tokens.

    Returns:
        The sum of squared errors over tokens and nested dictionaries.
    """
    loss, last = 0.0, len(ends) - 1
    total[:] = np.float32(0.0)
    for b in range(len(start) - 1):
        at, row_end = start[b], start[b + 1]
        for p in range(last + 1):
            e = g[p, b]
            stop = row_end
            if p < last:
                stop = at
                while stop < row_end and features[stop] < ends[p]:
                    stop += 1
            _add_rows(e, W_dec, features, values, at, stop)
            if p < last:
                g[p + 1, b, :] = e
            at = stop
            squares = np.float32(0.0)
            for i in range(len(e)):
                squares += e[i] * e[i]
                e[i] *= scale
            loss += float(squares)
        for p in range(last - 1, -1, -1):
            e, later = g[p, b], g[p + 1, b]
            for i in range(len(e)):
                e[i] += later[i]
        at = start[b]
        for p in range(last + 1):
            stop = row_end
            if p < last:
                stop = at
                while stop < row_end and features[stop] < ends[p]:
                    stop += 1
            _dot_rows(df, W_dec, features, g[p, b], at, stop)
            at = stop
        e = g[0, b]
        for i in range(len(e)):
            total[i] += e[i]
    return loss


@compiled
def revive(
    start: np.ndarray,
    features: np.ndarray,
    values: np.ndarray,
    W_dec: np.ndarray,
    left: np.ndarray,
    per_left: np.float32,
    scale: np.float32,
    g: np.ndarray,
    df: np.ndarray,
) -> float:
    """Let dead features reconstruct what is left, as `reconstruct` without nested dictionaries.

    Args:
        start: [B + 1], where these rows' entries are.
        features: [entries].
        values: [entries].
        W_dec: [F, O].
        left: [B, O], times `per_left` what the living features leave, x^ - y.
        per_left: see there.
        scale: the gradient's, of half a squared error.
        g: [B, O], becomes the gradient of what is decoded.
        df: [entries], becomes the gradient of the features.

    Returns:
        The sum of squared errors.
    """
    loss = 0.0
    for b in range(len(start) - 1):
        e, of = g[b], left[b]
        for i in range(len(e)):
            e[i] = per_left * of[i]
        _add_rows(e, W_dec, features, values, start[b], start[b + 1])
        squares = np.float32(0.0)
        for i in range(len(e)):
            squares += e[i] * e[i]
            e[i] *= scale
        loss += float(squares)
        _dot_rows(df, W_dec, features, e, start[b], start[b + 1])
    return loss


@compiled
def _sort(
    start: np.ndarray,
    features: np.ndarray,
    values: np.ndarray,
    df: np.ndarray,
    ends: np.ndarray,
    tokens: np.ndarray,
    sorted_values: np.ndarray,
    sorted_df: np.ndarray,
) -> None:
    """The same entries in the order of features, those of one feature in the order of tokens.

    Args:
        start: [B + 1].
        features: [entries].
        values: [entries].
        df: [entries].
        ends: [F + 1] int64, becomes where the entries of each feature start: feature j has `ends[j]` to `ends[j + 1]`.
        tokens: [entries] int32, becomes whose they are.
        sorted_values: [entries], becomes `values`.
        sorted_df: [entries], becomes `df`.
    """
    n_features = len(ends) - 1
    ends[:] = 0
    for i in range(len(features)):
        ends[features[i]] += 1
    at = 0
    for j in range(n_features + 1):
        n = ends[j]
        ends[j] = at
        at += n
    for b in range(len(start) - 1):
        for i in range(start[b], start[b + 1]):
            j = features[i]
            place = ends[j]
            ends[j] = place + 1
            tokens[place], sorted_values[place], sorted_df[place] = b, values[i], df[i]
    for j in range(n_features, 0, -1):
        ends[j] = ends[j - 1]
    ends[0] = 0


def by_feature(of: Sparse, df: np.ndarray, n_features: int) -> ByFeature:
    """`of` and its gradient `df` [entries] in the order of features."""
    n = len(of.values)
    new = ByFeature(
        np.empty(n_features + 1, np.int64), np.empty(n, np.int32), np.empty(n, np.float32), np.empty(n, np.float32)
    )
    _sort(*of, df, *new)
    return new


@compiled
def gradients(
    first: int,
    stop: int,
    living: ByFeature,
    g: np.ndarray,
    revived: ByFeature,
    g_revived: np.ndarray,
    extra: Extra,
    u: np.ndarray,
    W_dec: np.ndarray,
    W_enc: np.ndarray,
    dW_dec: np.ndarray,
    dW_enc: np.ndarray,
    db_enc: np.ndarray,
    moved: np.ndarray,
    through: np.ndarray,
) -> float:
    """Gradients of the weights of some features, W_dec's without its part along the rows.

    Args:
        first: number of the first of the features.
        stop: one more than that of the last.
        living: the features of the batch.
        g: [B, O], the gradient of what these features decode to.
        revived: dead features, as the auxiliary loss uses them.
        g_revived: [B, O], the gradient of what they decode to.
        extra: gradients to add.
        u: [B, I], what the encoder multiplied.
        W_dec: [F, O].
        W_enc: [F, I].
        dW_dec: [F, O], its rows of these features become the gradient; so of all below.
        dW_enc: [F, I].
        db_enc: [F].
        moved: [F] bool: whether there is any gradient; where not, rows of dW_dec and dW_enc are left as they were.
        through: [I], becomes the gradient of what the encoder subtracts, with the opposite sign.

    Returns:
        The sum of the gradients' squares.
    """
    total = 0.0
    through[:] = np.float32(0)
    for j in range(first, stop):
        start, end = living.start[j], living.start[j + 1]
        start_revived, end_revived = revived.start[j], revived.start[j + 1]
        place = extra.places[j]
        moved[j] = end > start or end_revived > start_revived or place >= 0
        db_enc[j] = np.float32(0)
        if not moved[j]:
            continue
        of_dec, of_enc = dW_dec[j], dW_enc[j]
        bias = np.float32(0)
        if place >= 0:
            of_dec[:], of_enc[:], bias = extra.W_dec[place], extra.W_enc[place], extra.b_enc[place]
        else:
            of_dec[:] = np.float32(0)
            of_enc[:] = np.float32(0)
        _add_rows(of_dec, g, living.tokens, living.values, start, end)
        _add_rows(of_enc, u, living.tokens, living.df, start, end)
        _add_rows(of_dec, g_revived, revived.tokens, revived.values, start_revived, end_revived)
        _add_rows(of_enc, u, revived.tokens, revived.df, start_revived, end_revived)
        for i in range(start, end):
            bias += living.df[i]
        for i in range(start_revived, end_revived):
            bias += revived.df[i]
        row, along = W_dec[j], np.float32(0)
        for e in range(len(row)):
            along += of_dec[e] * row[e]
        squares = bias * bias
        for e in range(len(row)):
            of_dec[e] -= along * row[e]
            squares += of_dec[e] * of_dec[e]
        row = W_enc[j]
        for e in range(len(row)):
            squares += of_enc[e] * of_enc[e]
            through[e] += bias * row[e]
        db_enc[j] = bias
        total += float(squares)
    return total


@compiled
def adam(w: np.ndarray, g: np.ndarray, m: np.ndarray, v: np.ndarray, factor: np.float32, rule: np.ndarray) -> None:
    """One step of Adam (arXiv:1412.6980) in place, on arrays [n].

    Args:
        w: the weights.
        g: their gradients.
        m: first moments.
        v: second moments.
        factor: times which the gradients count.
        rule: [7] float32, of `saedsl.training.fast.adam_rule`.
    """
    a, rest_a, b, rest_b, step, unbias, epsilon = rule[0], rule[1], rule[2], rule[3], rule[4], rule[5], rule[6]
    for i in range(len(w)):
        of = factor * g[i]
        first = a * m[i] + rest_a * of
        second = b * v[i] + rest_b * (of * of)
        first = first if abs(first) > NOTHING else np.float32(0.0)
        m[i], v[i] = first, second
        w[i] -= step * first / (np.sqrt(second * unbias) + epsilon)


@compiled
def _adam_without_gradient(w: np.ndarray, m: np.ndarray, v: np.ndarray, rule: np.ndarray) -> None:
    """`adam` where `g` is 0."""
    a, b, step, unbias, epsilon = rule[0], rule[2], rule[4], rule[5], rule[6]
    for i in range(len(w)):
        first, second = a * m[i], b * v[i]
        first = first if abs(first) > NOTHING else np.float32(0.0)
        m[i], v[i] = first, second
        w[i] -= step * first / (np.sqrt(second * unbias) + epsilon)


@compiled
def update_rows(
    w: np.ndarray,
    g: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    moved: np.ndarray,
    factor: np.float32,
    rule: np.ndarray,
    unit: bool,
) -> None:
    """`adam` on the rows of arrays [n, width]; those that have not `moved` have no gradient. `unit`: length 1 then."""
    for j in range(len(w)):
        row = w[j]
        if moved[j]:
            adam(row, g[j], m[j], v[j], factor, rule)
        else:
            _adam_without_gradient(row, m[j], v[j], rule)
        if unit:
            squares = np.float32(0.0)
            for e in range(len(row)):
                squares += row[e] * row[e]
            length = max(np.sqrt(squares), np.float32(1e-12))
            for e in range(len(row)):
                row[e] /= length
