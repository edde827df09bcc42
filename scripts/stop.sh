#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# stop.sh RUN: ends the agent that runs there, if there is one, and takes
# everything of fairlead off this host.
set -u

bin=$(cd "$(dirname "$0")/../bin" && pwd)/fairlead
pid=$("$bin" status --run "$1" -o json 2>/dev/null | sed -nE 's/^ *"pid": *([0-9]+),?$/\1/p' | head -1)
if [ -n "$pid" ]; then
	echo "stop: fairlead runs as process $pid, stopping it"
	kill -TERM "$pid"
	for _ in $(seq 300); do
		kill -0 "$pid" 2>/dev/null || break
		sleep 0.1
	done
fi
"$bin" detach --run "$1"
