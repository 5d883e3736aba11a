"""`fastmq bench ...`: arguments in, runs and their reports out."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from fastmq.bench import disk
from fastmq.bench.compare import Comparison, compare
from fastmq.bench.driver import Plan, run_plan
from fastmq.bench.plot import page
from fastmq.bench.report import Result
from fastmq.bench.target import LoadError, Queue, assume_queues, find_queues, parse_address, parse_addresses
from fastmq.errors import UsageError

EXIT_OK = 0
EXIT_FAILED = 1
DEFAULT_NAMESRV = "127.0.0.1:9876"
DEFAULT_BATCH = 16
COMPARABLE = ("send", "rate", "pull", "consume", "mixed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `fastmq bench`."""
    loads = parser.add_subparsers(dest="load", required=True, metavar="load")
    _add_loads(loads)
    one = loads.add_parser(
        "disk", help="what the disk can do", description="Measure fdatasync rate and write bandwidth of a directory."
    )
    one.add_argument("directory", metavar="DIR", help="where to write a file of 256 MiB, removed afterwards")
    one.add_argument("-s", "--seconds", type=float, default=2.0, help="for each kind of append (%(default)s)")
    one.add_argument("--json", action="store_true", help="one JSON object instead of text")
    two = loads.add_parser(
        "compare",
        help="one load, two servers, in turn",
        description="A load against two servers in turn, round by round: compare [--rounds N] A B LOAD [flags of it].",
    )
    two.add_argument("a", metavar="A", help="name server, host:port (with --brokers: broker)")
    two.add_argument("b", metavar="B", help="the other one")
    two.add_argument("--rounds", type=int, default=5, help="runs of each (%(default)s)")
    two.add_argument("--brokers", action="store_true", help="A and B are brokers, no name server is asked")
    two.add_argument("--json", action="store_true", help="one JSON object instead of text")
    two.add_argument("--plot", type=_html_file, metavar="FILE.html", help="write the last round as HTML")
    two.add_argument("rest", metavar="LOAD", nargs=argparse.REMAINDER, help=f"{', '.join(COMPARABLE)} with its flags")


def _add_loads(loads: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    send = loads.add_parser(
        "send", help="closed loop of sends", description="Keep so many sends in flight and measure rate and latencies."
    )
    _add_common(send)
    _add_sender(send)
    send.add_argument(
        "-m", "--mode", choices=("sync", "async", "oneway", "batch"), default="async",
        help="sync: one in flight a connection; async: --depth; oneway: unanswered, counted by the queues' growth; "
        "batch: --depth requests of --batch messages (%(default)s)",
    )  # fmt: skip
    _add_depth(send)
    send.add_argument("--verify", action="store_true", help="compare the queues' growth with what was acknowledged")

    rate = loads.add_parser(
        "rate", help="open loop of sends", description="Send at a fixed rate; latency counts from the intended time."
    )
    _add_common(rate)
    _add_sender(rate)
    rate.add_argument("-r", "--rate", type=float, default=20_000, help="messages a second (%(default)g)")
    _add_spin(rate)

    pull = loads.add_parser("pull", help="read a backlog", description="Read topics from the start to their end.")
    _add_common(pull)
    _add_reader(pull)
    pull.add_argument("-c", "--connections", type=int, default=8, help="connections (%(default)s)")
    pull.set_defaults(seconds=3600.0, warm_up=0.0)

    consume = loads.add_parser(
        "consume",
        help="send to receipt",
        description="Send at a fixed rate and long-poll at once: time from the intended send to the receipt.",
    )
    _add_common(consume)
    _add_sender(consume)
    _add_reader(consume)
    consume.add_argument("-r", "--rate", type=float, default=5_000, help="messages a second (%(default)g)")
    _add_spin(consume)
    consume.add_argument("--readers", type=int, default=4, help="connections that pull (%(default)s)")

    mixed = loads.add_parser("mixed", help="sends and pulls at once", description="Closed loop of sends, read at once.")
    _add_common(mixed)
    _add_sender(mixed)
    _add_depth(mixed)
    _add_reader(mixed)
    mixed.add_argument("--readers", type=int, default=4, help="connections that pull (%(default)s)")


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-n",
        "--namesrv",
        metavar="ADDR",
        help=f"name servers, host:port;host:port ($NAMESRV_ADDR, else {DEFAULT_NAMESRV})",
    )
    parser.add_argument("--broker", metavar="ADDR", help="use this broker and ask no name server")
    parser.add_argument("-t", "--topic", default="FastmqBench", help="topic, created if missing (%(default)s)")
    parser.add_argument("--topics", type=int, default=1, metavar="N", help="so many topics: TOPIC-0, TOPIC-1, ...")
    parser.add_argument("-q", "--queues", type=int, default=8, help="queues of a topic that is created (%(default)s)")
    parser.add_argument("-s", "--seconds", type=float, default=10.0, help="how long (%(default)s)")
    parser.add_argument("--warm-up", type=float, default=1.0, metavar="SECONDS", help="not measured (%(default)s)")
    parser.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS", help="for an answer (%(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    parser.add_argument(
        "--plot", type=_html_file, metavar="FILE.html", help="latencies and throughput over time as HTML"
    )


def _html_file(name: str) -> str:
    if Path(name).suffix.lower() not in (".html", ".htm"):
        raise argparse.ArgumentTypeError(f"a plot is written as HTML, and {name} does not end with .html")
    return name


def _add_sender(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", "--connections", type=int, default=8, help="connections that send (%(default)s)")
    parser.add_argument("-b", "--body", type=int, default=1024, metavar="BYTES", help="body of a message (%(default)s)")
    parser.add_argument("--batch", type=int, default=0, metavar="N", help="messages in a request (default: no batches)")
    parser.add_argument("--count", type=int, default=0, help="stop after so many messages, however long it takes")
    parser.add_argument("--tag", default="", help="tag of every message")


def _add_spin(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--spin", action="store_true", help="wait for each send's time without sleeping: exact, and takes a whole core"
    )


def _add_depth(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", "--depth", type=int, default=64, help="requests in flight on each (%(default)s)")


def _add_reader(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pull-batch", type=int, default=32, metavar="N", help="messages a pull (%(default)s)")
    parser.add_argument("--no-check", action="store_true", help="leave the bodies' checksums unchecked")


def run(options: argparse.Namespace, env: Mapping[str, str]) -> int:
    """Run what was asked for; the exit code says whether every request was served."""
    if options.load not in ("disk", "compare") and not options.namesrv:
        options.namesrv = env.get("NAMESRV_ADDR", "").strip() or DEFAULT_NAMESRV
    try:
        if options.load == "disk":
            measures = disk.measure_disk(options.directory, options.seconds)
            print((disk.to_json if options.json else disk.to_text)(options.directory, measures))
            return EXIT_OK
        if options.load == "compare":
            return _run_compare(options)
        result = _run_load(options)
    except LoadError as error:
        if options.json:
            print(json.dumps({"failed": True, "error": str(error)}))
        sys.stderr.write(f"fastmq bench: {error}\n")
        return EXIT_FAILED
    print(result.to_json() if options.json else result.to_text())
    _plot(options.plot, {options.load: result})
    return EXIT_FAILED if result.failed else EXIT_OK


def _run_load(options: argparse.Namespace) -> Result:
    plan = make_plan(options, find(options))
    if options.warm_up > 0:
        warm_up = run_plan(dataclasses.replace(plan, seconds=options.warm_up, count=0), "warm-up")
        if warm_up.failed:
            return warm_up
    return run_plan(plan)


def find(options: argparse.Namespace) -> list[Queue]:
    """The queues that the options name."""
    if options.queues < 1 or options.topics < 1:
        raise UsageError("a load needs at least one topic and one queue")
    topics = [options.topic]
    if options.topics > 1:
        topics = [f"{options.topic}-{number}" for number in range(options.topics)]
    if options.broker:
        return assume_queues(parse_address(options.broker), topics, options.queues)
    return find_queues(parse_addresses(options.namesrv), topics, options.queues, only_read=options.load == "pull")


def make_plan(options: argparse.Namespace, queues: Sequence[Queue]) -> Plan:
    """What the options ask for."""
    plan = Plan(queues=queues, seconds=options.seconds, timeout_s=options.timeout)
    if options.load != "pull":
        if options.connections < 1:
            raise UsageError("a load needs at least one connection")
        plan = dataclasses.replace(
            plan,
            connections=options.connections,
            body_bytes=options.body,
            batch=options.batch,
            count=options.count,
            tag=options.tag,
        )
    if options.load == "send":
        modes = {"sync": {"depth": 1}, "async": {"depth": options.depth}, "batch": {"depth": options.depth}}
        plan = dataclasses.replace(plan, oneway=options.mode == "oneway", check_stored=options.verify)
        plan = dataclasses.replace(plan, **modes.get(options.mode, {}))
        if options.mode == "batch" and not options.batch:
            plan = dataclasses.replace(plan, batch=DEFAULT_BATCH)
    elif options.load in ("rate", "consume"):
        if options.rate <= 0:
            raise UsageError("--rate must be more than 0")
        plan = dataclasses.replace(plan, rate=options.rate, spin=options.spin)
    elif options.load == "mixed":
        plan = dataclasses.replace(plan, depth=options.depth)
    if options.load in ("pull", "consume", "mixed"):
        readers = options.connections if options.load == "pull" else options.readers
        if readers < 1:
            raise UsageError("a load needs at least one connection that pulls")
        plan = dataclasses.replace(
            plan,
            readers=readers,
            live=options.load != "pull",
            pull_batch=options.pull_batch,
            check_bodies=not options.no_check,
        )
    return plan


def _run_compare(options: argparse.Namespace) -> int:
    if options.rounds < 1:
        raise UsageError("--rounds must be at least 1")
    parser = argparse.ArgumentParser(prog="fastmq bench compare A B")
    _add_loads(parser.add_subparsers(dest="load", required=True, metavar="load"))
    rest = options.rest[1:] if options.rest[:1] == ["--"] else options.rest
    shared = parser.parse_args(rest or ["send"])

    def one(address: str) -> Result:
        target = {"broker": address} if options.brokers else {"namesrv": address, "broker": None}
        return _run_load(argparse.Namespace(**{**vars(shared), **target}))

    names = (options.a, options.b)
    comparison: Comparison = compare(names, (lambda: one(options.a), lambda: one(options.b)), options.rounds)
    print(comparison.to_json() if options.json or shared.json else comparison.to_text())
    last = comparison.rounds[-1]
    _plot(options.plot or shared.plot, {f"A {names[0]}": last[0], f"B {names[1]}": last[1]})
    return EXIT_FAILED if comparison.failed else EXIT_OK


def _plot(path: str | None, results: dict[str, Result]) -> None:
    if path is None:
        return
    try:
        Path(path).write_text(page(results), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
