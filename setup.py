"""The extensions and their build switches, nothing else.

FASTMQ_DEBUG=1     bounds checks, assertions and line tracing in the Cython code
FASTMQ_SANITIZE=1  address and undefined-behaviour sanitizers
FASTMQ_PURE=1      no extensions at all

An installation goes on without the extensions where there is no compiler: the client works without them, the servers
and the load tool say that they do not. A build in place (`make build`) fails then.
"""

import os
import sys

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("FASTMQ_DEBUG") == "1"
SANITIZE = os.environ.get("FASTMQ_SANITIZE") == "1"
PURE = os.environ.get("FASTMQ_PURE") == "1"

COMPILE_ARGS = ["-std=gnu11", "-Wall", "-Wextra", "-Wno-unused-function", "-Wno-unused-parameter"]
COMPILE_ARGS += ["-O0", "-g"] if DEBUG else ["-O3", "-g1"]
LINK_ARGS: list[str] = []
if SANITIZE:
    COMPILE_ARGS += ["-fsanitize=address,undefined", "-fno-omit-frame-pointer"]
    LINK_ARGS += ["-fsanitize=address,undefined"]

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": DEBUG,
    "linetrace": DEBUG,
}


def extension(name: str, *c_sources: str) -> Extension:
    """One extension module of the package: its .pyx, and the C files it is linked with."""
    return Extension(
        f"fastmq.{name}",
        [f"src/fastmq/{name}.pyx", *(f"src/fastmq/{source}" for source in c_sources)],
        include_dirs=["src/fastmq"],
        depends=["src/fastmq/_store.pxd", "src/fastmq/_crc.h", "src/fastmq/_scan.h"],
        extra_compile_args=COMPILE_ARGS,
        extra_link_args=LINK_ARGS,
    )


def extensions() -> list[Extension]:
    """All of them, as C."""
    found: list[Extension] = cythonize(
        [extension("_store", "_crc.c"), extension("_codec"), extension("_reactor"), extension("_load")],
        build_dir="build/cython",
        include_path=["src"],
        compiler_directives=DIRECTIVES,
    )
    for one in found:
        one.optional = "--inplace" not in sys.argv
    return found


setup(ext_modules=[] if PURE else extensions())
