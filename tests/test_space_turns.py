"""The Space's turns: one visitor with many files keeps nobody else waiting, and cannot fill the queue."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from space_app import FOLDER  # makes the Space's modules known, too

# isort: split
from decoding import VideoProblem
from turns import Turns, Visitors, visitor_of

assert FOLDER.is_dir()


def order_of(turns: Turns, visitors: str) -> str:
    """The order in which requests of visitors, named by letters, get the only place, one after the other."""
    first = turns.join("first")
    waiting = [turns.join(visitor) for visitor in visitors]
    expected = {turn: turn.num_before() for turn in waiting}
    first.leave()
    order = []
    while waiting:
        (turn,) = [turn for turn in waiting if turn.wait(0)]
        assert expected[turn] == len(order) + 1
        order.append(turn.visitor)
        waiting.remove(turn)
        turn.leave()
    return "".join(order)


@pytest.mark.parametrize(
    ("joined", "order"),
    [("abc", "abc"), ("aaab", "abaa"), ("aaabbc", "abcaba"), ("aaaaaaaaaab", "abaaaaaaaaa"), ("bbaa", "baba")],
)
def test_visitors_take_turns(joined, order):
    assert order_of(Turns(1), joined) == order


def test_one_visitor_has_one_place_even_if_others_are_free():
    turns = Turns(2)
    first, second = turns.join("a"), turns.join("a")
    assert first.wait(0) and not second.wait(0)
    assert turns.join("b").wait(0)
    first.leave()
    first.leave()
    assert second.wait(0)


def test_who_leaves_while_waiting_is_forgotten():
    turns = Turns(1)
    with turns.join("a"):
        with turns.join("b") as gone:
            assert not gone.wait(0)
        last = turns.join("c")
        assert last.num_before() == 1
    assert last.wait(0) and last.num_before() == 0
    last.leave()
    assert (turns.waiting, turns.served) == ([], [])


def test_in_threads_each_place_is_held_once():
    turns, held, most = Turns(2), [], []

    def work(visitor: str) -> None:
        for _ in range(20):
            with turns.join(visitor) as turn:
                assert turn.wait(30)
                held.append(visitor)
                most.append(tuple(held))
                held.remove(visitor)

    threads = [threading.Thread(target=work, args=(visitor,)) for visitor in "aabbc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(most) == 100 and max(map(len, most)) <= 2
    assert (turns.waiting, turns.served) == ([], [])


def test_one_visitor_cannot_take_every_place():
    visitors = Visitors(most=5, most_of_one=3)
    mine = [visitors.one_more("a") for _ in range(3)]
    for one in mine:
        one.__enter__()
    with pytest.raises(VideoProblem) as caught, visitors.one_more("a"):
        pass
    assert (caught.value.name, caught.value.values) == ("error_too_many_of_yours", {"limit": 3})
    with visitors.one_more("b"), visitors.one_more("c"):
        with pytest.raises(VideoProblem) as caught, visitors.one_more("d"):
            pass
        assert caught.value.name == "error_too_many"
    mine[0].__exit__(None, None, None)
    with pytest.raises(KeyError), visitors.one_more("a"):
        raise KeyError
    with visitors.one_more("a"):
        pass


def request(forwarded: str | None) -> SimpleNamespace:
    headers = {} if forwarded is None else {"x-forwarded-for": forwarded}
    return SimpleNamespace(headers=headers, client=SimpleNamespace(host="10.0.0.1"))


def test_who_a_visitor_is(monkeypatch):
    public = ".".join(map(str, [8, *np.random.randint(1, 255, 3)]))
    assert visitor_of(request(public)) == "10.0.0.1"  # nobody may choose their own identity
    monkeypatch.setenv("SPACE_ID", "me/demo")
    assert visitor_of(request(public)) == public
    assert visitor_of(request(f"1.1.1.1, {public}, 10.1.2.3, 192.168.0.1")) == public
    assert visitor_of(request("2001:4860:4860::8888")) == "2001:4860:4860::8888"
    for text in (None, "", "nonsense", "10.0.0.2", ","):
        assert visitor_of(request(text)) == "10.0.0.1"
