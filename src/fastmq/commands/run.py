"""Does what a client command asks for. One function each, given the flags and where to write."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, BinaryIO, TextIO

from fastmq import sync
from fastmq.client.acl import Credentials
from fastmq.client.errors import ClientError
from fastmq.client.messages import Message, ReceivedMessage
from fastmq.client.subscriptions import Filter, sql
from fastmq.commands.ending import Ending, Told
from fastmq.commands.output import Output, describe
from fastmq.errors import UsageError

EXIT_OK = 0
EXIT_FAILED = 1
DEFAULT_NAMESRV = "127.0.0.1:9876"
SECRET = "FASTMQ_SECRET_KEY"  # noqa: S105  (the name of a variable)


def run(options: argparse.Namespace, env: Mapping[str, str], stdin: BinaryIO, stdout: TextIO, stderr: TextIO) -> int:
    """Run one command; the exit code. UsageError for wrong arguments."""
    name = options.command if "verb" not in options else f"{options.command} {options.verb}"
    out = Output(stdout, as_json=options.json)
    ending = Ending()
    try:
        with ending.listening():
            return COMMANDS[name](Context(options, env, stdin, out, ending)) or EXIT_OK
    except Told as told:
        return 128 + told.number
    except ClientError as error:
        if options.json:
            out.one({"failed": True, "error": str(error), "retryable": error.retryable})
        stderr.write(f"fastmq: {error}\n")
        return EXIT_FAILED


class Context:
    """Flags, input and output of one command."""

    def __init__(
        self, options: argparse.Namespace, env: Mapping[str, str], stdin: BinaryIO, out: Output, ending: Ending
    ) -> None:
        self.options = options
        self.stdin = stdin
        self.out = out
        self.ending = ending
        self.where = options.namesrv or env.get("NAMESRV_ADDR") or DEFAULT_NAMESRV
        self.session: dict[str, Any] = {"namespace": options.namespace}
        if options.access_key:
            secret = env.get(SECRET)
            if not secret:
                raise UsageError(f"--access-key needs the secret in ${SECRET}")
            self.session["credentials"] = Credentials(options.access_key, secret)

    def admin(self) -> sync.Admin:
        return sync.Admin(self.where, **self.session)


# --- messages ---------------------------------------------------------------------------------------------------------


def send(context: Context) -> int:
    """`send`: the ids of what was stored, one line each."""
    options = context.options
    bodies = list(_bodies(context))
    with sync.Producer(context.where, **context.session) as producer:
        for body in bodies:
            for _ in range(options.count):
                message = Message(
                    options.topic,
                    body,
                    tag=options.tag,
                    keys=options.key,
                    properties=_pairs(options.property, "--property"),
                    sharding_key=options.sharding_key,
                    delay_level=options.delay_level,
                    delay=options.delay,
                    deliver_at=None if options.at is None else _time(options.at),
                )
                if options.oneway:
                    producer.send_oneway(message)
                    continue
                result = producer.send(message)
                queue = result.queue
                if context.out.as_json:
                    context.out.one(
                        {
                            "message_id": result.message_id,
                            "broker": queue.broker_name,
                            "queue": queue.queue_id,
                            "offset": result.queue_offset,
                            "status": result.status.name,
                            "recall_handle": result.recall_handle,
                        }
                    )
                else:
                    place = f"{queue.broker_name}:{queue.queue_id}@{result.queue_offset}"
                    context.out.done(f"{result.message_id}  {place}  {result.status.name}")
    return EXIT_OK


def _bodies(context: Context) -> Iterator[bytes]:
    if context.options.body:
        if context.options.lines:
            raise UsageError("--lines is for standard input, there are bodies on the command line")
        yield from (body.encode("utf-8", "surrogateescape") for body in context.options.body)
    elif context.options.lines:
        yield from (line.rstrip(b"\r\n") for line in context.stdin)
    else:
        yield context.stdin.read()


def consume(context: Context) -> int:
    """`consume`: messages as they come; each is committed once it is printed."""
    options = context.options
    start: dict[str, Any] = {"start_from": options.start}
    if options.start not in ("first", "last"):
        start = {"start_time": _time(options.start, "first", "last")}
    wanted: str | Filter = options.tags if options.sql is None else sql(options.sql)
    left = options.count
    consumer = sync.Consumer(
        context.where,
        options.group,
        {options.topic: wanted},
        broadcasting=options.broadcasting,
        **start,
        **context.session,
    )
    printed: dict[tuple[str, str, int], ReceivedMessage] = {}  # the last one of each queue
    with consumer:
        try:
            while left is None or left > 0:
                messages = consumer.poll(32 if left is None else min(32, left), options.timeout)
                if not messages and options.timeout is not None:
                    break
                for message in messages:
                    with context.ending.whole():
                        context.out.message(message, body_only=options.body)
                        queue = message.queue
                        printed[message.stored_topic, queue.broker_name, queue.queue_id] = message
                if left is not None:
                    left -= len(messages)
        except BaseException:
            with contextlib.suppress(ClientError):
                for message in printed.values():
                    consumer.commit(message)
            raise
        consumer.commit()
    return EXIT_OK


def message_show(context: Context) -> int:
    """`message show`."""
    with context.admin() as admin:
        found = admin.message(context.options.id, context.options.topic)
    if found is None:
        hint = "" if context.options.topic else "; the id of a producer needs its topic (-t)"
        raise ClientError(f"there is no message {context.options.id}{hint}")
    context.out.one(describe(found))
    return EXIT_OK


def message_find(context: Context) -> int:
    """`message find`."""
    options = context.options
    with context.admin() as admin:
        found = admin.messages_by_key(options.topic, options.key, limit=options.limit)
    if not found:
        raise ClientError(f"topic {options.topic} has no message with the key {options.key}")
    for message in found:
        context.out.message(message)
    return EXIT_OK


# --- topics -----------------------------------------------------------------------------------------------------------


def topic_list(context: Context) -> int:
    """`topic list`."""
    with context.admin() as admin:
        context.out.rows(["topic"], ([name] for name in admin.topics(system=context.options.system)))
    return EXIT_OK


def topic_show(context: Context) -> int:
    """`topic show`: a row for each queue; people see the settings, too."""
    topic = context.options.topic
    with context.admin() as admin:
        configs, stats = admin.topic_config(topic), admin.topic_stats(topic)
    for broker, config in configs.items():
        queues = f"{config.read_queue_nums} queues to read, {config.write_queue_nums} to write"
        marks = f"{'ordered, ' if config.order else ''}attributes {dict(config.attributes) or '-'}"
        context.out.done(f"{broker}: {queues}, perm {config.perm}, {marks}")
    columns = ["broker", "queue", "min_offset", "max_offset", "last_update_ms"]
    context.out.rows(columns, ([queue.broker_name, queue.queue_id, *range_] for queue, range_ in stats.items()))
    return EXIT_OK


def topic_groups(context: Context) -> int:
    """`topic groups`."""
    with context.admin() as admin:
        context.out.rows(["group"], ([name] for name in admin.topic_groups(context.options.topic)))
    return EXIT_OK


def topic_create(context: Context) -> int:
    """`topic create`."""
    options = context.options
    with context.admin() as admin:
        admin.create_topic(
            options.topic,
            queues=options.queues,
            perm=options.perm,
            ordered=options.ordered,
            attributes=_pairs(options.attribute, "--attribute") or None,
            broker=options.broker,
            cluster=options.cluster,
        )
    context.out.done(f"topic {options.topic} is there")
    return EXIT_OK


def topic_delete(context: Context) -> int:
    """`topic delete`."""
    with context.admin() as admin:
        admin.route(context.options.topic)  # a typing error should not look like success
        admin.delete_topic(context.options.topic)
    context.out.done(f"topic {context.options.topic} is deleted")
    return EXIT_OK


# --- groups -----------------------------------------------------------------------------------------------------------


def group_list(context: Context) -> int:
    """`group list`."""
    with context.admin() as admin:
        context.out.rows(["group"], ([name] for name in admin.groups(system=context.options.system)))
    return EXIT_OK


def group_show(context: Context) -> int:
    """`group show`: how far it is in each queue."""
    options = context.options
    with context.admin() as admin:
        found = admin.progress(options.group, options.topic)
        if not found and options.group not in admin.groups(system=True):
            raise ClientError(f"there is no group {options.group}")
    columns = ["topic", "broker", "queue", "broker_offset", "consumer_offset", "lag", "last_consumed_ms"]
    context.out.rows(
        columns,
        (
            [q.topic, q.broker_name, q.queue_id, p.broker_offset, p.consumer_offset, p.lag, p.last_consumed_ms]
            for q, p in found.items()
        ),
    )
    return EXIT_OK


def group_members(context: Context) -> int:
    """`group members`."""
    with context.admin() as admin:
        view = admin.group_members(context.options.group)
    subscribed = {name: data.sub_string for name, data in view.subscriptions.items()}
    context.out.done(f"{view.message_model}, {view.consume_type}, {view.consume_from}, subscribed to {subscribed}")
    context.out.rows(
        ["client_id", "address", "language", "version"],
        ([one.client_id, one.address, one.language, one.version] for one in view.members),
    )
    return EXIT_OK


def group_create(context: Context) -> int:
    """`group create`."""
    options = context.options
    with context.admin() as admin:
        admin.create_group(
            options.group,
            max_retries=options.max_retries,
            ordered=options.ordered,
            enabled=not options.disabled,
            broker=options.broker,
            cluster=options.cluster,
        )
    context.out.done(f"group {options.group} is there")
    return EXIT_OK


def group_delete(context: Context) -> int:
    """`group delete`."""
    with context.admin() as admin:
        if context.options.group not in admin.groups(system=True):
            raise ClientError(f"there is no group {context.options.group}")
        admin.delete_group(context.options.group, offsets=not context.options.keep_offsets)
    context.out.done(f"group {context.options.group} is deleted")
    return EXIT_OK


def group_reset(context: Context) -> int:
    """`group reset`."""
    options = context.options
    to = {"first": 0.0, "last": None}.get(options.to, "a time")
    when = _time(options.to, "first", "last") if to == "a time" else to
    assert not isinstance(when, str)
    with context.admin() as admin:
        found = admin.reset_offsets(options.group, options.topic, when)
    context.out.rows(["broker", "queue", "offset"], ([q.broker_name, q.queue_id, n] for q, n in found.items()))
    return EXIT_OK


# --- brokers ----------------------------------------------------------------------------------------------------------


def cluster_list(context: Context) -> int:
    """`cluster list`."""
    with context.admin() as admin:
        rows = [
            [one.cluster, one.name, number, address]
            for one in admin.brokers()
            for number, address in sorted(one.addresses.items())
        ]
    context.out.rows(["cluster", "broker", "id", "address"], rows)
    return EXIT_OK


def cluster_show(context: Context) -> int:
    """`cluster show`."""
    with context.admin() as admin:
        context.out.one(dict(sorted(admin.broker_runtime(_known(admin, context)).items())))
    return EXIT_OK


def cluster_config(context: Context) -> int:
    """`cluster config`."""
    with context.admin() as admin:
        context.out.one(dict(sorted(admin.broker_config(_known(admin, context)).items())))
    return EXIT_OK


def cluster_set(context: Context) -> int:
    """`cluster set`."""
    settings = _pairs(context.options.setting, "a setting")
    with context.admin() as admin:
        admin.update_broker_config(_known(admin, context), settings)
    context.out.done(f"{context.options.broker}: {', '.join(settings)} changed")
    return EXIT_OK


def _known(admin: sync.Admin, context: Context) -> str:
    broker: str = context.options.broker
    if broker not in {one.name for one in admin.brokers()}:
        raise ClientError(f"the name server knows no broker {broker}")
    return broker


# --- arguments --------------------------------------------------------------------------------------------------------


def _pairs(texts: Sequence[str], flag: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"{flag} {text}: must be NAME=VALUE")
        pairs[name] = value
    return pairs


def _time(text: str, *others: str) -> datetime:
    """ISO 8601; without a zone it is this machine's. `others`: words that could have stood there, too."""
    with contextlib.suppress(ValueError):
        return datetime.fromisoformat(text).astimezone()
    now = datetime.fromtimestamp(time.time()).isoformat(timespec="seconds")
    words = " or ".join((*others, f"a time like {now}"))
    raise UsageError(f"{text}: not {words}")


COMMANDS: Mapping[str, Callable[[Context], int]] = {
    "send": send,
    "consume": consume,
    "message show": message_show,
    "message find": message_find,
    "topic list": topic_list,
    "topic show": topic_show,
    "topic groups": topic_groups,
    "topic create": topic_create,
    "topic delete": topic_delete,
    "group list": group_list,
    "group show": group_show,
    "group members": group_members,
    "group create": group_create,
    "group delete": group_delete,
    "group reset": group_reset,
    "cluster list": cluster_list,
    "cluster show": cluster_show,
    "cluster config": cluster_config,
    "cluster set": cluster_set,
}
