"""The frame codec for other extensions. Layouts and rules are in `protocol/_frames.py`."""

cdef class FrameSplitter:
    cdef bytearray _buffer     # the part of a frame that is not complete
    cdef readonly str failure  # why the stream was refused, or None

    cpdef list feed(self, data)

cpdef decode_frame(frame)
cpdef bytes encode_frame(command)
