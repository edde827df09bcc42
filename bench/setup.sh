#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# setup.sh PACKAGE…: installs the Debian packages that are missing, without
# letting them start their services: a benchmark starts what it needs itself.
set -eu

say() { echo "bench: $*" >&2; }

installed() {
	dpkg-query -W -f='${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed
}

lacking=
for package in "$@"; do
	installed "$package" || lacking="$lacking $package"
done
[ -n "$lacking" ] || exit 0

if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null 2>&1 || {
		say "installing$lacking needs root: run this as root, or install sudo"
		exit 1
	}
	exec sudo "$0" "$@"
fi
command -v apt-get >/dev/null 2>&1 || {
	say "no apt-get here; install these with your package manager:$lacking"
	exit 1
}

# Debian's maintainer scripts ask this program before they start a service.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	trap 'rm -f "$policy"' EXIT
	trap 'exit 1' INT TERM
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod +x "$policy"
fi
say "installing$lacking"
install() {
	# shellcheck disable=SC2086 # a list of words
	DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -q install -y --no-install-recommends $lacking >&2
}
install || {
	apt-get -o DPkg::Lock::Timeout=300 -q update >&2
	install
}
