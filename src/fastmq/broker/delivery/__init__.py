"""Getting messages out: long polls, delay levels, the hook before every append."""
