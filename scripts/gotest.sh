#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# gotest.sh NAME ARGS…: go test -v ARGS, with output a person can read: one
# line per package and per test of more than a second; the whole output of
# every test that failed at the end; and a closing count. The full log goes to
# bin/log/NAME.log. Exit status: go test's.
set -u

name=$1
shift
log=bin/log/$name.log
mkdir -p bin/log
: "${GO:=go}"

# The first `ip netns add` on a machine makes /run/netns a mount, which stays.
netns_mounted() { grep -q ' /run/netns ' /proc/self/mounts; }
netns_mounted && keep=1 || keep=

status=$(mktemp)
end() {
	rm -f "$status"
	[ -z "$keep" ] && netns_mounted && [ -z "$(ls /run/netns)" ] && umount /run/netns
}
trap end EXIT
{
	$GO test -v "$@" 2>&1
	echo $? >"$status"
} | tee "$log" | awk '
/^=== (RUN|CONT|NAME|PAUSE)/ {
	current = $3
	next
}
/^ *--- (PASS|FAIL|SKIP): / {
	verdict = $2; test = $3
	sub(":", "", verdict)
	# Only tests without subtests count, so that the sum is what ran.
	if (!(test in count)) order[++tests] = test
	count[test] = verdict
	parent = test
	while (sub("/[^/]*$", "", parent)) inner[parent] = 1
	if (verdict == "FAIL") { failed[++failures] = test; print; fflush() }
	if (verdict == "SKIP") { why[test] = text[test] }
	seconds = $4; gsub("[(s)]", "", seconds)
	if (verdict == "PASS" && $0 !~ /^ / && seconds + 0 >= 1) { print; fflush() }
	current = test
	next
}
/^(ok|FAIL|---|\?|panic:|#) / || /^FAIL$/ || /\[build failed\]/ || /\[setup failed\]/ {
	if ($1 == "FAIL" && NF > 1 || $1 == "panic:" || $1 == "#") broken[++breaks] = $0
	if ($0 !~ /no test files/ && $0 != "FAIL") { print; fflush() }
	current = ""
	# A new package: names may come again, so settle the counts.
	if ($1 == "ok" || $1 == "FAIL" && NF > 1) settle()
	next
}
{
	if (current != "") text[current] = text[current] $0 "\n"
	else if ($0 != "PASS" && $0 != "testing: warning: no tests to run") loose = loose $0 "\n"
}
function settle(   i, t) {
	for (i = 1; i <= tests; i++) {
		t = order[i]
		if (!(t in inner)) sum[count[t]]++
		if (count[t] == "SKIP" && !(t in inner)) skipped = skipped "  " t ": " why[t]
		if (count[t] == "FAIL" && text[t] != "") report = report "--- " t "\n" text[t] "\n"
	}
	tests = 0
	split("", count); split("", inner); split("", text); split("", why)
}
END {
	settle()
	if (failures || breaks) {
		printf "\n================ what failed\n%s%s", report, loose
		for (i = 1; i <= breaks; i++) print broken[i]
	}
	if (skipped != "") printf "\nskipped:\n%s", skipped
	if (!failures && breaks) sum["FAIL"]++
	printf "\n%d passed, %d failed, %d skipped\n", sum["PASS"], sum["FAIL"], sum["SKIP"]
}'
code=$(cat "$status")
echo "full log: $log"
exit "${code:-1}"
