#!/usr/bin/env bash
# System calls and context switches of a process, counted by the kernel's tracepoints (which cost far less than strace). Lines
# `per_second NAME NUMBER`; `make bench` shows them per statement:
#   ATTACH='scripts/syscalls.sh {pid}' make bench WORKLOADS=select1_32 PEERS=proxy,pgbouncer SECONDS=8 ROUNDS=1
#   usage: scripts/syscalls.sh PID[,PID] [SECONDS]
set -euo pipefail
pids=$1 seconds=${2:-4}

perf stat -x ' ' -p "$pids" -e 'syscalls:sys_enter_*' -e context-switches -- sleep "$seconds" 2>&1 >/dev/null |
  awk -v seconds="$seconds" '
    $1 ~ /^[0-9]+$/ && $1 > 0 {
      name = $2; sub(/^syscalls:sys_enter_/, "", name)
      print "per_second", name, $1 / seconds
      if (name != "context-switches") all += $1
    }
    END { print "per_second", "all_calls", all / seconds }'
