"""What a broker knows: topics, groups, offsets, sessions, locks; each a table and its file."""


def nothing() -> None:
    """What a table calls before the broker has wired it to those who want to know."""
