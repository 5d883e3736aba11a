"""`fastmq bench ...`: arguments in, runs and their reports out."""

from __future__ import annotations

import argparse
import sys

from fastmq.bench.driver import LoadError, Target, find_target, parse_address, run_send

EXIT_OK = 0
EXIT_FAILED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `fastmq bench`."""
    loads = parser.add_subparsers(dest="load", required=True, metavar="load")
    send = loads.add_parser(
        "send", help="closed loop of sends", description="Keep so many sends in flight and measure rate and latencies."
    )
    send.add_argument("-n", "--namesrv", metavar="ADDR", default="127.0.0.1:9876", help="name server (%(default)s)")
    send.add_argument("--broker", metavar="ADDR", help="send to this address and ask no name server")
    send.add_argument("-t", "--topic", default="BenchmarkSend", help="topic, created if missing (%(default)s)")
    send.add_argument("--queues", type=int, default=8, help="queues of a topic that is created (%(default)s)")
    send.add_argument("-c", "--connections", type=int, default=8, help="connections (%(default)s)")
    send.add_argument("-d", "--depth", type=int, default=64, help="requests in flight on each (%(default)s)")
    send.add_argument("-b", "--body", type=int, default=1024, metavar="BYTES", help="body of a message (%(default)s)")
    send.add_argument("-s", "--seconds", type=float, default=10.0, help="how long to send (%(default)s)")
    send.add_argument("--count", type=int, default=0, help="stop after so many messages")
    send.add_argument("--warm-up", type=float, default=1.0, metavar="SECONDS", help="not measured (%(default)s)")
    send.add_argument("--json", action="store_true", help="one JSON object instead of text")


def run(options: argparse.Namespace) -> int:
    """Run what was asked for; the exit code says whether every request was served."""
    try:
        if options.broker:
            target = Target(parse_address(options.broker), "", options.queues)
        else:
            target = find_target(parse_address(options.namesrv), options.topic, options.queues)
        shape = {
            "topic": options.topic,
            "connections": options.connections,
            "depth": options.depth,
            "body_bytes": options.body,
        }
        if options.warm_up > 0:
            run_send(target, **shape, seconds=options.warm_up)
        result = run_send(target, **shape, seconds=options.seconds, count=options.count)
    except LoadError as error:
        sys.stderr.write(f"fastmq bench: {error}\n")
        return EXIT_FAILED
    print(result.to_json() if options.json else result.to_text())
    return EXIT_FAILED if result.failed else EXIT_OK
