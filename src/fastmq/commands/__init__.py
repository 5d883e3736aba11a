"""`fastmq send`, `consume`, `topic`, `group`, `message`, `cluster`: the client on the command line.

`arguments.py` says what there is, `run.py` does it with the blocking client, `output.py` shows it: aligned columns, or
with --json one JSON object a line.
"""
