"""Which files leave, when, and how a full disk is announced and called off."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from fastmq.broker.retention import RetentionService
from fastmq.broker.system import DiskUsage
from fastmq.errors import UsageError
from fastmq.store.retention import RetentionPolicy, Segment, Verdict, decide, parse_delete_when

HOUR = 3600.0
NOW = 1_000_000_000.0
GIB = 1 << 30


def aged(*hours: float) -> list[Segment]:
    """Segments of 1 GiB, oldest first, last changed so many hours ago."""
    return [Segment(i * GIB, GIB, NOW - age * HOUR) for i, age in enumerate(hours)]


def go(segments: list[Segment], **options: object) -> Verdict:
    policy = options.pop("policy", RetentionPolicy())
    arguments: dict[str, object] = {"now_s": NOW, "local_hour": 4, "disk_used": 0.2, **options}
    return decide(segments, policy, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("segments", "options", "count"),
    [
        (aged(100, 80, 10), {}, 2),
        (aged(100, 80, 10), {"local_hour": 5}, 0),
        (aged(100, 80, 10), {"local_hour": 5, "disk_used": 0.76}, 2),
        (aged(100, 80, 10), {"local_hour": 5, "manual": True}, 2),
        (aged(100, 80), {}, 1),  # the last file stays, whatever its age
        (aged(100), {"disk_used": 0.99}, 0),
        (aged(10, 100, 100), {}, 0),  # stops at the first that is not expired
        (aged(3, 2, 1), {"disk_used": 0.86}, 2),  # forced: age does not matter
        (aged(3, 2, 1), {"disk_used": 0.86, "policy": RetentionPolicy(clean_forcibly=False)}, 0),
        (aged(100, 80, 1), {"disk_used": 0.86, "policy": RetentionPolicy(clean_forcibly=False)}, 2),
        (aged(*[100] * 30), {}, 10),
        (aged(3, 2, 1), {"policy": RetentionPolicy(reserved_bytes=2 * GIB)}, 1),
        (aged(3, 2, 1), {"local_hour": 9, "policy": RetentionPolicy(reserved_bytes=2 * GIB - 1)}, 2),
        (aged(3, 2, 1), {"policy": RetentionPolicy(reserved_bytes=1)}, 2),
        (aged(3, 2, 1), {"policy": RetentionPolicy(reserved_bytes=0)}, 0),
        (aged(3, 2, 1), {"disk_used": -1.0}, 0),
        ([], {"disk_used": 0.99}, 0),
    ],
)
def test_which_segments_go(segments: list[Segment], options: dict[str, object], count: int) -> None:
    assert go(segments, **options).count == count


@pytest.mark.parametrize(
    ("used", "full"), [(0.91, True), (0.90, None), (0.86, None), (0.85, None), (0.84, False), (-1.0, False)]
)
def test_disk_state_does_not_flutter(used: float, full: bool | None) -> None:
    assert go(aged(1), disk_used=used).disk_full is full


def test_ratios_are_clamped_like_rocketmq() -> None:
    policy = RetentionPolicy.build(max_used_percent=99, clean_forcibly_percent=99, warning_percent=99)
    assert (policy.max_used_ratio, policy.clean_forcibly_ratio, policy.warning_ratio) == (0.95, 0.85, 0.90)


def test_delete_when() -> None:
    assert parse_delete_when("04") == {4}
    assert parse_delete_when("04;16; 23") == {4, 16, 23}
    for bad in ("", "24", "x", "-1"):
        with pytest.raises(UsageError):
            parse_delete_when(bad)


class FakeStore:
    def __init__(self, ages_h: list[float]) -> None:
        self.files = [(f"{i:020}", i * GIB, GIB, NOW - age * HOUR) for i, age in enumerate(ages_h)]
        self.full: list[bool] = []

    def segments(self) -> list[tuple[str, int, int, float]]:
        return list(self.files)

    def delete_segments(self, count: int) -> int:
        del self.files[:count]
        return count

    def set_disk_full(self, full: bool) -> None:
        self.full.append(full)


class Disk:
    def __init__(self, used: float) -> None:
        self.used = used

    def usage(self, path: str) -> DiskUsage | None:
        free = round(1000 * (1 - self.used))
        return DiskUsage(1000, free, free)


def service(store: FakeStore, disk: Disk, hour: int = 12) -> RetentionService:
    return RetentionService(
        store,
        policy=RetentionPolicy,
        paths=lambda: ("/store",),
        wall_s=lambda: NOW,
        local_hour=lambda now_s: hour,
        usage_of=disk.usage,
    )


def test_full_disk_refuses_messages_and_accepts_them_again() -> None:
    store, disk = FakeStore([3, 2, 1]), Disk(0.95)
    retention = service(store, disk)
    retention.round()
    assert store.full == [True]
    assert len(store.files) == 1, "old files leave at once"
    retention.round()
    disk.used = 0.87
    retention.round()
    assert store.full == [True], "told once, and not called off before there is real space"
    disk.used = 0.5
    retention.round()
    assert store.full == [True, False]


def test_fullest_file_system_counts() -> None:
    usage = {"/a": DiskUsage(100, 60, 60), "/b": DiskUsage(100, 10, 10), "/gone": None}
    retention = RetentionService(
        FakeStore([]), policy=RetentionPolicy, paths=lambda: ("/a", "/b", "/gone"), usage_of=usage.__getitem__
    )
    assert retention.disk_used() == 0.9


def test_operator_request_acts_at_any_hour() -> None:
    store = FakeStore([100, 90, 1])
    retention = service(store, Disk(0.1))

    async def scenario() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(retention.run)
            await trio.testing.wait_all_tasks_blocked()
            assert len(store.files) == 3
            retention.request()
            with trio.fail_after(60):
                while len(store.files) != 1:
                    await trio.testing.wait_all_tasks_blocked(0.001)
            nursery.cancel_scope.cancel()

    trio.run(scenario)


def test_nightly_hour_is_noticed_by_the_loop() -> None:
    store = FakeStore([100, 90, 1])
    retention = service(store, Disk(0.1), hour=4)

    async def scenario() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(retention.run)
            while len(store.files) != 1:
                await trio.sleep(5)
                assert trio.current_time() < 1000
            assert trio.current_time() >= 60, "not in the first minute after a start"
            nursery.cancel_scope.cancel()

    trio.run(scenario, clock=trio.testing.MockClock(autojump_threshold=0.05))
