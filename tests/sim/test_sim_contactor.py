"""The contactor's contacts against its coil."""

import math
import random

from gateway.sim.contactor import BOUNCE_S, Contactor


def contactor(*, closed: bool = True) -> Contactor:
    return Contactor(random.Random(1), closed=closed, operate_s=(0.02, 0.06))


def test_contacts_follow_the_coil_after_their_delay() -> None:
    """Opening takes 20 to 60 ms from the command and happens once."""
    contacts = contactor()
    contacts.command(10.0, close=False)
    states = [contacts.closed]
    move = contacts.step()
    states.append(contacts.closed)
    assert states == [True, False]
    assert not move.closed
    assert 10.02 <= move.t_s <= 10.06
    assert contacts.next_s == math.inf


def test_a_repeated_command_does_not_start_again() -> None:
    """The delay runs from the first command, whatever repeats it."""
    contacts = contactor()
    contacts.command(10.0, close=False)
    due_s = contacts.next_s
    contacts.command(10.01, close=False)
    assert contacts.next_s == due_s


def test_a_reversal_in_time_leaves_the_contacts_where_they_are() -> None:
    """Off and on again within the delay moves nothing."""
    contacts = contactor()
    contacts.command(10.0, close=False)
    contacts.command(10.001, close=True)
    assert contacts.next_s == math.inf
    assert contacts.closed


def test_welded_contacts_close_and_never_open() -> None:
    """Welded means stuck closed; freed, they open at the next command."""
    contacts = contactor(closed=False)
    contacts.command(1.0, close=True, welded=True)
    assert contacts.step().closed
    contacts.command(2.0, close=False, welded=True)
    assert contacts.next_s == math.inf
    contacts.command(3.0, close=False)
    assert not contacts.step().closed


def test_bouncing_contacts_come_to_rest_where_they_should() -> None:
    """Two bounces are five movements a few ms apart, the last one open."""
    contacts = contactor()
    contacts.command(10.0, close=False, bounces=2)
    moves = [contacts.step() for _ in range(5)]
    assert [move.closed for move in moves] == [False, True, False, True, False]
    assert math.isclose(moves[-1].t_s - moves[0].t_s, 4 * BOUNCE_S, abs_tol=1e-9)
    assert contacts.next_s == math.inf
