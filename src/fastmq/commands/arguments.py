"""The flags of the client commands. Imports nothing of the client: `--help` and completion must be quick."""

from __future__ import annotations

import argparse
import contextlib
import math


def add_arguments(name: str, parser: argparse.ArgumentParser) -> None:
    """The flags of one command."""
    {
        "send": _add_send,
        "consume": _add_consume,
        "topic": _add_topic,
        "group": _add_group,
        "message": _add_message,
        "cluster": _add_cluster,
    }[name](parser)


def _count(text: str) -> int:
    with contextlib.suppress(ValueError):
        if (number := int(text)) >= 1:
            return number
    raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1")


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if (seconds := float(text)) >= 0 and math.isfinite(seconds):
            return seconds
    raise argparse.ArgumentTypeError(f"{text} is not a number of seconds")


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-n", "--namesrv", metavar="ADDR",
        help="name servers, host:port;host:port (default: $NAMESRV_ADDR, else 127.0.0.1:9876)",
    )  # fmt: skip
    parser.add_argument("--namespace", default="", help="namespace of topics and groups")
    parser.add_argument("--access-key", metavar="KEY", help="sign requests with this key; the secret comes from "
                        "$FASTMQ_SECRET_KEY")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def _add_send(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("topic")
    parser.add_argument("body", nargs="*", help="bodies, one message each; without any, standard input is one")
    parser.add_argument("--lines", action="store_true", help="each line of standard input is a message")
    parser.add_argument("--tag", help="what consumers filter by")
    parser.add_argument("--key", action="append", default=[], metavar="KEY", help="to find it by; may be repeated")
    parser.add_argument("--property", action="append", default=[], metavar="NAME=VALUE", help="may be repeated")
    parser.add_argument("--sharding-key", metavar="KEY", help="messages with the same one go to the same queue")
    late = parser.add_mutually_exclusive_group()
    late.add_argument("--delay", type=float, metavar="SECONDS", help="deliver so much later")
    late.add_argument("--delay-level", type=int, default=0, metavar="N", help="deliver later, level 1 to 18")
    late.add_argument("--at", metavar="TIME", help="deliver then (ISO 8601)")
    parser.add_argument("--count", type=_count, default=1, metavar="N", help="send each so often (%(default)s)")
    parser.add_argument("--oneway", action="store_true", help="do not wait for the answer")
    _add_common(parser)


def _add_consume(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("topic")
    parser.add_argument("-g", "--group", default="fastmq-cli", help="consumer group (%(default)s)")
    parser.add_argument(
        "--from", dest="start", default="last", metavar="WHERE",
        help="where a new group begins: first, last or a time (ISO 8601) (%(default)s)",
    )  # fmt: skip
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--tags", metavar="A||B", default="*", help="only messages with one of these tags")
    what.add_argument("--sql", metavar="EXPRESSION", help="only messages whose properties match")
    parser.add_argument("--count", type=_count, metavar="N", help="end after so many messages")
    parser.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="end when nothing came for so long")
    parser.add_argument("--body", action="store_true", help="print bodies only")
    parser.add_argument("--broadcasting", action="store_true", help="get all messages, whoever else is in the group")
    _add_common(parser)


def _verbs(parser: argparse.ArgumentParser) -> argparse._SubParsersAction[argparse.ArgumentParser]:
    return parser.add_subparsers(dest="verb", required=True, metavar="what")


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cluster", help="on the brokers of this cluster only")
    parser.add_argument("--broker", help="on this broker only")


def _add_topic(parser: argparse.ArgumentParser) -> None:
    verbs = _verbs(parser)
    one = verbs.add_parser("list", help="all topics")
    one.add_argument("--system", action="store_true", help="those of the system and of groups, too")
    _add_common(one)
    for verb, words in (("show", "settings, queues and offsets"), ("groups", "who consumes it")):
        one = verbs.add_parser(verb, help=words)
        one.add_argument("topic")
        _add_common(one)
    one = verbs.add_parser("create", help="make or change a topic")
    one.add_argument("topic")
    one.add_argument("-q", "--queues", type=_count, default=8, help="queues on each broker (%(default)s)")
    one.add_argument("--ordered", action="store_true", help="mark it as ordered")
    one.add_argument("--perm", type=int, default=6, help="4 read, 2 write, 6 both (%(default)s)")
    one.add_argument("--attribute", action="append", default=[], metavar="NAME=VALUE", help="may be repeated")
    _add_place(one)
    _add_common(one)
    one = verbs.add_parser("delete", help="delete a topic with its messages")
    one.add_argument("topic")
    _add_common(one)


def _add_group(parser: argparse.ArgumentParser) -> None:
    verbs = _verbs(parser)
    one = verbs.add_parser("list", help="all consumer groups")
    one.add_argument("--system", action="store_true", help="those of the system, too")
    _add_common(one)
    one = verbs.add_parser("show", help="how far it is in each queue")
    one.add_argument("group")
    one.add_argument("-t", "--topic", help="only of this topic")
    _add_common(one)
    one = verbs.add_parser("members", help="who is in it now")
    one.add_argument("group")
    _add_common(one)
    one = verbs.add_parser("create", help="make or change a group")
    one.add_argument("group")
    one.add_argument("--max-retries", type=int, default=16, help="then a message is a dead letter (%(default)s)")
    one.add_argument("--ordered", action="store_true", help="it consumes in order")
    one.add_argument("--disabled", action="store_true", help="it may not consume")
    _add_place(one)
    _add_common(one)
    one = verbs.add_parser("delete", help="delete a group")
    one.add_argument("group")
    one.add_argument("--keep-offsets", action="store_true", help="its offsets stay")
    _add_common(one)
    one = verbs.add_parser("reset", help="let it go on elsewhere")
    one.add_argument("group")
    one.add_argument("topic")
    one.add_argument("to", metavar="WHERE", help="first, last or a time (ISO 8601)")
    _add_common(one)


def _add_message(parser: argparse.ArgumentParser) -> None:
    verbs = _verbs(parser)
    one = verbs.add_parser("show", help="a message by its id")
    one.add_argument("id", help="the id of its producer (with -t) or that of the stored record")
    one.add_argument("-t", "--topic", help="its topic")
    _add_common(one)
    one = verbs.add_parser("find", help="messages by key")
    one.add_argument("topic")
    one.add_argument("key")
    one.add_argument("--limit", type=_count, default=64, help="at most so many (%(default)s)")
    _add_common(one)


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    verbs = _verbs(parser)
    one = verbs.add_parser("list", help="all brokers")
    _add_common(one)
    for verb, words in (("show", "numbers about a broker"), ("config", "its settings")):
        one = verbs.add_parser(verb, help=words)
        one.add_argument("broker")
        _add_common(one)
    one = verbs.add_parser("set", help="change settings of a broker that runs")
    one.add_argument("broker")
    one.add_argument("setting", nargs="+", metavar="NAME=VALUE")
    _add_common(one)
