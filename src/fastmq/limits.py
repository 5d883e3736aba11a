"""Every bound of fastmq by name. What RocketMQ fixes has RocketMQ's value; the rest guards memory.

Relations between bounds are asserted at the end, so that a change which breaks another is an import error.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# --- remoting frames ---------------------------------------------------------------------------------------------
MAX_FRAME_BYTES: Final = 16 * MIB  # whole frame with its length word (com.rocketmq.remoting.frameMaxLength)
MAX_HEADER_BYTES: Final = (1 << 24) - 1  # the header length has 24 bits
MIN_FRAME_BYTES: Final = 8  # length word and header word

# --- connections ---------------------------------------------------------------------------------------------------
IDLE_SECONDS: Final = 120  # NettyServerConfig.serverChannelMaxIdleTimeSeconds: no byte either way
MAX_OUTPUT_BYTES: Final = 64 * MIB  # unsent bytes of one connection; more closes it
RECEIVE_BYTES: Final = 64 * KIB  # one read of a client channel
MAX_PENDING_CALLS: Final = 65_535  # NettyClientConfig.clientAsyncSemaphoreValue
CONNECT_TIMEOUT_SECONDS: Final = 3.0
BROKER_TO_CLIENT_TIMEOUT_SECONDS: Final = 10.0

# --- names and messages ----------------------------------------------------------------------------------------------
MAX_PROPERTIES_BYTES: Final = 32_767  # the length of the properties text is an int16
MAX_MESSAGE_BYTES: Final = 4 * MIB  # default of maxMessageSize
MAX_QUEUES: Final = 65_536  # of a topic on one broker, for reading and for writing

# --- store files -----------------------------------------------------------------------------------------------------
MIN_SEGMENT_BYTES: Final = 1 * MIB  # smallest mappedFileSizeCommitLog
MAX_SEGMENT_BYTES: Final = (1 << 31) - 1  # a Java int
QUEUE_ENTRY_BYTES: Final = 20  # one consume queue entry
ALLOCATE_STEP_BYTES: Final = 32 * MIB  # default of allocateStepBytes

# --- name server -----------------------------------------------------------------------------------------------------
BROKER_EXPIRY_MS: Final = 120_000  # RouteInfoManager: no registration or heartbeat for so long
MAX_KV_ENTRIES: Final = 100_000  # over all namespaces
MAX_KV_VALUE_CHARS: Final = 1 * MIB
MAX_CONFIG_TEXT_BYTES: Final = 1 * MIB  # properties text of an update command

assert MIN_FRAME_BYTES <= MAX_FRAME_BYTES
assert MAX_FRAME_BYTES - 1 <= MAX_HEADER_BYTES, "every header that fits into a frame must be expressible"
assert MAX_MESSAGE_BYTES + MAX_PROPERTIES_BYTES < MAX_FRAME_BYTES, "the largest message must fit into a frame"
assert MAX_OUTPUT_BYTES >= MAX_FRAME_BYTES, "one whole reply must fit into the output of a connection"
assert ALLOCATE_STEP_BYTES <= MAX_SEGMENT_BYTES
assert MIN_SEGMENT_BYTES > MAX_PROPERTIES_BYTES
