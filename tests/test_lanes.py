"""Edits of many rows in few lanes: what shares numbers, masks and columns."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from saedsl.lanes import Lane, Row, Use, arrange, masks
from saedsl.plan import PlannedPrompt
from saedsl.positions import PositionSet
from saedsl.program import Intervention, Op, Step
from saedsl.sites import Site
from saedsl.tokens import Tokens

SITE = Site(0, "mlp")
EVERY = PositionSet(3, frozenset(range(3)), ((0, 2**62),))
LAST = PositionSet(3, frozenset({2}))


def use(op: Op, columns: tuple[int, ...], where: PositionSet = EVERY, args: tuple[float, ...] = ()) -> Use:
    return Use(0, Intervention(SITE, op, args, "g", columns, part="features"), where, columns)


def row(ids: int = 3, places: tuple[int, ...] | None = None) -> Row:
    tokens = Tokens(tuple(range(ids)), ("x",) * ids, ((0, 0),) * ids, "x" * ids)
    return Row(Step("run", (), 0, (), ()), PlannedPrompt("p", tokens, (), ()), places=places)


def shapes(lanes: list[Lane]) -> list[tuple[str, int, int]]:
    """(kind, columns, rows that act) of each."""
    return [(lane.kind, len(lane.columns), sum(c is not None for c in lane.cells)) for lane in lanes]


def test_a_sweep_over_numbers_is_one_lane_with_the_columns_of_one_row() -> None:
    rows = [[use("amplify", (4, 7), args=(float(v),))] for v in range(5)]
    assert shapes(arrange(rows)) == [("numbers", 2, 5)]


def test_a_sweep_over_what_is_kept_is_one_lane_however_wide() -> None:
    rows = [[use("keep", tuple(i for i in range(1000) if i != kept))] for kept in range(4)]
    assert shapes(arrange(rows)) == [("keep", 1000, 4)]


def test_a_sweep_over_positions_is_one_lane() -> None:
    rows = [[use("ablate", (1,), PositionSet(3, frozenset({p})))] for p in range(3)]
    assert shapes(arrange(rows)) == [("numbers", 1, 3)]


def test_places_and_kinds_of_one_row_are_lanes_of_their_own() -> None:
    both = [use("ablate", (1, 2)), use("set", (3,), args=(1.0,)), use("ablate", (4,), LAST), use("freeze", (5,))]
    assert shapes(arrange([both])) == [("numbers", 3, 1), ("numbers", 1, 1), ("freeze", 1, 1)]


def test_rows_share_the_lane_whose_columns_are_theirs() -> None:
    first = [use("ablate", (1, 2)), use("ablate", (8, 9), LAST)]
    second = [use("ablate", (8, 9), LAST)]
    assert [lane.columns for lane in arrange([first, second])] == [(1, 2), (8, 9)]


def test_one_lane_has_one_column_of_mask_and_padding_is_never_in_it() -> None:
    rows = [row(3).fixed, row(2).fixed]
    lanes = arrange([[use("ablate", (0, 1, 2))], [use("ablate", (1,))]])
    mask = masks(rows, lanes)(0, 4)
    assert isinstance(mask, mx.array)
    assert np.array(mask)[..., 0].tolist() == [[True, True, True, False], [True, True, False, False]]
    assert masks(rows[:1], arrange([[use("ablate", (0,))]]))(0, 3) is True
    assert masks(rows[:1], arrange([[use("ablate", (0,), LAST)]]))(0, 2) is False


def test_several_lanes_have_a_column_of_mask_for_each_of_theirs() -> None:
    lanes = arrange([[use("ablate", (0, 1), LAST), use("ablate", (5,))]])
    mask = masks([row()], lanes)(1, 2)
    assert isinstance(mask, mx.array)
    assert np.array(mask)[0].tolist() == [[False, False, True], [True, True, True]]


def test_positions_go_on_in_generation_and_end_where_they_are_known() -> None:
    assert row().positions(2, 3) == [2, 3, 4]
    assert row(3, (0, 1, 9)).positions(0, 5) == [0, 1, 9, -1, -1]
    assert row(3, (0, 1, 9)).positions(2, 2) == [9, -1]
    assert row(3, (0, 1, 9)).positions(5, 2) == [-1, -1]
