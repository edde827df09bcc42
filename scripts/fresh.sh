#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# fresh.sh [all|run|test]: makes a bare Debian 12 root with git, make and this
# machine's Go in it, and runs the README's two commands there, on a clone of
# HEAD: `make run`, asking every address it prints, and `make test`. In network,
# mount, process and cgroup namespaces of its own; the way out is slirp4netns,
# so that this machine's network is left as it is. Root.
set -euo pipefail

# Inside: the second half of this script, in the new root.
address_answers() {
	local host=$1 port=$2 line=
	exec 9<>"/dev/tcp/$host/$port" || return 1
	printf 'GET / HTTP/1.0\r\n\r\n' >&9
	read -r -t 10 line <&9 || true
	exec 9>&- 9<&-
	[ -n "$line" ] && printf 'fresh: %s:%s answers %s\n' "$host" "$port" "${line%$'\r'}"
}

inside_run() {
	local begun=$SECONDS log=/tmp/run.log pid
	make run >$log 2>&1 &
	pid=$!
	until grep -q '^stop with' $log; do
		if ! kill -0 $pid 2>/dev/null || [ $((SECONDS - begun)) -gt 900 ]; then
			tail -40 $log
			echo "fresh: make run did not come up"
			return 1
		fi
		sleep 1
	done
	echo "fresh: make run was up after $((SECONDS - begun)) s"
	grep -oE '[0-9.]+:[0-9]+/tcp' $log | sort -u >/tmp/addresses
	[ -s /tmp/addresses ] || { echo "fresh: make run printed no address"; return 1; }
	while IFS=':/' read -r host port _; do
		address_answers "$host" "$port" || { tail -20 $log; echo "fresh: $host:$port does not answer"; return 1; }
	done </tmp/addresses
	kill -INT "$(pgrep -f '^/.*bin/fairlead run ' | head -1)"
	wait $pid || { tail -20 $log; echo "fresh: make run ended badly"; return 1; }
	tail -1 $log
}

inside_test() {
	local begun=$SECONDS
	CI=true make test || { echo "fresh: make test failed after $((SECONDS - begun)) s"; return 1; }
	echo "fresh: make test passed after $((SECONDS - begun)) s"
}

if [ "${1:-}" = inside ]; then
	export PATH=/usr/local/go/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
	for _ in $(seq 300); do
		[ -e /run/network-is-up ] && break
		sleep 0.1
	done
	cd /fairlead
	case "$2" in
	run) inside_run ;;
	test) inside_test ;;
	all) inside_run && inside_test ;;
	esac
	exit
fi

what=${1:-all}
case "$what" in
all | run | test) ;;
*)
	echo "usage: fresh.sh [all|run|test]" >&2
	exit 2
	;;
esac
cd "$(dirname "$0")/.."
here=$PWD
work=$here/bin/fresh
root=$work/root
begun=$SECONDS
go_root=$(go env GOROOT)
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep '/debian/$' | head -1)
cgroup_root=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/self/mounts)
cgroup=$cgroup_root/flfresh-$$
slirp='' child=''

cleanup() {
	[ -z "$slirp" ] || kill "$slirp" 2>/dev/null || true
	[ -z "$child" ] || kill -KILL "$child" 2>/dev/null || true
	wait 2>/dev/null || true
	find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || true
	rm -rf --one-file-system "$root"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

mkdir -p "$work"
rm -rf --one-file-system "$root"
if [ -z "$(find "$work/base.tar" -mtime -7 2>/dev/null)" ]; then
	debootstrap --variant=minbase --include=git,make,ca-certificates,procps bookworm "$root" "$mirror" >"$work/debootstrap.log" 2>&1 ||
		{ tail -20 "$work/debootstrap.log"; exit 1; }
	tar -C "$root" -cf "$work/base.tar" .
else
	mkdir -p "$root"
	tar -C "$root" -xf "$work/base.tar"
fi
cp -a "$go_root" "$root/usr/local/go"
git -c safe.directory='*' clone -q --no-hardlinks "file://$here" "$root/fairlead"
cp "$0" "$root/fresh.sh"
echo "nameserver 10.0.2.3" >"$root/etc/resolv.conf"
# What this machine trusts: there may be a mirror with a certificate of its own.
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
echo "fresh: Debian $(cat "$root/etc/debian_version") with $(du -sh --exclude=usr/local "$root" | cut -f1) and Go is ready after $((SECONDS - begun)) s"

[ -z "$cgroup_root" ] || mkdir "$cgroup"
mkfifo "$work/gate.$$"
(
	[ -z "$cgroup_root" ] || echo $BASHPID >"$cgroup/cgroup.procs"
	exec unshare --net --mount --uts --ipc --pid --cgroup --fork --kill-child --mount-proc="$root/proc" \
		sh -ec '
			# Not chroot: the root of a machine is a mount.
			mount --rbind "$1" "$1"
			mount -t sysfs sys "$1/sys"
			mount -t cgroup2 cgroup "$1/sys/fs/cgroup"
			mount -t bpf bpf "$1/sys/fs/bpf"
			mount --rbind /dev "$1/dev"
			mount --make-rslave "$1/dev"
			mount -t tmpfs run "$1/run"
			mount -t tmpfs tmp "$1/tmp"
			echo ready >"$3"
			while [ ! -e "$1/etc/network-is-up" ]; do sleep 0.1; done
			rm "$1/etc/network-is-up"; touch "$1/run/network-is-up"
			cd "$1"
			pivot_root . .
			umount -l .
			exec bash /fresh.sh inside "$2"' sh "$root" "$what" "$work/gate.$$"
) &
child=$!
read -r _ <"$work/gate.$$"
rm "$work/gate.$$"
slirp4netns --configure --mtu=1500 --disable-host-loopback "$(pgrep -P "$child" | head -1)" tap0 >"$work/slirp.log" 2>&1 &
slirp=$!
sleep 1
touch "$root/etc/network-is-up"
code=0
wait "$child" || code=$?
child=''
echo "fresh: $what $([ $code = 0 ] && echo passed || echo "failed, exit $code") after $((SECONDS - begun)) s in all"
exit $code
