"""The inner loop of `fastmq bench`: requests out, answers in, without Python, so that it is not what is measured.

Table of contents:
  histogram.pxi   latencies in buckets, counts over time
  frames.pxi      templates patched in place, answers read by position
  records.pxi     pulled messages: order, checksum, stamp
  connection.pxi  a socket with its ring of frames, and a reading place in a queue
  setup.pxi       what a load is made of, and what came of it
  loop.pxi        the load itself: when to send, what an answer does, timeouts, the end
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from fastmq.errors import UsageError

include "_reactor/os.pxi"
include "_load/histogram.pxi"
include "_load/frames.pxi"
include "_load/records.pxi"
include "_load/connection.pxi"
include "_load/setup.pxi"
include "_load/loop.pxi"
