# Connections, what waits for Python, what waits for the end of the turn or for a flush; and the bounds of all of it.

cdef enum:
    ST_OK = 0
    ST_NEED_COMMIT = 1
    ST_FLUSH_FAILED = 8
    CODE_FLUSH_DISK_TIMEOUT = 10

    EVENTS_A_TURN = 512
    RECEIVE_BYTES = 512 * 1024      # the turn's receive buffer, shared by all connections
    LARGE_FRAME = 256 * 1024        # a frame above this is received into memory of its own
    SLOT_BITS = 20
    SLOT_MASK = (1 << SLOT_BITS) - 1
    CONNECTIONS_MAX = 1 << SLOT_BITS

    WRITE_MAX = 256 * 1024          # written to one socket at once; what is left waits for the next turn
    WRITE_PARTS = 8                 # gathered in one write
    SHARED_BYTES = 64 * 1024        # a body of Python's of this size or more is sent from where it is
    COLD_A_TAKE = 1024              # frames that Python takes at a time; the others stay counted here

    OUTPUT_PAUSE_BYTES = 4 * 1024 * 1024    # above it a connection is not read until it has taken its replies
    COLD_PAUSE_BYTES = 8 * 1024 * 1024      # above it a connection is not read until Python has caught up
    ARENA_KEPT_BYTES = 4 * 1024 * 1024      # of the replies of a turn; only large batches need more
    PARKED_PAUSE = 20000                    # replies of one connection that wait for a flush

    # connection ids of the reactor's own descriptors; ids of connections begin at 1 << SLOT_BITS
    TAG_WAKE = 0
    TAG_FLUSH = 1
    TAG_MOVED = 2

    # why a connection ended
    END_CLOSED = 0                  # the other side closed it, or the network did
    END_ASKED = 1                   # close_connection
    END_FRAMING = 2                 # it sent what is no frame
    END_OUTPUT = 3                  # it does not take its replies
    END_MEMORY = 4                  # there is no memory for it

    # of the service number of a cold item: a pull that was held here and is to be processed once more
    RESUMED_BIT = 1 << 16

cdef struct Connection:
    int fd
    int64_t id                      # generation << SLOT_BITS | slot
    int32_t service
    uint32_t events                 # what epoll watches
    Buffer input                    # an incomplete frame; empty while the connection is idle
    uint32_t large_frame            # length of the large frame `input` is being filled with, or 0
    Buffer output                   # leaves before `pieces`
    Post* pieces                    # what leaves behind it: large bodies of Python's answers, and what came after them
    Post* last_piece
    size_t pieces_bytes             # of them that have not left
    int64_t active_ms
    int32_t cold_sends              # sends that Python still works on: until they are done no send may overtake them
    int32_t cold_consumes           # the same for pulls and offset commits
    HeldPull* held                  # the first of its held pulls
    int32_t parked
    size_t cold_bytes
    bint dirty                      # on the turn's list of connections with fresh output
    bint closing                    # closes once its output is written
    bint mute                       # it takes no more output; what it sent before its end is still read
    uint8_t host[20]
    int32_t host_length

cdef struct ColdItem:
    int64_t connection
    int32_t service
    uint32_t length                 # 0: the connection ended
    uint8_t* frame
    int64_t stamp                   # when the frame came, monotonic ms; of an end: why

# A reply of this turn, in the turn's arena, that waits for the turn's append (and then perhaps for a flush).
cdef struct Staged:
    int64_t connection
    uint32_t offset
    int32_t length
    int32_t opaque
    int32_t serialize
    bint oneway

# Replies that wait until the log is flushed up to `target`. One allocation a turn.
cdef struct Parked:
    Parked* next
    int64_t target
    int64_t deadline_ms
    int32_t count
    Staged* replies
    uint8_t* arena
    uint8_t* failure                # a whole frame (replies parked by Python); NULL: made from the policy
    int32_t failure_length

# What Python has for the reactor: see mail.pxi.
cdef enum:
    POST_SEND = 0                   # data: a frame, or the head of one whose body is `shared`
    POST_DONE = 1                   # Python has dealt with a request of this code
    POST_TAKEN = 2                  # data: pairs of (connection, bytes) that Python has taken

cdef struct Post:
    Post* next
    int64_t connection
    int32_t kind
    int32_t code
    Buffer data
    PyObject* owner                 # of `shared`, a reference; given back by Python's thread, see `spent`
    const uint8_t* shared           # what leaves behind `data`
    size_t shared_length
