"""Admin: topics, groups, offsets, messages and the cluster, as an operator sees them (RocketMQ's DefaultMQAdminExt).

What concerns a topic or group is asked of, or told to, the masters of all brokers that have it, and put together.
Names have no namespace here unless the session has one, which is then added and taken off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar, Unpack

from fastmq.client.errors import BrokerError, ClientError, NotSupported, RouteError, broker_error
from fastmq.client.member import SessionUser
from fastmq.client.messages import ReceivedMessage, decode_page
from fastmq.client.routes import Route
from fastmq.client.session import SUCCESS, Session, SessionOptions, command
from fastmq.client.subscriptions import to_ms
from fastmq.client.views import (
    BrokerView,
    ConsumedDirectly,
    GroupView,
    Member,
    QueueProgress,
    QueueRange,
    read_consumed,
    read_group,
    read_members,
    read_progress,
    read_topic_stats,
)
from fastmq.errors import ProtocolError, UsageError
from fastmq.properties import parse_properties
from fastmq.protocol import message as m
from fastmq.protocol import names
from fastmq.protocol.bodies import (
    PERM_READ,
    PERM_WRITE,
    ClusterInfo,
    GroupList,
    KVTable,
    MessageQueue,
    ResetOffsetBody,
    SubscriptionGroupConfig,
    SubscriptionGroupTable,
    TopicConfig,
    TopicConfigTable,
    TopicList,
    dumps,
)
from fastmq.protocol.bodies._read import read_object
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.command import Command

T = TypeVar("T")

CALL_SECONDS: Final = 5.0
RELAY_SECONDS: Final = 12.0  # a broker waits 10 s for a client
_MAX_LONG: Final = (1 << 63) - 1


class Admin(SessionUser):
    """Administration. Use it inside `async with`. `where`: addresses of name servers, or a Session."""

    def __init__(self, where: str | Sequence[str] | Session | None = None, **options: Unpack[SessionOptions]) -> None:
        super().__init__(where, options)

    async def _open(self) -> None:
        """Nothing to do: the first call connects."""

    async def _close(self) -> None:
        """Nothing to do."""

    # --- who is asked ------------------------------------------------------------------------------------------------

    async def brokers(self) -> list[BrokerView]:
        """All brokers that the name server knows."""
        reply = await self.session.call_name_server(lambda: command(RequestCode.GET_BROKER_CLUSTER_INFO))
        info = _read(ClusterInfo.from_json, reply)
        return [
            BrokerView(one.broker_name, one.cluster, dict(one.broker_addrs))
            for _, one in sorted(info.broker_addr_table.items())
        ]

    async def clusters(self) -> dict[str, list[str]]:
        """The clusters and the names of their brokers."""
        found: dict[str, list[str]] = {}
        for broker in await self.brokers():
            found.setdefault(broker.cluster, []).append(broker.name)
        return found

    async def _masters(self, broker: str | None = None, cluster: str | None = None) -> dict[str, str]:
        """Name → address of the masters that are meant. Raises RouteError if there is none."""
        found = {
            one.name: one.addresses[0]
            for one in await self.brokers()
            if 0 in one.addresses and broker in (None, one.name) and cluster in (None, one.cluster)
        }
        if not found:
            raise RouteError(
                f"no broker{f' {broker}' if broker else ''}{f' of cluster {cluster}' if cluster else ''} has a master"
            )
        return found

    async def _masters_of(self, topic: str) -> dict[str, str]:
        route = await self.session.route(self.session.wrap(topic), refresh=True)
        found = {name: addresses[0] for name, addresses in route.brokers.items() if 0 in addresses}
        if not found:
            raise RouteError(f"no broker of topic {topic} has a master")
        return found

    async def _call(self, address: str, code: int, ext: dict[str, str] | None = None, body: bytes = b"") -> Command:
        return await self.session.call(address, command(code, ext, body), timeout=CALL_SECONDS, accept=SUCCESS)

    # --- topics ------------------------------------------------------------------------------------------------------

    async def topics(self, *, system: bool = False) -> list[str]:
        """All topics; with `system` also those of the system and of groups (retry, dead letters)."""
        reply = await self.session.call_name_server(lambda: command(RequestCode.GET_ALL_TOPIC_LIST_FROM_NAMESERVER))
        listed = set(_read(TopicList.from_json, reply).topic_list)
        if not system:
            reply = await self.session.call_name_server(lambda: command(RequestCode.GET_SYSTEM_TOPIC_LIST_FROM_NS))
            hidden = set(_read(TopicList.from_json, reply).topic_list)
            for broker in await self.brokers():
                hidden |= {broker.name, broker.cluster, names.reply_topic(broker.cluster)}
            listed = {one for one in listed - hidden if not _is_internal(one)}
        return sorted(map(self.session.unwrap, listed))

    async def route(self, topic: str) -> Route:
        """Where a topic is. Raises TopicNotFound."""
        return await self.session.route(self.session.wrap(topic), refresh=True)

    async def create_topic(
        self,
        topic: str,
        *,
        queues: int = 8,
        read_queues: int | None = None,
        write_queues: int | None = None,
        perm: int = PERM_READ | PERM_WRITE,
        ordered: bool = False,
        attributes: Mapping[str, str] | None = None,
        broker: str | None = None,
        cluster: str | None = None,
    ) -> None:
        """Make a topic, or change it, on all brokers, those of a cluster, or one. `perm`: 4 read, 2 write."""
        wire = self.session.wrap(topic)
        wrong = names.validate_topic(wire)
        if wrong:
            raise UsageError(wrong)
        ext = {
            "topic": wire,
            "defaultTopic": names.AUTO_CREATE_TOPIC,
            "readQueueNums": str(queues if read_queues is None else read_queues),
            "writeQueueNums": str(queues if write_queues is None else write_queues),
            "perm": str(perm),
            "topicFilterType": "SINGLE_TAG",
            "topicSysFlag": "0",
            "order": "true" if ordered else "false",
        }
        if attributes:
            ext["attributes"] = ",".join(f"+{name}={value}" for name, value in attributes.items())
        for address in (await self._masters(broker, cluster)).values():
            await self._call(address, RequestCode.UPDATE_AND_CREATE_TOPIC, dict(ext))

    async def topic_config(self, topic: str) -> dict[str, TopicConfig]:
        """Broker name → the topic's settings there. Raises TopicNotFound."""
        wire = self.session.wrap(topic)
        found: dict[str, TopicConfig] = {}
        for name, address in (await self._masters_of(topic)).items():
            try:
                reply = await self._call(address, RequestCode.GET_TOPIC_CONFIG, {"topic": wire})
            except NotSupported:  # RocketMQ 4 has all of them or none
                reply = await self._call(address, RequestCode.GET_ALL_TOPIC_CONFIG)
                table = _read(TopicConfigTable.from_json, reply).topic_config_table
                if wire not in table:
                    remark = f"broker {name} has no topic {wire}"
                    raise broker_error(ResponseCode.TOPIC_NOT_EXIST, remark, address) from None
                found[name] = table[wire]
            else:
                found[name] = _read(TopicConfig.from_json, reply)
        return found

    async def delete_topic(self, topic: str) -> None:
        """Delete a topic with its messages, on all brokers and name servers."""
        wire = self.session.wrap(topic)
        for address in (await self._masters()).values():
            await self._call(address, RequestCode.DELETE_TOPIC_IN_BROKER, {"topic": wire})
        failure: ClientError | None = None
        for address in self.session.name_servers.addresses:
            try:
                await self._call(address, RequestCode.DELETE_TOPIC_IN_NAMESRV, {"topic": wire})
            except ClientError as error:
                failure = error
        self.session.routes.drop(wire)
        if failure is not None:
            raise failure

    async def topic_stats(self, topic: str) -> dict[MessageQueue, QueueRange]:
        """The offsets of each queue. Raises TopicNotFound."""
        wire = self.session.wrap(topic)
        found: dict[MessageQueue, QueueRange] = {}
        for address in (await self._masters_of(topic)).values():
            reply = await self._call(address, RequestCode.GET_TOPIC_STATS_INFO, {"topic": wire})
            found.update(self._shown(_read(read_topic_stats, reply)))
        return found

    async def topic_groups(self, topic: str) -> list[str]:
        """The groups that consume a topic, or did."""
        wire = self.session.wrap(topic)
        found: set[str] = set()
        for address in (await self._masters_of(topic)).values():
            reply = await self._call(address, RequestCode.QUERY_TOPIC_CONSUME_BY_WHO, {"topic": wire})
            found.update(_read(GroupList.from_json, reply).group_list)
        return sorted(map(self.session.unwrap, found))

    def _shown(self, table: Mapping[MessageQueue, Any]) -> dict[MessageQueue, Any]:
        unwrap = self.session.unwrap
        return {
            MessageQueue(unwrap(queue.topic), queue.broker_name, queue.queue_id): value
            for queue, value in sorted(table.items())
        }

    # --- groups ------------------------------------------------------------------------------------------------------

    async def groups(self, *, system: bool = False) -> list[str]:
        """All consumer groups; with `system` also those of the system."""
        found: set[str] = set()
        for address in (await self._masters()).values():
            reply = await self._call(address, RequestCode.GET_ALL_SUBSCRIPTIONGROUP_CONFIG)
            found.update(_read(SubscriptionGroupTable.from_json, reply).subscription_group_table)
        if not system:
            found = {one for one in found if not names.is_system_group(one) and not names.is_predefined_group(one)}
        return sorted(map(self.session.unwrap, found))

    async def group_config(self, group: str) -> dict[str, SubscriptionGroupConfig]:
        """Broker name → the group's settings there. Raises GroupNotFound if no broker has it."""
        wire = self.session.wrap(group)
        found: dict[str, SubscriptionGroupConfig] = {}
        missing: BrokerError | None = None
        for name, address in (await self._masters()).items():
            try:
                found[name] = await self._group_config_at(address, wire)
            except BrokerError as error:
                if error.code != ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST:
                    raise
                missing = error
        if not found and missing is not None:
            raise missing
        return found

    async def _group_config_at(self, address: str, group: str) -> SubscriptionGroupConfig:
        try:
            reply = await self._call(address, RequestCode.GET_SUBSCRIPTIONGROUP_CONFIG, {"group": group})
        except NotSupported:  # RocketMQ 4 has all of them or none
            reply = await self._call(address, RequestCode.GET_ALL_SUBSCRIPTIONGROUP_CONFIG)
            table = _read(SubscriptionGroupTable.from_json, reply).subscription_group_table
            if group not in table:
                remark = f"subscription group {group} does not exist"
                raise broker_error(ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST, remark, address) from None
            return table[group]
        return _read(SubscriptionGroupConfig.from_json, reply)

    async def create_group(
        self,
        group: str,
        *,
        max_retries: int = 16,
        ordered: bool = False,
        enabled: bool = True,
        broadcasting: bool = True,
        broker: str | None = None,
        cluster: str | None = None,
    ) -> None:
        """Make a consumer group, or change it, on all brokers, those of a cluster, or one."""
        wrong = names.validate_group(group)
        if wrong:
            raise UsageError(wrong)
        config = SubscriptionGroupConfig(
            self.session.wrap(group),
            consume_enable=enabled,
            consume_broadcast_enable=broadcasting,
            consume_message_orderly=ordered,
            retry_max_times=max_retries,
        )
        for address in (await self._masters(broker, cluster)).values():
            await self._call(address, RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, body=dumps(config))

    async def delete_group(self, group: str, *, offsets: bool = True) -> None:
        """Delete a consumer group on all brokers, with its offsets unless they are to stay."""
        ext = {"groupName": self.session.wrap(group), "cleanOffset": "true" if offsets else "false"}
        for address in (await self._masters()).values():
            await self._call(address, RequestCode.DELETE_SUBSCRIPTIONGROUP, dict(ext))

    async def group_members(self, group: str) -> GroupView:
        """Who is in a consumer group now. Raises BrokerError (206) if nobody is."""
        return await self._first(
            RequestCode.GET_CONSUMER_CONNECTION_LIST, {"consumerGroup": self.session.wrap(group)}, read_group
        )

    async def producer_members(self, group: str) -> list[Member]:
        """Who is in a producer group now. Raises BrokerError if nobody is."""
        return list(
            await self._first(
                RequestCode.GET_PRODUCER_CONNECTION_LIST,
                {"producerGroup": self.session.wrap(group)},
                lambda body: read_members(read_object(body, "a producer group")),
            )
        )

    async def _first(self, code: int, ext: dict[str, str], read: Callable[[bytes], T]) -> T:
        """The answer of the first broker that has one."""
        failure: ClientError | None = None
        for address in (await self._masters()).values():
            try:
                return _read(read, await self._call(address, code, dict(ext)))
            except ClientError as error:
                failure = error
        assert failure is not None
        raise failure

    # --- offsets -----------------------------------------------------------------------------------------------------

    async def progress(self, group: str, topic: str | None = None) -> dict[MessageQueue, QueueProgress]:
        """How far a group is in each queue of a topic, or of all it has offsets for. Empty if it has none."""
        ext = {"consumerGroup": self.session.wrap(group)}
        if topic is not None:
            ext["topic"] = self.session.wrap(topic)
        found: dict[MessageQueue, QueueProgress] = {}
        for address in (await self._masters()).values():
            try:
                reply = await self._call(address, RequestCode.GET_CONSUME_STATS, dict(ext))
            except BrokerError as error:
                if error.code != ResponseCode.TOPIC_NOT_EXIST:
                    raise
            else:
                found.update(self._shown(_read(read_progress, reply)))
        return found

    async def reset_offsets(self, group: str, topic: str, to: datetime | float | None) -> dict[MessageQueue, int]:
        """Let a group go on with messages stored at a time (seconds since the epoch, or a datetime), or with None at
        the end. Returns the offsets. Members that run go on there, too.
        """
        ext = {
            "topic": self.session.wrap(topic),
            "group": self.session.wrap(group),
            "timestamp": "-1" if to is None else str(to_ms(to)),
            "isForce": "true",
            "queueId": "-1",
        }
        found: dict[MessageQueue, int] = {}
        for name, address in (await self._masters_of(topic)).items():
            try:
                reply = await self._call(address, RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, dict(ext))
            except BrokerError as error:
                if error.code != ResponseCode.CONSUMER_NOT_ONLINE:
                    raise
                # RocketMQ 4 leaves it to members that run: without them nobody else stores offsets
                found.update(self._shown(await self._reset_at(name, group, topic, to)))
            else:
                found.update(self._shown(_read(ResetOffsetBody.from_json, reply).offset_table))
        return found

    async def _reset_at(
        self, broker: str, group: str, topic: str, to: datetime | float | None
    ) -> dict[MessageQueue, int]:
        found: dict[MessageQueue, int] = {}
        for queue in (await self.session.route(self.session.wrap(topic))).read_queues:
            if queue.broker_name != broker:
                continue
            ext = {"topic": queue.topic, "queueId": str(queue.queue_id)}
            code = RequestCode.GET_MAX_OFFSET
            if to is not None:
                code = RequestCode.SEARCH_OFFSET_BY_TIMESTAMP
                ext["timestamp"] = str(to_ms(to))
            reply = await self.session.call_broker(broker, command(code, ext), timeout=CALL_SECONDS)
            try:
                offset = found[queue] = int(reply.ext["offset"])
            except (KeyError, ValueError) as error:
                raise BrokerError(reply.code, f"no offset in the answer: {error!r}", broker) from None
            await self._store_offset(group, queue, offset)
        return found

    async def set_offset(self, group: str, queue: MessageQueue, offset: int) -> None:
        """Store an offset of a group that has no running members."""
        await self._masters_of(queue.topic)
        await self._store_offset(
            group, MessageQueue(self.session.wrap(queue.topic), queue.broker_name, queue.queue_id), offset
        )

    async def _store_offset(self, group: str, queue: MessageQueue, offset: int) -> None:
        ext = {
            "consumerGroup": self.session.wrap(group),
            "topic": queue.topic,
            "queueId": str(queue.queue_id),
            "commitOffset": str(offset),
        }
        await self.session.call_broker(queue.broker_name, command(RequestCode.UPDATE_CONSUMER_OFFSET, ext))

    # --- messages ----------------------------------------------------------------------------------------------------

    async def message(self, message_id: str, topic: str | None = None) -> ReceivedMessage | None:
        """A message by either of its ids: that of the stored record, or, with its topic, the one of its producer."""
        if topic is not None:
            found = await self.messages_by_key(topic, message_id, unique=True)
            if found:
                return found[0]
        try:
            host, port, log_offset = m.parse_message_id(message_id)
        except ValueError:
            return None
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            # without such a broker the id is one of a producer
            known = {one: view.name for view in await self.brokers() for one in view.addresses.values()}
            if address not in known:
                return None
            reply = await self._call(address, RequestCode.VIEW_MESSAGE_BY_ID, {"offset": str(log_offset)})
        except BrokerError as error:
            if error.code in (ResponseCode.SYSTEM_ERROR, ResponseCode.QUERY_NOT_FOUND):
                return None
            raise
        return self._page(reply, known[address])[0]

    async def messages_by_key(
        self,
        topic: str,
        key: str,
        *,
        limit: int = 64,
        begin: datetime | float | None = None,
        end: datetime | float | None = None,
        unique: bool = False,
    ) -> list[ReceivedMessage]:
        """The messages of a topic with a key, oldest first; with `unique` the one with that id of its producer."""
        wire = self.session.wrap(topic)
        ext = {
            "topic": wire,
            "key": key,
            "maxNum": str(limit),
            "beginTimestamp": str(0 if begin is None else to_ms(begin)),
            "endTimestamp": str(_MAX_LONG if end is None else to_ms(end)),
            "_UNIQUE_KEY_QUERY": "true" if unique else "false",
        }
        accept = {int(ResponseCode.SUCCESS), int(ResponseCode.QUERY_NOT_FOUND)}
        found: list[ReceivedMessage] = []
        for name, address in (await self._masters_of(topic)).items():
            request = command(RequestCode.QUERY_MESSAGE, dict(ext))
            reply = await self.session.call(address, request, timeout=CALL_SECONDS, accept=accept)
            if reply.code == ResponseCode.SUCCESS:
                # brokers look up hashes
                found += [
                    one
                    for one in self._page(reply, name)
                    if one.stored_topic == wire and (one.message_id == key if unique else key in one.keys)
                ]
        return sorted(found, key=lambda one: one.store_timestamp)[:limit]

    def _page(self, reply: Command, broker_name: str) -> list[ReceivedMessage]:
        try:
            return decode_page(reply.body, broker_name, self.session.namespace)
        except ProtocolError as error:
            raise BrokerError(reply.code, f"the messages cannot be read: {error}") from error

    # --- clients -----------------------------------------------------------------------------------------------------

    async def running_info(self, group: str, client_id: str, *, stacks: bool = False) -> dict[str, Any]:
        """What a consumer tells of itself, as RocketMQ's ConsumerRunningInfo."""
        ext = {
            "consumerGroup": self.session.wrap(group),
            "clientId": client_id,
            "jstackEnable": "true" if stacks else "false",
        }
        reply = await self._relay(RequestCode.GET_CONSUMER_RUNNING_INFO, ext)
        return dict(_read(lambda body: read_object(body, "running info"), reply))

    async def consume_directly(self, group: str, client_id: str, message: ReceivedMessage) -> ConsumedDirectly:
        """Let a consumer consume a message now, whatever its offsets."""
        ext = {
            "consumerGroup": self.session.wrap(group),
            "clientId": client_id,
            "msgId": message.offset_id,
            "topic": message.stored_topic,
        }
        return _read(read_consumed, await self._relay(RequestCode.CONSUME_MESSAGE_DIRECTLY, ext))

    async def _relay(self, code: int, ext: dict[str, str]) -> Command:
        failure: ClientError | None = None
        for address in (await self._masters()).values():
            try:
                return await self.session.call(address, command(code, dict(ext)), timeout=RELAY_SECONDS)
            except ClientError as error:
                failure = error
        assert failure is not None
        raise failure

    # --- brokers -----------------------------------------------------------------------------------------------------

    async def broker_runtime(self, broker: str) -> dict[str, str]:
        """Numbers about a broker, by the names of GET_BROKER_RUNTIME_INFO."""
        address = (await self._masters(broker))[broker]
        return dict(_read(KVTable.from_json, await self._call(address, RequestCode.GET_BROKER_RUNTIME_INFO)).table)

    async def broker_config(self, broker: str) -> dict[str, str]:
        """The settings of a broker."""
        address = (await self._masters(broker))[broker]
        reply = await self._call(address, RequestCode.GET_BROKER_CONFIG)
        return parse_properties(reply.body.decode("utf-8", "replace"))

    async def update_broker_config(self, broker: str, settings: Mapping[str, str]) -> None:
        """Change settings of a broker that runs."""
        address = (await self._masters(broker))[broker]
        text = "".join(f"{name}={value}\n" for name, value in settings.items())
        await self._call(address, RequestCode.UPDATE_BROKER_CONFIG, body=text.encode())


def _is_internal(topic: str) -> bool:
    return names.is_system_topic(topic) or names.is_retry_topic(topic) or names.is_dlq_topic(topic)


def _read(read: Callable[[bytes], T], reply: Command) -> T:
    """The body of an answer. Raises BrokerError if it cannot be read."""
    try:
        return read(reply.body)
    except ProtocolError as error:
        raise BrokerError(reply.code, f"the answer cannot be read: {error}") from error
