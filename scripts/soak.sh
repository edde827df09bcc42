#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# soak.sh: the tests whose short form is part of `make test`, at their full
# length: ten million mutated frames, sixty seeds of random changes, a hundred
# restarts of the agent under load, ten thousand connections at the edge of
# sleep, a WebSocket that is silent for 301 s. Root; about an hour. A variable
# that is set already wins. What ran last is told in bench/results/long-runs.md.
set -eu

export FAIRLEAD_TEST_FRAMES="${FAIRLEAD_TEST_FRAMES:-10000000}"
export FAIRLEAD_TEST_SEEDS="${FAIRLEAD_TEST_SEEDS:-60}"
export FAIRLEAD_TEST_RESTARTS="${FAIRLEAD_TEST_RESTARTS:-100}"
export FAIRLEAD_SLEEP_ROUNDS="${FAIRLEAD_SLEEP_ROUNDS:-10000}"
export FAIRLEAD_TEST_L06="${FAIRLEAD_TEST_L06:-301s}"
exec "$(dirname "$0")/gotest.sh" soak -count=1 -p 1 -timeout 4h \
	-run 'MutatedFrames|RandomChangesMoveNobody|RestartLoop|TheEdgeOfSleep|L06SilentWebSocket' \
	./pkg/ingress ./test/packet ./test/netns
