"""Completion scripts for shells, made from the parser itself, so that they cannot fall behind it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """What a shell has to evaluate: `eval "$(fastmq completion bash)"`."""
    table = dict(_words((), parser))
    if shell == "fish":
        return "".join(_fish(table))
    cases = "".join(f"    '{' '.join(path)}') words='{' '.join(words)}' ;;\n" for path, words in table.items())
    body = (
        "_fastmq() {\n"
        '  local path="" words="" word\n'
        '  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do\n'
        '    case "$word" in -*) ;; *) path="${path:+$path }$word" ;; esac\n'
        "  done\n"
        '  while :; do case "$path" in\n'
        f"{cases}"
        "  esac\n"
        '  if [ -n "$words" ] || [ -z "$path" ]; then break; fi\n'
        '  case "$path" in *" "*) path="${path% *}" ;; *) path="" ;; esac; done\n'
        '  COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))\n'
        "}\n"
        "complete -o default -F _fastmq fastmq\n"
    )
    return body if shell == "bash" else f"autoload -U +X bashcompinit && bashcompinit\n{body}"


def _words(path: tuple[str, ...], parser: argparse.ArgumentParser) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """What can come behind each run of commands: flags and further commands."""
    words: list[str] = []
    below: list[tuple[tuple[str, ...], argparse.ArgumentParser]] = []
    for action in parser._actions:
        words += [flag for flag in action.option_strings if flag.startswith("--")]
        if isinstance(action, argparse._SubParsersAction):
            words += list(action.choices)
            below += [((*path, name), child) for name, child in action.choices.items()]
        elif not action.option_strings and action.choices:
            words += map(str, action.choices)
    yield path, words
    for further, child in below:
        yield from _words(further, child)


def _fish(table: dict[tuple[str, ...], list[str]]) -> Iterator[str]:
    yield "complete -c fastmq -f\n"
    for path, words in table.items():
        if path:
            condition = " ; and ".join(f"__fish_seen_subcommand_from {name}" for name in path)
        else:
            condition = "__fish_use_subcommand"
        for word in words:
            what = f"-l {word[2:]}" if word.startswith("--") else f"-a {word}"
            yield f"complete -c fastmq -n '{condition}' {what}\n"
