# Latencies in log-linear buckets (HDR style), and counts over time.

cdef enum:
    SUB_BUCKETS = 64                # a bucket is at most 1/64 of its value wide
    BUCKETS = SUB_BUCKETS * 40
    TICK_NS = 100000000             # one point of the throughput over time

cdef extern from *:
    """
    /* Exact below 128 ns, then 64 buckets for every doubling; 0 <= ns < 2^45. */
    static inline int fq_bucket_of(int64_t ns)
    {
        if (ns < 128)
            return ns < 0 ? 0 : (int)ns;
        if (ns >= (int64_t)1 << 45)
            ns = ((int64_t)1 << 45) - 1;
        int shift = 57 - __builtin_clzll((unsigned long long)ns);
        return (shift + 1) * 64 + (int)(ns >> shift) - 64;
    }
    """
    int fq_bucket_of(int64_t ns) nogil


cdef struct Histogram:
    int64_t counts[BUCKETS]
    int64_t max_ns


cdef inline void record(Histogram* histogram, int64_t ns, int64_t count) noexcept nogil:
    histogram.counts[fq_bucket_of(ns)] += count
    if ns > histogram.max_ns:
        histogram.max_ns = ns


def bucket_of(int64_t ns):
    """The bucket of the histogram that a latency in ns falls into."""
    return fq_bucket_of(ns)


def bucket_low(int index):
    """Smallest latency in ns that falls into a bucket of the histogram."""
    if index < 2 * SUB_BUCKETS:
        return index
    return <int64_t>(SUB_BUCKETS + index % SUB_BUCKETS) << (index // SUB_BUCKETS - 1)


cdef object histogram_buckets(const Histogram* histogram):
    """([(smallest latency the bucket can hold, largest, count), ...] ascending, largest latency seen)."""
    cdef int i
    used = [
        (bucket_low(i), bucket_low(i + 1) - 1, histogram.counts[i]) for i in range(BUCKETS) if histogram.counts[i]
    ]
    return used, histogram.max_ns


# Events per tick since the start of the run. Without memory for more ticks the last one takes the rest.
cdef struct Timeline:
    int64_t* counts
    int64_t capacity
    int64_t used


cdef void timeline_add(Timeline* timeline, int64_t tick, int64_t count) noexcept nogil:
    cdef int64_t capacity
    cdef int64_t* grown
    if tick >= timeline.capacity:
        capacity = 2 * tick + 256
        grown = <int64_t*>realloc(timeline.counts, capacity * sizeof(int64_t))
        if grown == NULL:
            if timeline.capacity == 0:
                return
            tick = timeline.capacity - 1
        else:
            memset(grown + timeline.capacity, 0, (capacity - timeline.capacity) * sizeof(int64_t))
            timeline.counts = grown
            timeline.capacity = capacity
    timeline.counts[tick] += count
    if tick >= timeline.used:
        timeline.used = tick + 1
