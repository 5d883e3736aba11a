#!/usr/bin/env bash
# A broker against the floor (bench/floor.c): the ratio of the two, rounds interleaved, sync before each.
#
#   bench/against_floor.sh BROKER_ADDR [--sync] [--rounds N] [-- LOAD FLAGS...]
#   bench/against_floor.sh 127.0.0.1:10911 -- send -c 100 -d 1 -s 5
#
# --sync: the floor calls fdatasync after each append, for a broker with flushDiskType=SYNC_FLUSH.
# The floor's file goes beside the store if FLOOR_DIR says so (default: the current directory). PYTHON: which Python.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
broker=${1:?usage: against_floor.sh BROKER_ADDR [--sync] [--rounds N] [-- LOAD FLAGS...]}
shift
mode=() rounds=5
while [ $# -gt 0 ]; do
  case $1 in
    --sync) mode=(sync) && shift ;;
    --rounds) rounds=$2 && shift 2 ;;
    --) shift && break ;;
    *) echo "unknown flag $1" >&2 && exit 2 ;;
  esac
done
[ $# -gt 0 ] || set -- send -c 8 -d 64 -s 5

work=$(mktemp -d "${FLOOR_DIR:-.}/floor.XXXXXX")
floor=
trap '[ -z "$floor" ] || kill "$floor" 2>/dev/null || true; rm -rf "$work"' EXIT
"${CC:-cc}" -O2 -o "$work/floor" "$here/floor.c"
"$work/floor" 0 "$work/data" "${mode[@]}" >"$work/port" &
floor=$!
until [ -s "$work/port" ]; do
  kill -0 "$floor"
  sleep 0.05
done

export PYTHONPATH="$here/../src${PYTHONPATH:+:$PYTHONPATH}"
"${PYTHON:-python3}" -m fastmq bench compare --brokers --rounds "$rounds" "$broker" "127.0.0.1:$(cat "$work/port")" "$@"
