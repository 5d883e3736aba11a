"""What a test needs beside Python: a JDK, Maven, Go. Absent ones skip the test; never where CI is set."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

TESTS = Path(__file__).resolve().parents[1]
JAVA_TESTS = TESTS / "wire" / "java"
JAVA_TARGET = JAVA_TESTS / "target"
GO_TESTS = TESTS / "wire" / "go"
INTEROP = TESTS / "interop"


class ToolchainMissing(Exception):
    """A program or published package that a test needs is not there."""


def missing(reason: str) -> NoReturn:
    """Skips the test, or fails it where CI is set: a skipped compatibility test must not pass for a good one."""
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        pytest.fail(f"{reason} (CI is set, so this is not skipped)")
    pytest.skip(reason)


def program(name: str) -> str:
    """The path of a program; ToolchainMissing if it is not installed."""
    home = os.environ.get("JAVA_HOME")
    if name in ("java", "javac") and home and (Path(home) / "bin" / name).exists():
        return str(Path(home) / "bin" / name)
    found = shutil.which(name)
    if found is None:
        raise ToolchainMissing(f"{name} is not on the PATH")
    return found


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One test process at a time makes things in a folder; the others wait and find them."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _digest(sources: Iterable[Path], *texts: str) -> str:
    """Tells whether something was made of these very sources; times of files say nothing after a copy or a checkout."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    for text in texts:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def _is_of(stamp: Path, digest: str) -> bool:
    return stamp.exists() and stamp.read_text() == digest


@cache
def class_path(pom: Path, name: str, *arguments: str) -> str:
    """The class path Maven resolves for a pom, kept in the target folder under `name`."""
    with _alone(JAVA_TARGET):
        return _class_path(pom, name, *arguments)


def _class_path(pom: Path, name: str, *arguments: str) -> str:
    kept, stamp = JAVA_TARGET / f"{name}.cp", JAVA_TARGET / f"{name}.of"
    digest = _digest([pom], *arguments)
    if kept.exists() and _is_of(stamp, digest):
        text = kept.read_text().strip()
        if text and all(Path(jar).exists() for jar in text.split(os.pathsep)):
            return text
    maven = program("mvn")
    fresh = JAVA_TARGET / f"{name}.fresh"
    fresh.unlink(missing_ok=True)
    command = [maven, "-B", "-q", "-f", str(pom), *arguments, "dependency:build-classpath"]
    command += ["-DincludeScope=runtime", f"-Dmdep.outputFile={fresh}"]
    # a repository that breaks off one of hundreds of downloads has the rest the next time
    for offline in (["-o"], [], []):
        done = subprocess.run([*command, *offline], capture_output=True, text=True, timeout=900, check=False)
        if done.returncode == 0 and fresh.exists():
            fresh.replace(kept)
            stamp.write_text(digest)
            return kept.read_text().strip()
    raise ToolchainMissing(f"Maven cannot resolve {name}: {(done.stdout + done.stderr).strip()[-500:]}")


@cache
def compiled(name: str, libraries: str, *sources: Path) -> Path:
    """Compiles Java sources once per `name` (a client version) and returns the folder with the classes."""
    with _alone(JAVA_TARGET):
        return _compiled(name, libraries, *sources)


def _compiled(name: str, libraries: str, *sources: Path) -> Path:
    javac = program("javac")
    classes = JAVA_TARGET / f"classes-{name}"
    stamp, digest = classes / "compiled", _digest(sources, libraries)
    if _is_of(stamp, digest):
        return classes
    shutil.rmtree(classes, ignore_errors=True)
    classes.mkdir(parents=True)
    command = [javac, "--release", "17", "-encoding", "UTF-8", "-nowarn", "-Xlint:none", "-cp", libraries]
    done = subprocess.run(
        [*command, "-d", str(classes), *map(str, sources)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"javac failed for {name}:\n{done.stdout}{done.stderr}"
    stamp.write_text(digest)
    return classes


def client_class_path(version: str) -> str:
    """Scenario runner and client of one version."""
    libraries = class_path(JAVA_TESTS / "pom.xml", f"client-{version}", "-Pclient", f"-Dclient.version={version}")
    sources = sorted((JAVA_TESTS / "src" / "client" / "wire").glob("*.java"))
    if not version.startswith("4."):
        sources += sorted((JAVA_TESTS / "src" / "client5" / "wire").glob("*.java"))
    return f"{compiled(version, libraries, *sources)}{os.pathsep}{libraries}"


def tools_class_path() -> str:
    """Command runner and mqadmin."""
    libraries = class_path(JAVA_TESTS / "pom.xml", "tools", "-Ptools")
    sources = sorted((JAVA_TESTS / "src" / "tools" / "wire").glob("*.java"))
    sources.append(JAVA_TESTS / "src" / "client" / "wire" / "Json.java")
    return f"{compiled('tools', libraries, *sources)}{os.pathsep}{libraries}"


def apache_class_path() -> str:
    """Name server and broker of a real Apache RocketMQ."""
    return class_path(INTEROP / "pom.xml", "apache")


def apache4_class_path() -> str:
    """A broker of Apache RocketMQ 4.9."""
    return class_path(INTEROP / "broker4" / "pom.xml", "apache-4.9")


def proxy_class_path() -> str:
    """Name server, broker and proxy of a real Apache RocketMQ."""
    return class_path(INTEROP / "pom.xml", "apache-proxy", "-Pproxy")


@cache
def go_program() -> Path:
    """The Go scenario runner, built when its sources are newer."""
    with _alone(GO_TESTS / "bin"):
        return _go_program()


def _go_program() -> Path:
    go = program("go")
    binary, stamp = GO_TESTS / "bin" / "wire", GO_TESTS / "bin" / "built"
    digest = _digest([*sorted(GO_TESTS.glob("*.go")), GO_TESTS / "go.mod", GO_TESTS / "go.sum"])
    if binary.exists() and _is_of(stamp, digest):
        return binary
    for _ in range(2):  # as above
        done = subprocess.run(
            [go, "build", "-buildvcs=false", "-o", str(binary), "."],
            cwd=GO_TESTS,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        if done.returncode == 0:
            break
    if done.returncode != 0 and "dial tcp" in done.stderr:
        raise ToolchainMissing(f"Go cannot download the client's modules: {done.stderr.strip()[-300:]}")
    assert done.returncode == 0, f"go build failed:\n{done.stdout}{done.stderr}"
    stamp.write_text(digest)
    return binary
