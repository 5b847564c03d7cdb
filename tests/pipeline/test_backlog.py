"""What waits: the oldest first, and bounded."""

from __future__ import annotations

from retainwise_metrics.datum import Series
from retainwise_metrics.pipeline.backlog import Backlog


def series(name: str) -> Series:
    """A series of one of two namespaces."""
    return Series("Even" if len(name) % 2 == 0 else "Odd", name, (), "None", 60)


def test_windows_that_arrive_out_of_order_are_sent_and_dropped_oldest_first() -> None:
    """Values with a timestamp of their own come whenever they come."""
    backlog = Backlog(max_datums=4, max_distinct=10)
    for window in (120, 60, 180, 0, 240, 60):
        backlog.add(window, series("A"), {1.0: 1})
    assert backlog.oldest() == 0
    assert (backlog.datums, backlog.measurements) == (5, 6)
    assert backlog.overflow() == 1  # that of minute 0
    sent = []
    while backlog:
        sent.append(backlog.peek(backlog.next_namespace()))
        backlog.take(backlog.next_namespace())
    assert [(datum.timestamp, datum.counts) for datum in sent if datum] == [
        (60, (2,)),
        (120, (1,)),
        (180, (1,)),
        (240, (1,)),
    ]
    assert (backlog.datums, backlog.measurements) == (0, 0)


def test_namespaces_take_turns_by_age() -> None:
    """The one whose oldest window is the oldest comes first."""
    backlog = Backlog(max_datums=10, max_distinct=10)
    for window, name in ((60, "AB"), (120, "A"), (0, "A")):
        backlog.add(window, series(name), {1.0: 1})
    order = []
    while backlog:
        namespace = backlog.next_namespace()
        assert backlog.peek(namespace) is not None
        order.append((namespace, backlog.take(namespace).timestamp))
    assert order == [("Odd", 0), ("Even", 60), ("Odd", 120)]
    assert backlog.peek("Odd") is None


def test_an_emptied_window_that_is_used_again_holds_nothing_of_before() -> None:
    """Containers are used again; what was in them is not."""
    backlog = Backlog(max_datums=100, max_distinct=10)
    for window in range(0, 600, 60):
        for name in ("A", "B", "C"):
            backlog.add(window, series(name), {float(window): 1})
        while backlog:
            datum = backlog.peek("Odd")
            assert datum is not None
            assert (datum.timestamp, datum.values) == (window, (float(window),))
            backlog.take("Odd")
