"""The clock waits for devices only when asked to, never goes back, and its fake gives exact times."""

import sys
import time
from types import SimpleNamespace

import pytest
from fake_stream import FakeStream

from fastvlm_bench.machine.clock import Clock, FakeClock


def test_it_counts_seconds_from_its_making() -> None:
    clock = Clock()
    before = clock.now()
    time.sleep(0.02)
    after = clock.synchronised()
    assert 0 <= before < 0.01 and 0.02 <= after - before < 2


def test_the_wall_clock_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock("cpu")
    before = clock.now()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert clock.now() >= before


def test_readings_are_nanoseconds_since_the_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([10**18, 10**18 + 1, 10**18 + 1_500_000_000])
    monkeypatch.setattr(time, "perf_counter_ns", lambda: next(readings))
    clock = Clock()
    assert clock.now() == pytest.approx(1e-9, abs=1e-15)  # a float of seconds since boot would round this away
    assert clock.now() == pytest.approx(1.5)


@pytest.mark.parametrize("device", ["cuda:1", "cuda", "mps"])
def test_a_device_is_waited_for_before_the_time_is_read(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    accelerator = SimpleNamespace(synchronize=lambda name: events.append(f"wait {name}"))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(accelerator=accelerator))
    clock = Clock(device)
    counter = time.perf_counter_ns

    def read() -> int:
        events.append("read")
        return counter()

    monkeypatch.setattr(time, "perf_counter_ns", read)
    clock.now()
    clock.synchronised()
    assert events == ["read", f"wait {device}", "read"]


def test_one_tick_for_all_readings() -> None:
    clock = FakeClock(0.5)
    assert [clock.now(), clock.synchronised(), clock.now()] == [0.0, 0.5, 1.0]
    assert clock.synchronisations == 1


def test_ticks_one_by_one_may_go_back_and_run_out() -> None:
    clock = FakeClock([1.0, 0.0, -2.0])
    assert [clock.now() for _ in range(4)] == [0.0, 1.0, 1.0, -1.0]
    with pytest.raises(AssertionError, match="more often than it has ticks"):
        clock.now()


def test_a_scripted_model_takes_time_of_its_own() -> None:
    clock = FakeClock(0)
    clock.advance(2.0)
    started = clock.now()
    clock.advance(0.25)
    assert (started, clock.now() - started) == (2.0, 0.25)


def test_a_round_is_divided_where_the_device_ends_drafting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host gives drafting away in 1 ms and waits for the rest while it verifies; the device drafts for 5 ms."""
    host, stream = [0.0], FakeStream()
    stream.install(monkeypatch)
    clock = Clock("cuda:0")
    monkeypatch.setattr(clock, "now", lambda: host[0])
    began = clock.mark()
    host[0], stream.now = 0.001, 5.0
    drafted = clock.mark()
    host[0] = 0.008  # the verification's read has waited for all
    assert clock.apart(began, drafted, 0.001, 0.007) == (pytest.approx(0.005), pytest.approx(0.003))
    assert stream.log == ["record", "record", "read"], "nothing waits"
    host[0], stream.now = 0.0, 0.0
    halves = clock.halves()
    host[0], stream.now = 0.001, 5.0
    halves.drafted()
    host[0] = 0.008
    assert halves.seconds() == (pytest.approx(0.005), pytest.approx(0.003))
    host[0] = 0.004  # the two clocks differ by a little: the parts never exceed the whole
    assert clock.apart(began, drafted, 0.001, 0.003) == (0.004, 0.0)


def test_elsewhere_a_round_is_divided_by_the_host() -> None:
    for clock in (Clock("cpu"), FakeClock([])):
        assert clock.mark() is None and clock.apart(None, None, 1.0, 2.0) == (1.0, 2.0)
    clock = FakeClock(0)
    halves = clock.halves()
    clock.advance(0.25)
    halves.drafted()
    clock.advance(2.0)
    assert halves.seconds() == (0.25, 2.0)


def test_a_stamp_waits_for_a_device_without_events(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = list[str]()
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(accelerator=SimpleNamespace(synchronize=waits.append)))
    clock = Clock("mps")
    assert clock.between(clock.stamp(), clock.stamp()) >= 0 and waits == ["mps", "mps"]
    Clock("cpu").stamp()
    assert len(waits) == 2
