#!/bin/sh
# prtrace as it is on two hosts, each with journals of its own, and the accidents that happen there.
#   STATE      folder of the journals
#   FAULT      VERB:POINT where the command dies, see dying.py
#   ACCIDENT   the prtrace command after which the destination's QEMU, process VICTIM, is killed
side=here
case "$1 $*" in
prepare*|load*|"rollback "*"--as destination"*) side=there ;;
esac
verb=$1
[ "$1" = check ] || set -- "$@" --state-dir "$STATE/$side"
python "$(dirname "$0")/dying.py" "$@"
status=$?
if [ "$verb" = "$ACCIDENT" ]; then kill -9 "$VICTIM"; fi
exit $status
