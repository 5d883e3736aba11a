"""Queues shared out by the broker: QUERY_ASSIGNMENT (400), SET_ and GET_ALL_MESSAGE_REQUEST_MODE (401, 402).

After RocketMQ's QueryAssignmentProcessor. A consumer with `clientRebalance=false` asks one broker of the topic for its
queues and for how to get their messages. Every broker has to say the same, so the answer rests on the route of the
topic and on the group's members alone.

    mode   share n                          queues of a member
    PULL                                    its own, by the strategy it names
    POP    n <= 0 or n >= members - 1       every broker as a whole: queue id -1
    POP    fewer members than queues        its own and those of the next n members
    POP    more members than queues         one queue, shared with others
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from fastmq.broker.state.request_modes import MODES, POP, PULL
from fastmq.errors import ProtocolError, RequestError
from fastmq.limits import MAX_QUEUES
from fastmq.net.server import Reply
from fastmq.protocol import names
from fastmq.protocol.bodies import PERM_READ, MessageQueue, MessageRequestMode, TopicRouteData, dumps, loads_lenient
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.command import Command
from fastmq.protocol.headers import GetRouteInfoRequest

if TYPE_CHECKING:
    from fastmq.broker.app import Broker
    from fastmq.broker.dispatch import Handler
    from fastmq.net.server import Peer

log = logging.getLogger("fastmq.broker.assignment")

ROUTE_TIMEOUT_S: Final = 2.0  # of a client's 3 s for QUERY_ASSIGNMENT
ANY_QUEUE: Final = -1


# --- sharing out (pure) -----------------------------------------------------------------------------------------------

Strategy = Callable[[str, list[MessageQueue], list[str]], list[MessageQueue]]
"""(client id, all queues, all members) to the client's queues; both lists sorted, members once each."""


def assign_averagely(client_id: str, queues: list[MessageQueue], clients: list[str]) -> list[MessageQueue]:
    """Neighbouring queues for each client, the first ones get one more (AllocateMessageQueueAveragely)."""
    if client_id not in clients:
        return []
    index = clients.index(client_id)
    each, more = divmod(len(queues), len(clients))
    start = index * each + min(index, more)
    return queues[start : start + each + (1 if index < more else 0)]


def assign_in_circle(client_id: str, queues: list[MessageQueue], clients: list[str]) -> list[MessageQueue]:
    """Every n-th queue for each of n clients (AllocateMessageQueueAveragelyByCircle)."""
    return queues[clients.index(client_id) :: len(clients)] if client_id in clients else []


STRATEGIES: Final[Mapping[str, Strategy]] = {"AVG": assign_averagely, "AVG_BY_CIRCLE": assign_in_circle}


def assign_for_pop(
    client_id: str, queues: list[MessageQueue], clients: list[str], *, strategy: Strategy, share: int
) -> list[MessageQueue]:
    """The queues a member pops from, some of them together with others (allocate4Pop); each once."""
    if share <= 0 or share >= len(clients) - 1:
        brokers = dict.fromkeys((queue.topic, queue.broker_name) for queue in queues)
        return [MessageQueue(topic, broker, ANY_QUEUE) for topic, broker in brokers]
    if client_id not in clients:
        return []
    index = clients.index(client_id)
    if len(clients) > len(queues):
        return [queues[index % len(queues)]] if queues else []
    shared: dict[MessageQueue, None] = {}
    for step in range(share + 1):
        shared.update(dict.fromkeys(strategy(clients[(index + step) % len(clients)], queues, clients)))
    return list(shared)


# --- requests ---------------------------------------------------------------------------------------------------------


async def query_assignment(broker: Broker, peer: Peer, request: Command) -> Reply:
    """QUERY_ASSIGNMENT: the queues of one member of a group, and whether it is to pull or to pop them.

    An unknown topic, group or strategy is answered with an empty object: the client keeps what it has.
    """
    body = loads_lenient(request.body)
    if not isinstance(body, dict):
        raise RequestError(ResponseCode.INVALID_PARAMETER, "the body must be a JSON object")
    topic, group, client_id = (str(body.get(key) or "") for key in ("topic", "consumerGroup", "clientId"))
    queues = await _queues_in_cluster(broker, topic)
    mode = request_mode(broker, topic, group)
    if queues and body.get("messageModel") != "BROADCASTING" and broker.config.server_load_balancer_enable:
        info = broker.sessions.consumer_group(group)
        strategy = STRATEGIES.get(str(body.get("strategyName")))
        if info is None or strategy is None:
            if info is not None:
                log.warning("%s asks for queues by %s, which no broker knows", group, body.get("strategyName"))
            return Reply(body=b"{}")
        members = sorted(info.client_ids())
        if mode.mode == POP:
            share = mode.pop_share_queue_num
            queues = assign_for_pop(client_id, queues, members, strategy=strategy, share=share)
        else:
            queues = strategy(client_id, queues, members)
    elif not queues:
        return Reply(body=b"{}")
    assignments = [{"messageQueue": queue, "mode": mode.mode} for queue in sorted(queues)]
    return Reply(body=dumps({"messageQueueAssignments": assignments}))


def request_mode(broker: Broker, topic: str, group: str) -> MessageRequestMode:
    """How a group gets a topic: as was set for both, else as configured. Retry topics are always pulled."""
    mode = broker.request_modes.get(topic, group)
    if mode is not None:
        return mode
    config = broker.config
    if names.is_retry_topic(topic) or config.default_message_request_mode != POP:
        return MessageRequestMode(topic=topic, consumer_group=group, mode=PULL)
    share = config.default_pop_share_queue_num
    return MessageRequestMode(topic=topic, consumer_group=group, mode=POP, pop_share_queue_num=share)


async def _queues_in_cluster(broker: Broker, topic: str) -> list[MessageQueue]:
    """All queues of a topic that can be read, sorted. Without a name server this broker's own are all there are.

    RequestError if some broker says that it has more queues than a topic may have here: each would be an object.
    """
    name = broker.config.broker_name
    if names.is_light_queue(topic):  # one queue on each broker and no route
        return [MessageQueue(topic, name, 0)]
    ext = GetRouteInfoRequest(topic=topic, accept_standard_json_only=True).encode()
    answer = await broker.registrar.ask(Command(RequestCode.GET_ROUTEINFO_BY_TOPIC, ext=ext), ROUTE_TIMEOUT_S)
    if answer is not None and answer.code == ResponseCode.SUCCESS:
        try:
            route = TopicRouteData.from_json(answer.body)
        except ProtocolError as error:
            log.warning("a name server answered with no route: %s", error)
        else:
            readable = [data for data in route.queue_datas if data.perm & PERM_READ]
            for data in readable:
                if data.read_queue_nums > MAX_QUEUES:
                    raise RequestError(
                        ResponseCode.SYSTEM_ERROR,
                        f"{data.broker_name} has {data.read_queue_nums} queues of {topic}, more than {MAX_QUEUES}",
                    )
            return sorted(
                MessageQueue(topic, data.broker_name, queue_id)
                for data in readable
                for queue_id in range(data.read_queue_nums)
            )
    config = broker.topics.get(topic)
    if config is None or not config.readable:
        return []
    return [MessageQueue(topic, name, queue_id) for queue_id in range(config.read_queue_nums)]


def set_message_request_mode(broker: Broker, peer: Peer, request: Command) -> Reply:
    """SET_MESSAGE_REQUEST_MODE: from its next question on, a group pulls or pops a topic."""
    mode = MessageRequestMode.from_json(request.body)
    if names.is_retry_topic(mode.topic):
        raise RequestError(ResponseCode.NO_PERMISSION, "retry topic is not allowed to set mode")
    if mode.topic not in broker.topics:
        raise RequestError(ResponseCode.TOPIC_NOT_EXIST, f"topic[{mode.topic}] not exist")
    if broker.groups.find_or_create(mode.consumer_group) is None:
        raise RequestError(
            ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST, f"subscription group[{mode.consumer_group}] does not exist"
        )
    if mode.mode not in MODES:
        raise RequestError(ResponseCode.INVALID_PARAMETER, f"mode {mode.mode!r} is neither PULL nor POP")
    broker.request_modes.put(mode)
    log.info("%s gets %s by %s (share %d)", mode.consumer_group, mode.topic, mode.mode, mode.pop_share_queue_num)
    return Reply()


def get_all_message_request_mode(broker: Broker, peer: Peer, request: Command) -> Reply:
    """GET_ALL_MESSAGE_REQUEST_MODE: all modes that were set."""
    return Reply(body=dumps(broker.request_modes.to_body()))


HANDLERS: Final[dict[int, Handler]] = {
    RequestCode.QUERY_ASSIGNMENT: query_assignment,
    RequestCode.SET_MESSAGE_REQUEST_MODE: set_message_request_mode,
    RequestCode.GET_ALL_MESSAGE_REQUEST_MODE: get_all_message_request_mode,
}
