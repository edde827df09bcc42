// SPDX-License-Identifier: Apache-2.0

package main

import "cmp"

// suite is one test binary, or fairlead itself, in the guest.
type suite struct {
	name string
	file string // under bin/vm/bin-ARCH, and /t in the guest
	args []string
	test bool   // takes the flags of a Go test binary
	dir  string // where it runs; "": /root
}

var suites = []suite{
	{name: "bpf", file: "bpf.test", test: true},
	{name: "packet", file: "packet.test", test: true},
	{name: "attach", file: "attach.test", test: true},
	{name: "netns", file: "netns.test", test: true, dir: "/src/test/netns"},
	{name: "doctor", file: "fairlead", args: []string{"doctor"}},
}

func suiteNames() []string {
	var names []string
	for _, s := range suites {
		names = append(names, s.name)
	}
	return names
}

// heavy tests run a million packets: too long without hardware virtualization,
// and what they prove does not depend on the kernel. Others of the kind are
// run with fewer (environment in guest.go).
const heavy = "OverAllCarries|Flood|HasRoom"

// job is what the guest's first process runs.
type job struct {
	Name string
	Args []string
	Dir  string
}

func jobs(names []string, run, skip string) []job {
	var out []job
	for _, n := range names {
		for _, s := range suites {
			if s.name != n {
				continue
			}
			args := append([]string{"/t/" + s.file}, s.args...)
			if s.test {
				args = append(args, "-test.v", "-test.timeout=0")
				if skip != "" {
					args = append(args, "-test.skip="+skip)
				}
				if run != "" {
					args = append(args, "-test.run="+run)
				}
			}
			out = append(out, job{n, args, cmp.Or(s.dir, "/root")})
		}
	}
	return out
}

// modules are loaded before the tests: no modprobe runs in the guest.
var modules = []string{
	"veth", "sch_ingress", "cls_bpf", "act_mirred", "tun", "bridge", "vxlan", "macvlan", "dummy", "ifb",
	"nf_tables", "nft_chain_nat", "nft_nat", "nft_ct", "nft_numgen", "nft_compat", "nft_masq", "nft_redir", "nft_fib_inet",
	"nft_reject_inet", "virtio_rng",
}

// tools of this machine that the namespace tests run; amd64 only.
var tools = []string{
	"ip", "tc", "ss", "nft", "ethtool", "curl", "ping", "nsenter", "iperf3", "wrk", "traceroute", "bpftool", "sh", "bash", "sed", "cat", "sleep",
	"grep", "nc", "kill", "sysctl", "tcpdump", "iptables", "mount", "umount", "seq",
	"getent", "timeout", "false", "true", "openssl", "awk", "cut", "sort", "head", "tail", "tr", "wc", "find", "readlink", "uname", "rm", "mkdir", "ls", "ps",
	"python3",
}

// bigTools come with the trees only: their libraries are large.
var bigTools = []string{"named"}

// trees of files that tools read, as patterns, and the directories in them that no
// test needs.
var (
	trees = []string{
		"/usr/bin/python3.[0-9]*", "/usr/lib/python3.[0-9]*", "/usr/lib/python3/dist-packages/jwt",
		"/usr/lib/python3/dist-packages/cryptography", "/usr/lib/python3/dist-packages/_cffi_backend*",
		"/usr/lib/*-linux-gnu/ossl-modules", // python3-cryptography refuses to start without OpenSSL's legacy module
	}
	unused = []string{"__pycache__", "test", "tests", "idlelib", "lib2to3", "ensurepip", "distutils", "tkinter", "pydoc_data", "config-*"}
)
