#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# run.sh CONFIG STATE RUN: starts bin/fairlead in the foreground, as root.
# Ctrl-C ends it; then everything it made is taken off the host, so that a try
# leaves nothing. In production the agent is a service and is not detached.
set -u

bin=$(cd "$(dirname "$0")/../bin" && pwd)/fairlead
# The agent answers the signal; this shell only waits for it.
trap : INT TERM
"$bin" run --config "$1" --state "$2" --run "$3" &
agent=$!
trap 'kill -TERM "$agent" 2>/dev/null' TERM
while kill -0 "$agent" 2>/dev/null; do
	wait "$agent"
	code=$?
done
removed=$("$bin" detach --run "$3") || code=1
echo "fairlead has stopped and is off this host: $(echo "$removed" | grep -c '^removed') objects removed, addresses and logs kept in $2"
exit "${code:-0}"
