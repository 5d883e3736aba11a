"""The command line: arguments in, configuration and the right function of `serve` out. No logic of its own.

Exit codes: 0 stopped in order, 1 failed, 2 wrong arguments or settings. Everything slow to import is imported by the
command that needs it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from fastmq import __version__
from fastmq.errors import UsageError

EXIT_FAILED = 1
EXIT_USAGE = 2
NAMESRV_PREFIX = "namesrv."
SERVE_DATA = "fastmq-data"
CLIENT_COMMANDS: Mapping[str, str] = {
    "send": "send messages",
    "consume": "print messages as they come",
    "topic": "list, show, create, delete topics",
    "group": "list, show, create, delete consumer groups; reset their offsets",
    "message": "find messages by id or key",
    "cluster": "brokers, their state and their settings",
}


def main(arguments: Sequence[str] | None = None, env: Mapping[str, str] | None = None) -> int:
    """Run a command line (sys.argv by default); returns the exit code. --help and --version raise SystemExit."""
    started = time.monotonic()
    given = list(sys.argv[1:] if arguments is None else arguments)
    _open_standard_streams()
    try:
        options = build_parser(given[0] if given else "").parse_args(given)
        command = COMMANDS.get(options.command, _client)
        code = command(options, os.environ if env is None else env, started)
        sys.stdout.flush()
        return code
    except UsageError as error:
        sys.stderr.write(f"fastmq: {error}\n")
        return EXIT_USAGE
    except SystemExit:  # --help
        try:
            sys.stdout.flush()
        except OSError:
            _forget_output()
        raise
    except BrokenPipeError:  # whoever read the output has enough
        _forget_output()
        return 0
    except OSError as error:
        _forget_output()
        sys.stderr.write(f"fastmq: {error}\n")
        return EXIT_FAILED
    except ImportError as error:
        if not str(error.name).startswith("fastmq._"):
            raise
        sys.stderr.write(
            f"fastmq: {given[0]} needs the compiled part {error.name}, which is not built here: "
            "install fastmq where there is a C compiler (gcc)\n"
        )
        return EXIT_FAILED


def _open_standard_streams() -> None:
    """Python has None for one that the shell closed."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  (open until the end)


def _forget_output() -> None:
    """What could not be written is not tried again when the interpreter exits."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def build_parser(wanted: str = "") -> argparse.ArgumentParser:
    """All commands and their flags; those that are slow to import only for the wanted command."""
    parser = argparse.ArgumentParser(
        prog="fastmq",
        description="A message broker and name server that speak Apache RocketMQ.",
        epilog="Every property of broker.conf can be set with --set, or as FASTMQ_<PROPERTY_IN_UPPER_SNAKE_CASE>.",
    )
    parser.add_argument("--version", action="version", version=f"fastmq {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    serve = commands.add_parser(
        "serve",
        help="name server and broker in one process",
        description=f"Run a name server and a broker in one process. Properties of the name server are set with "
        f"--set {NAMESRV_PREFIX}<property>=<value> or FASTMQ_NAMESRV_<PROPERTY>.",
    )
    serve.add_argument("-c", "--config", metavar="FILE", help="the broker's properties file (broker.conf)")
    serve.add_argument("--data", metavar="DIR", help=f"where everything is stored (default: ./{SERVE_DATA})")
    serve.add_argument(
        "--namesrv-port", metavar="PORT", help="port of the name server, 0 for a free one (default: 9876)"
    )
    serve.add_argument("--listen-port", metavar="PORT", help="port of the broker, 0 for a free one (default: 10911)")
    _add_common(serve)

    broker = commands.add_parser("broker", help="a broker alone", description="Run a broker.")
    broker.add_argument("-c", "--config", metavar="FILE", help="properties file (broker.conf)")
    broker.add_argument("-n", "--namesrv", metavar="ADDR", help="name servers, host:port;host:port")
    broker.add_argument("--data", metavar="DIR", help="keep the store in DIR/store (default: $HOME/store)")
    broker.add_argument("--listen-port", metavar="PORT", help="port for clients, 0 for a free one (default: 10911)")
    _add_common(broker)

    nameserver = commands.add_parser("nameserver", help="a name server alone", description="Run a name server.")
    nameserver.add_argument("-c", "--config", metavar="FILE", help="properties file (namesrv.conf)")
    nameserver.add_argument("-p", "--port", metavar="PORT", help="port to listen on, 0 for a free one (default: 9876)")
    nameserver.add_argument("--data", metavar="DIR", help="keep its files in DIR/namesrv (default: $HOME/namesrv)")
    _add_common(nameserver)

    bench = commands.add_parser("bench", help="load a server and measure", description="Load a RocketMQ server.")
    if wanted == "bench":
        from fastmq.bench.command import add_arguments

        add_arguments(bench)
    for name, words in CLIENT_COMMANDS.items():
        one = commands.add_parser(name, help=words, description=f"{words[0].upper()}{words[1:]}.")
        if wanted in (name, "completion"):
            from fastmq.commands.arguments import add_arguments as add_client_arguments

            add_client_arguments(name, one)
    completion = commands.add_parser(
        "completion", help="completion for a shell", description='Print completion: eval "$(fastmq completion bash)".'
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bind", metavar="HOST", help="address to listen on, 0.0.0.0 for all (default: 127.0.0.1)")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="set a property; may be repeated"
    )
    parser.add_argument("--json", action="store_true", help="log one JSON object a line")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")


def _serve(options: argparse.Namespace, env: Mapping[str, str], started: float) -> int:
    from fastmq.config import Host, load_broker_config, load_namesrv_config

    if options.data == "":
        raise UsageError("--data needs a directory")
    settings = _pairs(options.set)
    for_namesrv = {key.removeprefix(NAMESRV_PREFIX): v for key, v in settings.items() if key.startswith(NAMESRV_PREFIX)}
    for_broker = {key: value for key, value in settings.items() if not key.startswith(NAMESRV_PREFIX)}
    host = dataclasses.replace(Host.of(env), home=os.path.abspath(options.data or SERVE_DATA))
    broker, notes = load_broker_config(
        options.config,
        env,
        _given(bindAddress=options.bind, listenPort=options.listen_port) | _store_in(options.data) | for_broker,
        host=host,
    )
    namesrv, more_notes = load_namesrv_config(
        None, env, _given(bindAddress=options.bind, listenPort=options.namesrv_port) | for_namesrv, host=host
    )
    _set_up_logs(options, notes + more_notes)
    from fastmq import serve

    return serve.run_serve(broker, namesrv, started=started)


def _broker(options: argparse.Namespace, env: Mapping[str, str], started: float) -> int:
    from fastmq.config import Host, load_broker_config

    overrides = _given(bindAddress=options.bind, listenPort=options.listen_port, namesrvAddr=options.namesrv)
    overrides |= _store_in(options.data) | _pairs(options.set)
    config, notes = load_broker_config(options.config, env, overrides, host=Host.of(env))
    _set_up_logs(options, notes)
    from fastmq import serve

    return serve.run_broker(config, started=started)


def _nameserver(options: argparse.Namespace, env: Mapping[str, str], started: float) -> int:
    from fastmq.config import Host, load_namesrv_config

    host = Host.of(env)
    if options.data is not None:
        host = dataclasses.replace(host, home=os.path.abspath(options.data))
    overrides = _given(bindAddress=options.bind, listenPort=options.port) | _pairs(options.set)
    config, notes = load_namesrv_config(options.config, env, overrides, host=host)
    _set_up_logs(options, notes)
    from fastmq import serve

    return serve.run_nameserver(config, started=started)


def _bench(options: argparse.Namespace, env: Mapping[str, str], started: float) -> int:
    from fastmq.bench.command import run

    return run(options, env)


def _client(options: argparse.Namespace, env: Mapping[str, str], started: float) -> int:
    from fastmq.commands.run import run

    return run(options, env, sys.stdin.buffer, sys.stdout, sys.stderr)


def _completion(options: argparse.Namespace, env: Mapping[str, str], started: float) -> int:
    from fastmq.commands.completion import script

    sys.stdout.write(script(build_parser("completion"), options.shell))
    return 0


def _given(**flags: str | None) -> dict[str, str]:
    return {name: text for name, text in flags.items() if text is not None}


def _store_in(data: str | None) -> dict[str, str]:
    """--data wins over the directories of the properties file."""
    if data is None:
        return {}
    root = os.path.join(os.path.abspath(data), "store")
    return {"storePathRootDir": root, "storePathCommitLog": os.path.join(root, "commitlog")}


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set {text}: must be KEY=VALUE")
        pairs[key.strip()] = value
    return pairs


def _set_up_logs(options: argparse.Namespace, notes: Sequence[str]) -> None:
    import logging

    from fastmq import logs

    logs.setup(json_lines=options.json, level=logging.getLevelNamesMapping()[options.log_level.upper()])
    for note in notes:
        logging.getLogger("fastmq.config").warning("%s", note)


Command = Callable[[argparse.Namespace, Mapping[str, str], float], int]
COMMANDS: Mapping[str, Command] = {
    "serve": _serve,
    "broker": _broker,
    "nameserver": _nameserver,
    "bench": _bench,
    "completion": _completion,
}
