#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# leftovers.sh [host|here] [PATH…]: a sorted listing of everything fairlead
# could leave behind, one object a line, the same on every call when nothing
# changed. Two listings are compared with diff: before and after a test run,
# and before `fairlead run` and after `fairlead detach`.
#
#   host  (default) namespaces, links, processes, cgroups, mounts and BPF objects of the machine
#   here  only what belongs to the network namespace it is called in
#   PATH  files below these directories are listed too
#
# What counts time or packets is left out, and so is what changes by itself.
set -u

scope=host
case "${1:-}" in
host | here)
	scope=$1
	shift
	;;
esac

have() { command -v "$1" >/dev/null 2>&1; }

# each LABEL COMMAND…: the command's lines behind a label.
each() {
	label=$1
	shift
	"$@" 2>/dev/null | sed "s|^|$label |"
}

links() {
	ip -o link show | sed -E 's/^[0-9]+: //; s/ (qlen|link-netnsid) [0-9]+//g; s/ state [A-Z]+//; s/<[^>]*>//; s/\\.*//'
	# XDP shows in the link's flags line only: keep its kind.
	ip -o link show | grep -E ' (xdp|xdpgeneric|xdpoffload)[/ ]' | sed -E 's/^[0-9]+: ([^:]+):.*(xdp[a-z]*).*/\1 carries \2/'
}

sysctls() {
	for f in /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding \
		/proc/sys/net/ipv4/conf/*/rp_filter /proc/sys/net/ipv4/conf/*/route_localnet \
		/proc/sys/net/ipv4/conf/*/accept_local /proc/sys/net/ipv4/conf/*/proxy_arp \
		/proc/sys/net/ipv6/conf/*/accept_ra /proc/sys/net/ipv6/conf/*/disable_ipv6; do
		[ -r "$f" ] && echo "$f=$(cat "$f" 2>/dev/null)"
	done
}

filters() {
	for dev in $(ip -o link show | sed -E 's/^[0-9]+: ([^:@]+).*/\1/'); do
		for hook in ingress egress; do
			tc filter show dev "$dev" $hook 2>/dev/null | sed "s|^|$dev $hook |"
		done
	done
	if have bpftool; then
		bpftool net show 2>/dev/null | grep -E '^[^ ]+\([0-9]+\)' | sed -E 's/ (prog_)?id [0-9]+//g; s/ link_id [0-9]+//g; s/\([0-9]+\)/ /'
	fi
}

namespace() {
	each link links
	each addr sh -c "ip -o addr show | sed -E 's/^[0-9]+: //; s/valid_lft.*//; s/\\\\\\\\.*//'"
	each route ip -4 route show table all
	each route6 sh -c "ip -6 route show table all | sed -E 's/ expires [0-9]+sec//'"
	each rule ip -4 rule show
	each rule6 ip -6 rule show
	each qdisc sh -c "tc qdisc show | sed -E 's/ refcnt [0-9]+//'"
	each filter filters
	each neigh-proxy ip neigh show proxy
	have nft && each nft nft -s list ruleset
	have iptables-save && each iptables sh -c "iptables-save 2>/dev/null | grep -v '^[#:]'"
	each sysctl sysctls
}

cgroups() {
	mount=$(sed -nE 's/^[^ ]+ ([^ ]+) cgroup2 .*/\1/p' /proc/mounts | head -1)
	[ -n "$mount" ] || return 0
	find "$mount" -mindepth 1 -type d
	have bpftool && bpftool cgroup tree "$mount" 2>/dev/null |
		awk '/^\// { at = $1; next } $1 ~ /^[0-9]+$/ { print at, $2, $NF }'
}

objects() {
	have bpftool || return 0
	bpftool prog show 2>/dev/null | sed -nE 's/^[0-9]+: ([a-z_]+) +(name ([^ ]+) )?.*/prog \1 \3/p'
	bpftool map show 2>/dev/null | sed -nE 's/^[0-9]+: ([a-z_]+) +(name ([^ ]+) )?.*/map \1 \3/p'
	bpftool link show 2>/dev/null | sed -nE 's/^[0-9]+: ([a-z_]+) .*/link \1/p'
}

pins() {
	sed -nE 's/^[^ ]+ ([^ ]+) bpf .*/\1/p' /proc/mounts | while read -r dir; do
		find "$dir" -mindepth 1
	done
}

processes() {
	for exe in /proc/[0-9]*/exe; do
		case $(readlink "$exe" 2>/dev/null) in
		*/fairlead | */fairlead\ *) echo "$(readlink "$exe") $(tr '\0' ' ' <"${exe%exe}cmdline" 2>/dev/null)" ;;
		esac
	done
}

{
	namespace
	if [ "$scope" = host ]; then
		each netns sh -c "ls /run/netns"
		each cgroup cgroups
		each mount sh -c "cut -d' ' -f2,3 /proc/mounts"
		each bpf objects
		each pin pins
		each process processes
		each state sh -c "ls -d /run/fairlead /var/lib/fairlead"
	fi
	for path in "$@"; do
		each file find "$path"
	done
} | LC_ALL=C sort
