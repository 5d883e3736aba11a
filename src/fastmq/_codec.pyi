"""Types of the frame codec (`_codec.pyx`); what it does is told in `protocol/_frames.py`."""

from typing import final

from fastmq.protocol._frames import Command, SendTemplate

def decode_frame(frame: bytes | bytearray | memoryview) -> Command:
    """A whole frame, its length word included. Raises ProtocolError for anything that is not one."""

def encode_frame(command: Command) -> bytes:
    """The whole frame, its length word included. ValueError if it would be larger than MAX_FRAME_BYTES."""

def encode_send(
    template: SendTemplate, sys_flag: int, born_ms: int, flag: int, properties: str, opaque: int, body: bytes
) -> bytes:
    """The frame of a send: what `encode_frame` makes of the same fields. ValueError if it would be too large."""

@final
class FrameSplitter:
    """Cuts a byte stream into whole frames."""

    def __init__(self) -> None: ...
    @property
    def failure(self) -> str | None:
        """Why the stream was refused, or None."""
    @property
    def pending(self) -> int:
        """Bytes kept of a frame that is not complete."""
    def feed(self, data: bytes | bytearray | memoryview) -> list[bytes]:
        """Take the next bytes of the stream, give the frames that are complete with them."""
