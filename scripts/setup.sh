#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# setup.sh WHAT: makes this machine ready for WHAT and says what it did.
#   run       build and run fairlead: only checks, Go is all it needs
#   test      everything the tests and linters use, Debian packages by name
#   generate  the pinned clang that compiles bpf/
#   host      what `make` itself needs, on a machine with nothing (Vagrant, debootstrap)
#   vm        run the tests on other kernels in QEMU
#   fresh     prove the README's commands in a bare Debian root
#   packages PACKAGE…  these
# It installs only what is missing, so a second call is quick and works offline.
set -eu

# The compiler that the committed objects are built with: see Makefile, CLANG.
GENERATE="clang-19 llvm-19"
# What the tests run: real clients and servers, and tools to look at the kernel.
TEST="$GENERATE clang-format-19 iproute2 iptables nftables ethtool tcpdump iperf3 curl bind9 haproxy
	netcat-openbsd iputils-ping traceroute procps util-linux bpftool git nginx
	openssl python3-jwt python3-cryptography postgresql postgresql-client redis-server redis-tools chromium fonts-dejavu-core docker.io wrk"

# Kernels of other releases, unpacked and booted; module dependencies.
VM="qemu-system-x86 qemu-system-arm kmod xz-utils debian-archive-keyring"
FRESH="debootstrap debian-archive-keyring slirp4netns util-linux git"
HOST="make git ca-certificates"
# Checks the Vagrantfile.
VAGRANT="vagrant"

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

# In a shell of root's: Debian's maintainer scripts ask policy-rc.d before they
# start a service. Whoever installs nginx or a database here starts it himself.
# shellcheck disable=SC2016 # that shell expands it
SERVICES_OFF='policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	trap "rm -f $policy" EXIT
	trap "exit 1" INT TERM
	printf "#!/bin/sh\\nexit 101\\n" >"$policy"
	chmod +x "$policy"
fi
"$@"'

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
	as_root sh -c "$SERVICES_OFF" sh env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -q install -y \
		--no-install-recommends $lacking >&2 ||
		die "apt-get install: some of these cannot be had: $lacking"
}

# Of the packages, those this release has: no older one than Debian 12 has the
# pinned clang, and all that is lost there is make generate and the lint of C.
offered() {
	lacking=$(missing "$@")
	if [ -n "$lacking" ]; then
		refresh_lists
	fi
	for package in "$@"; do
		case " $lacking " in
		*" $package "*)
			case "$package" in
			clang* | llvm*)
				if ! apt-cache show "$package" >/dev/null 2>&1; then
					say "this release has no $package: generated files are not checked here"
					continue
				fi
				;;
			chromium)
				if ! apt-cache show "$package" >/dev/null 2>&1; then
					say "this release has no $package: the dashboard is not looked at in a browser here"
					continue
				fi
				;;
			esac
			;;
		esac
		printf '%s ' "$package"
	done
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
host)
	require_root
	# shellcheck disable=SC2086
	install_lacking $HOST
	PATH="$PATH:/usr/local/go/bin" require_go
	;;
vagrant)
	# shellcheck disable=SC2086
	install_lacking $VAGRANT
	;;
test)
	require_root
	# shellcheck disable=SC2086
	install_lacking $(offered $TEST)
	require_go
	;;
vm)
	# shellcheck disable=SC2086
	install_lacking $VM
	require_go
	;;
packages)
	shift
	install_lacking "$@"
	;;
fresh)
	require_root
	# shellcheck disable=SC2086
	install_lacking $FRESH
	require_go
	;;
*)
	die "usage: setup.sh run|test|generate|host|vm|fresh|vagrant|packages PACKAGE…"
	;;
esac
