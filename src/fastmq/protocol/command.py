"""The front of the frame codec: `Command`, `decode_frame`, `encode_frame`, `FrameSplitter`.

The Cython implementation (`fastmq._codec`) is used where the extension is built, the one in plain Python (`_frames`)
otherwise. Both give the same results and the same errors; tests hold them together.
"""

from __future__ import annotations

from fastmq.protocol._frames import (
    JSON,
    MAX_FRAME_BYTES,
    ONEWAY_FLAG,
    RESPONSE_FLAG,
    ROCKETMQ,
    VERSION,
    Command,
    SendTemplate,
    frame_head,
    send_template,
)

try:
    from fastmq._codec import FrameSplitter, decode_frame, encode_frame, encode_send
except ImportError:
    from fastmq.protocol._frames import (  # type: ignore[assignment]
        FrameSplitter,
        decode_frame,
        encode_frame,
        encode_send,
    )

__all__ = [
    "JSON",
    "MAX_FRAME_BYTES",
    "ONEWAY_FLAG",
    "RESPONSE_FLAG",
    "ROCKETMQ",
    "VERSION",
    "Command",
    "FrameSplitter",
    "SendTemplate",
    "decode_frame",
    "encode_frame",
    "encode_send",
    "frame_head",
    "send_template",
]
