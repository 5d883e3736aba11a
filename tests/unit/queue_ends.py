"""What tests of waiting pulls and pops need of a store: queues that grow."""


class Queues:
    """Ends of queues, and which of them the store watches."""

    def __init__(self):
        self.ends = {}
        self.watched = set()

    def watch(self, topic, queue_id, on):
        """What a table asks of the store."""
        (self.watched.add if on else self.watched.discard)((topic, queue_id))
        return self.ends.get((topic, queue_id), 0)

    def grow(self, table, count=1, topic="t", queue_id=0):
        """So many messages come; what the store tells a table then, and what that gives."""
        return self.move(table, self.ends.get((topic, queue_id), 0) + count, topic, queue_id)

    def move(self, table, end, topic="t", queue_id=0):
        """The queue ends at `end` from now on; as `grow`."""
        self.ends[topic, queue_id] = end
        if (topic, queue_id) not in self.watched:
            return []
        self.watched.discard((topic, queue_id))
        return table.take_moved(topic, queue_id, end)
