"""What a broker knows: topics, groups, offsets, sessions, locks; each a table and its file."""
