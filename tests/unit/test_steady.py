"""A failure that nobody foresaw harms what failed, and nothing else."""

import trio
from trio.testing import MockClock

from fastmq.broker.steady import FIRST_PAUSE_S, LONGEST_PAUSE_S, keep_running
from fastmq.errors import ProtocolError
from fastmq.protocol.codes import ResponseCode
from unit.broker_rig import FakePeer, Rig
from unit.pop_rig import rig_at


def times_of_a_service(until_s, *, fails):
    """When the service began, in seconds from the start; `fails(number)` says whether its run ends badly."""
    begun = []

    async def service():
        begun.append(trio.current_time() - start)
        if fails(len(begun)):
            raise ValueError("what nobody foresaw")
        await trio.sleep(2 * LONGEST_PAUSE_S)
        if len(begun) < 5:
            raise ValueError("after a long time")

    async def main():
        nonlocal start
        start = trio.current_time()
        with trio.move_on_after(until_s):
            await keep_running("a test", service)

    start = 0.0
    trio.run(main, clock=MockClock(autojump_threshold=0))
    return [round(at, 3) for at in begun]


def test_a_service_that_fails_begins_again_later_and_later(caplog):
    assert times_of_a_service(130, fails=lambda _: True) == [0, 1, 3, 7, 15, 31, 63, 123]
    assert "the service of a test failed, it goes on in 1 s" in caplog.text
    assert "what nobody foresaw" in caplog.text


def test_after_a_good_time_the_pause_is_short_again():
    begun = times_of_a_service(1000, fails=lambda number: number <= 3)
    assert begun == [0, 1, 3, 7, 7 + 2 * LONGEST_PAUSE_S + FIRST_PAUSE_S]


class Unanswerable(FakePeer):
    """The first answer for it fits into no frame."""

    def reply(self, request, reply):
        if reply.code != ResponseCode.SYSTEM_ERROR:
            raise ProtocolError("too long")
        super().reply(request, reply)


def test_a_held_pull_that_cannot_be_answered_harms_no_other(tmp_path):
    rig = Rig(tmp_path)
    bad, good = Unanswerable(8), FakePeer(9)
    rig.send()
    for peer in (bad, good):
        assert rig.pull(offset=1, peer=peer, sysFlag=6) is None
    rig.send()
    rig.wake()
    assert [reply.code for _, reply in bad.replies] == [ResponseCode.SYSTEM_ERROR]
    assert [reply.code for _, reply in good.replies] == [ResponseCode.SUCCESS]
    for peer in (bad, good):
        assert rig.pull(offset=2, peer=peer, sysFlag=6) is None
    rig.clock.advance_ms(20_000)
    rig.expire_pulls()
    assert [reply.code for _, reply in bad.replies] == [ResponseCode.SYSTEM_ERROR] * 2
    assert good.replies[1][1].code == ResponseCode.PULL_NOT_FOUND
    rig.close()


def test_a_held_pop_that_cannot_be_answered_harms_no_other(tmp_path):
    rig = rig_at(tmp_path)
    bad, good = Unanswerable(8), FakePeer(9)
    rig.send()
    rig.take(group="g1"), rig.take(group="g2")
    assert rig.pop(peer=bad, group="g1", pollTime=15_000) is None
    assert rig.pop(peer=good, group="g2", pollTime=15_000) is None
    rig.send()
    rig.wake()
    assert [reply.code for _, reply in bad.replies] == [ResponseCode.SYSTEM_ERROR]
    assert [reply.code for _, reply in good.replies] == [ResponseCode.SUCCESS]
    rig.close()
