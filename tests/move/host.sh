#!/bin/sh
# prtrace as it is on two hosts, each with a journal of its own, and the accidents that happen there.
#   STATE      folder of the journals
#   ACCIDENT   the prtrace command after which the destination's QEMU, process VICTIM, is killed
case $1 in
load) set -- "$@" --state-dir "$STATE/there" ;;
rollback) set -- "$@" --state-dir "$STATE/here" ;;
esac
python -m prtrace "$@"
status=$?
if [ "$1" = "$ACCIDENT" ]; then kill -9 "$VICTIM"; fi
exit $status
