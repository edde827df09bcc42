#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# fuzz.sh TIME: runs every fuzz target of the module for TIME each.
set -eu

: "${GO:=go}"
grep -rlE '^func Fuzz' --include='*_test.go' ./cmd ./pkg ./test | xargs -r -n1 dirname | sort -u | while read -r package; do
	sed -nE 's/^func (Fuzz[A-Za-z0-9_]*).*/\1/p' "$package"/*_test.go | while read -r target; do
		echo "fuzz: $package $target for $1"
		$GO test -run '^$' -fuzz "^$target\$" -fuzztime "$1" "$package"
	done
done
