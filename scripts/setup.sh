#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# setup.sh WHAT: makes this machine ready for WHAT and says what it did.
#   run       build and run fairlead: only checks, Go is all it needs
#   test      everything the tests and linters use, Debian packages by name
#   generate  the pinned clang that compiles bpf/
# It installs only what is missing, so a second call is quick and works offline.
set -eu

# The compiler that the committed objects are built with: see Makefile, CLANG.
GENERATE="clang-19 llvm-19"
# What the tests run: real clients and servers, and tools to look at the kernel.
TEST="$GENERATE clang-format-19 iproute2 iptables nftables ethtool tcpdump iperf3 curl
	netcat-openbsd iputils-ping traceroute procps util-linux bpftool git nginx
	openssl postgresql postgresql-client redis-server redis-tools"

say() { echo "setup: $*" >&2; }
die() { say "$*"; exit 1; }

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null 2>&1; then
		sudo "$@"
	else
		die "'$*' needs root: run this as root, or install sudo"
	fi
}

installed() {
	dpkg-query -W -f='${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed
}

missing() {
	for package in "$@"; do
		installed "$package" || printf '%s ' "$package"
	done
}

# The lists are refreshed when there are none, or when a package is in none of them.
refresh_lists() {
	lists=$(find /var/lib/apt/lists -maxdepth 1 -name '*_Packages*' -mtime -7 2>/dev/null | head -1)
	if [ -n "$lists" ] && [ "${1:-}" != force ]; then
		return
	fi
	say "apt-get update"
	as_root apt-get -o DPkg::Lock::Timeout=300 -q update >&2 ||
		die "apt-get update: cannot refresh the package lists; see the lines above"
}

install_lacking() {
	lacking=$(missing "$@")
	if [ -z "$lacking" ]; then
		return
	fi
	command -v apt-get >/dev/null 2>&1 ||
		die "no apt-get here; install these with your package manager: $lacking"
	refresh_lists
	# shellcheck disable=SC2086 # a list of words
	apt-get install --dry-run -q --no-install-recommends $lacking >/dev/null 2>&1 || refresh_lists force
	say "installing $lacking"
	# shellcheck disable=SC2086
	as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -q install -y \
		--no-install-recommends $lacking >&2 ||
		die "apt-get install: some of these cannot be had: $lacking"
}

require_go() {
	command -v go >/dev/null 2>&1 ||
		die "go is not in PATH ($PATH): install Go and put its bin directory there"
	want=$(sed -n 's/^go //p' "$(dirname "$0")/../go.mod")
	have=$(go env GOVERSION | sed 's/^go//; s/[^0-9.].*//')
	oldest=$(printf '%s\n%s\n' "$want" "$have" | sort -V | head -1)
	if [ "$oldest" != "$want" ] && [ "$(go env GOTOOLCHAIN)" = local ]; then
		die "go $have is too old: fairlead needs go $want or newer"
	fi
}

require_root() {
	if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null 2>&1; then
		die "fairlead loads BPF programs and needs root: run this as root, or install sudo"
	fi
}

case "${1:-}" in
run)
	require_go
	require_root
	;;
generate)
	# shellcheck disable=SC2086
	install_lacking $GENERATE
	require_go
	;;
test)
	require_root
	# shellcheck disable=SC2086
	install_lacking $TEST
	require_go
	;;
*)
	die "usage: setup.sh run|test|generate"
	;;
esac
