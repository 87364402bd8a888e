#!/bin/sh
# What waits for what: devices, arrays, and where in the kernel tasks wait.
cat /proc/mdstat; dmsetup table; dmsetup status; dmsetup info -c
for stat in /sys/block/*/inflight; do echo "$stat $(cat "$stat")"; done
for task in /proc/[0-9]*/task/*; do
    grep -q '^State:.D' "$task/status" 2>/dev/null && { echo "$task $(cat "$task/comm")"; cat "$task/stack"; }
done
