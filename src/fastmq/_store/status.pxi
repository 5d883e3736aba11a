# Status codes as sentences, and the one place where a status becomes an exception.

cdef dict _STATUS_TEXT = {
    ST_OK: "ok",
    ST_NEED_COMMIT: "the turn's buffer is full",
    ST_BODY_TOO_LARGE: "the body is larger than maxMessageSize",
    ST_PROPERTIES_TOO_LARGE: "the properties are longer than 32767 bytes",
    ST_TOPIC_TOO_LONG: "the topic is empty or longer than 255 bytes",
    ST_RECORD_TOO_LARGE: "the record does not fit into a commit log file",
    ST_DISK_FULL: "the disk is full",
    ST_IO_ERROR: "a file call failed",
    ST_FLUSH_FAILED: "a flush failed, which is final",
    ST_CLOSED: "the store is closed",
    ST_BAD_BATCH: "the batch body is malformed",
    ST_NO_MEMORY: "out of memory",
    ST_NOT_WRITEABLE: "the store is not writeable",
    ST_TOO_MANY_LMQ: "there are as many light queues as maxLmqConsumeQueueNum allows",
}


cdef int status_of_errno(int error) noexcept nogil:
    """The status an append answers when a file call failed with this errno."""
    if error == ENOSPC or error == EDQUOT:
        return ST_DISK_FULL
    if error == ENOMEM:
        return ST_NO_MEMORY
    return ST_IO_ERROR


cdef object store_error(Engine* e, str what, int error=0):
    """A StoreError that names the file of the call that failed last."""
    cdef str path = (<bytes> e.error_path).decode("utf-8", "surrogateescape")
    if error == 0:
        error = e.error_number
    if error:
        return StoreError(f"{path}: {what}: {os.strerror(error)}")
    return StoreError(f"{path}: {what}")


cdef int check(Engine* e, int status, str what) except -1:
    """Turn a status other than ST_OK into an exception."""
    if status == ST_OK:
        return 0
    if status == ST_CLOSED:
        raise StoreError("the store is closed")
    if status == ST_NO_MEMORY:
        raise MemoryError(what)
    raise store_error(e, f"{what}: {_STATUS_TEXT.get(status, status)}")
