# What is on disk when a store opens: log files, queues, index and checkpoint, as they are found. A stray name, a length
# that does not fit the settings or a missing file is a StoreError that says which.

cdef list numbered_files(str directory, int64_t size):
    """(base, path) of the files of a directory in order. Raises StoreError for a stray name, length or hole.

    An empty last file is what a crash between creating and extending leaves: it is removed.
    """
    found = []
    try:
        with os.scandir(directory) as entries:
            names = sorted((entry.name, entry.path) for entry in entries if not entry.is_dir())
    except FileNotFoundError:
        return found
    for i, (name, path) in enumerate(names):
        length = os.stat(path).st_size
        if length == 0 and i == len(names) - 1:
            os.unlink(path)
            continue
        if not (name.isascii() and name.isdigit()):
            raise StoreError(f"{path}: the name is not a number; such a file does not belong here")
        if length != size:
            raise StoreError(f"{path}: {length} bytes where the configured file size is {size}")
        base = int(name)
        if base % size or base > (1 << 62):
            raise StoreError(f"{path}: the name is not a multiple of the file size {size}")
        if found and base != found[len(found) - 1][0] + size:
            raise StoreError(f"{path}: the file before it should begin at {base - size}, but that one is missing")
        found.append((base, path))
    return found


cdef int load_segments(Engine* e, list log) except -1:
    cdef Segment* s
    cdef int64_t base
    cdef int status = ST_OK
    for base, path in numbered_files(os.fsdecode(e.log_path), e.segment_bytes):
        with nogil:
            s = segment_open(e, base, False, &status)
            if s != NULL:
                status = run_append(e, s)
        check(e, status, "cannot open the commit log file")
    if e.run_count:
        e.next_base = e.run[e.run_count - 1].base + e.segment_bytes
        store64(&e.written, e.next_base)        # readers may look at all of it while we recover
    return 0


cdef int load_queues(Engine* e, list log, dict last_bases) except -1:
    """Make a Queue for every queue directory; last_bases[index in e.queues] = base of its newest file."""
    cdef Topic* topic
    cdef Queue* q
    cdef QueueFiles* f
    cdef bytes name
    cdef int32_t queue_id
    root = os.fsdecode(e.root)
    for kind, size, entry_bytes in (("consumequeue", e.queue_file_bytes, ENTRY_BYTES), ("batchconsumequeue", 0, BATCH_ENTRY_BYTES)):
        top = os.path.join(root, kind)
        if not os.path.isdir(top):
            continue
        for topic_name in sorted(os.listdir(top)):
            folder = os.path.join(top, topic_name)
            name = os.fsencode(topic_name)
            if not os.path.isdir(folder) or not is_folder_name(name, len(name)):
                continue
            for id_name in sorted(os.listdir(folder)):
                directory = os.path.join(folder, id_name)
                if not (id_name.isascii() and id_name.isdigit() and len(id_name) <= 7) or int(id_name) >= MAX_QUEUE_ID:
                    continue
                if str(int(id_name)) != id_name or not os.path.isdir(directory):
                    continue
                queue_id = int(id_name)
                if kind == "consumequeue":
                    files = numbered_files(directory, size)
                else:
                    files = batch_files(directory)
                if not files:
                    continue
                topic = topic_get(e, name, len(name))
                q = queue_get(e, topic, queue_id) if topic != NULL else NULL
                if q == NULL:
                    raise MemoryError
                f = <QueueFiles*> q.files
                if kind == "consumequeue":
                    f.first_base = files[0][0]
                    load_ext(e, q)
                    last_bases[e.queue_count - 1] = files[len(files) - 1][0]
                else:
                    f.batch = True
                    load_batch_ends(q, files)
    return 0


cdef int load_ext(Engine* e, Queue* q) except -1:
    """Note which ext files the queue has. Files of another length are an error only if we are to write some."""
    cdef QueueFiles* f = <QueueFiles*> q.files
    directory = os.path.join(os.fsdecode(e.root), "consumequeue_ext", (<bytes> q.topic.name).decode(), str(q.queue_id))
    if not os.path.isdir(directory):
        return 0
    try:
        files = numbered_files(directory, e.ext_file_bytes)
    except StoreError:
        if e.ext_enabled:
            raise
        return 0
    if files:
        f.ext_first, f.ext_last = files[0][0], files[len(files) - 1][0]
    return 0


cdef list batch_files(str directory):
    """Files of a batch queue, whose size is the broker's business: any multiple of 46 bytes."""
    return [(int(name), os.path.join(directory, name)) for name in sorted(os.listdir(directory))
            if name.isascii() and name.isdigit()]


cdef list read_batch_entries(list files):
    """(log offset, size, tags code, store time, base offset, batch size) of the valid entries of a batch queue."""
    found = []
    end = 0
    for _base, path in files:
        with open(path, "rb") as stream:
            data = stream.read()
        for at in range(0, len(data) - BATCH_ENTRY_BYTES + 1, BATCH_ENTRY_BYTES):
            offset, size, tags, time, first, count = struct.unpack_from(">qiqqqh", data, at)
            if offset < 0 or size <= 0 or first < 0 or count <= 0 or first < end:
                return found
            end = first + count
            found.append((offset, size, tags, time, first, count))
    return found


cdef int load_batch_ends(Queue* q, list files) except -1:
    entries = read_batch_entries(files)
    if entries:
        q.min_offset = entries[0][4]
        _offset, _size, _tags, _time, first, count = entries[len(entries) - 1]
        q.max_offset = q.next_offset = first + count
    return 0


cdef int load_index(Engine* e, list log) except -1:
    """Map the index files, newest last."""
    cdef IndexFile* x
    cdef int fd
    cdef bytes path
    folder = os.path.join(os.fsdecode(e.root), "index")
    if not os.path.isdir(folder):
        return 0
    names = sorted(name for name in os.listdir(folder) if name.isascii() and name.isdigit())
    size = index_file_bytes(e)
    for i, name in enumerate(names):
        full = os.path.join(folder, name)
        length = os.stat(full).st_size
        if length == 0 and i == len(names) - 1:
            os.unlink(full)
            continue
        if length != size:
            raise StoreError(f"{full}: {length} bytes where {size} are configured (maxHashSlotNum, maxIndexNum)")
        if len(name) > 40:
            continue
        if e.index_count == e.index_room:
            if not room_for(<void***> &e.index, e.index_room, e.index_room + 64):
                raise MemoryError
            e.index_room += 64
        x = <IndexFile*> calloc(1, sizeof(IndexFile))
        if x == NULL:
            raise MemoryError
        path = os.fsencode("index/" + name)
        memcpy(x.path, <const char*> path, len(path) + 1)
        x.fd = -1
        path = os.fsencode(full)
        fd = e.files.open(&e.files, FILE_INDEX, path, O_RDONLY)
        if fd >= 0:
            x.length = size
            x.map = <uint8_t*> e.files.mmap(&e.files, FILE_INDEX, fd, size, False)
        if fd < 0 or x.map == NULL:
            note_error(e, path)
            if fd >= 0:
                close_fd(fd)
            free(x)
            raise store_error(e, "cannot open the index file")
        close_fd(fd)
        e.index[e.index_count] = x
        e.index_count += 1
    return 0


cdef int load_checkpoint(Engine* e, list log) except -1:
    """Read `checkpoint`, made if missing. Anything unreadable in it counts as absent."""
    cdef bytes path = e.root + b"/checkpoint"
    e.check_fd = e.files.open(&e.files, FILE_CHECKPOINT, path, O_RDWR | O_CREAT)
    if e.check_fd < 0:
        note_error(e, path)
        raise store_error(e, "cannot open")
    if os.fstat(e.check_fd).st_size < CHECK_FILE_BYTES:
        if e.files.ftruncate(&e.files, FILE_CHECKPOINT, e.check_fd, CHECK_FILE_BYTES) != 0:
            note_error(e, path)
            raise store_error(e, "cannot extend")
    # its block now: a full disk must not keep retention from noting what it may delete
    if e.files.fallocate(&e.files, FILE_CHECKPOINT, e.check_fd, 0, 0, CHECK_FILE_BYTES) != 0 and errno != EOPNOTSUPP:
        note_error(e, path)
        raise store_error(e, "cannot reserve")
    memset(e.check, 0, CHECK_BYTES)
    if e.files.pread(&e.files, FILE_CHECKPOINT, e.check_fd, e.check, CHECK_BYTES, 0) != CHECK_BYTES:
        note_error(e, path)
        raise store_error(e, "cannot read")
    e.durable_queues = e.durable_index = -1
    if memcmp(e.check + CHECK_MAGIC, CHECK_MAGIC_TEXT, 8) != 0:
        return 0
    if get64(e.check + CHECK_QUEUES_NOT) != ~get64(e.check + CHECK_QUEUES):
        log.append(f"{os.fsdecode(path)}: offset {CHECK_MAGIC}: our note is damaged, not used")
    elif get64(e.check + CHECK_CRC) != <int64_t> e.crc(0, e.check, CHECK_CRC):
        log.append(f"{os.fsdecode(path)}: offset 0: changed by another broker since our note, which is not used")
    else:
        e.durable_queues = get64(e.check + CHECK_QUEUES)
        e.durable_index = get64(e.check + CHECK_INDEXED)
    return 0
