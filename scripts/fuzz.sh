#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# fuzz.sh TIME: runs every fuzz target of the module for TIME each.
set -eu

: "${GO:=go}"

# fuzz PACKAGE TARGET TIME. The go command may call a run failed whose only fault
# is that its time ended while a worker was busy: it then says "context deadline
# exceeded" and names no input. Such a run is repeated, and its words, of a failure
# that is none, are left out; one that found something writes the input down and is
# neither repeated nor kept quiet.
fuzz() {
	log=$(mktemp)
	for again in yes yes no; do
		if $GO test -run '^$' -fuzz "^$2\$" -fuzztime "$3" "$1" >"$log" 2>&1; then
			cat "$log"
			rm -f "$log"
			return 0
		fi
		if [ $again = no ] || grep -q 'Failing input written' "$log" || ! grep -qx ' *context deadline exceeded' "$log"; then
			cat "$log"
			rm -f "$log"
			return 1
		fi
		echo "fuzz: $1 $2: the time ended in the midst of an input: once more"
	done
}

grep -rlE '^func Fuzz' --include='*_test.go' ./cmd ./pkg ./test | xargs -r -n1 dirname | sort -u | while read -r package; do
	sed -nE 's/^func (Fuzz[A-Za-z0-9_]*).*/\1/p' "$package"/*_test.go | while read -r target; do
		echo "fuzz: $package $target for $1"
		fuzz "$package" "$target" "$1"
	done
done
