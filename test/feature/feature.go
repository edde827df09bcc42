// SPDX-License-Identifier: Apache-2.0

// Package feature tells tests what the running kernel lacks. A feature that is
// missing is skipped by its name, but only on kernels older than the one that
// brought it: on a newer one its absence fails the test, so that nothing hides
// behind a broken probe.
package feature

import (
	"encoding/binary"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
)

// Feature is something that not every supported kernel (5.10 on) has.
type Feature struct {
	Name         string
	major, minor int // the first kernel with it
	probe        func() error
}

var (
	// TCX is the attachment of TC programs by links.
	TCX = Feature{"tcx", 6, 6, sync.OnceValue(func() error {
		_, err := link.QueryPrograms(link.QueryOptions{Target: 1, Attach: ebpf.AttachTCXIngress})
		return err
	})}
	// SetRetval lets a connect hook say why it refuses.
	SetRetval = Feature{"bpf_set_retval", 5, 18, sync.OnceValue(bpf.ProbeSetRetval)}
	// CheckMTU tells whether a packet fits the link it is to leave by.
	CheckMTU = Feature{"bpf_check_mtu", 5, 12, sync.OnceValue(bpf.ProbeCheckMTU)}
	// XDPFrags is XDP on frames of several buffers: jumbo ones.
	XDPFrags = Feature{"XDP on frames of several buffers", 5, 18, sync.OnceValue(probeXDPFrags)}
	// XDPTestContext is BPF_PROG_TEST_RUN of XDP as if from a given interface.
	XDPTestContext = Feature{"test runs of XDP with an interface", 5, 15, sync.OnceValue(probeXDPContext)}
)

// Has tells whether the kernel has a feature. It fails the test if it has not
// though it is new enough.
func Has(t testing.TB, f Feature) bool {
	t.Helper()
	err := f.probe()
	if err == nil {
		return true
	}
	release := running()
	if !older(release, f.major, f.minor) {
		t.Fatalf("%s: this kernel (%s) should have it, Linux %d.%d brought it: %v", f.Name, release, f.major, f.minor, err)
	}
	return false
}

// Needs skips the test on a kernel that is too old for a feature.
func Needs(t testing.TB, f Feature) {
	t.Helper()
	if !Has(t, f) {
		t.Skipf("%s (Linux %d.%d)", f.Name, f.major, f.minor)
	}
}

// Lacks is for a test that has found a feature missing by itself: it skips the
// test on a kernel that is too old for it, and fails it on any other.
func Lacks(t testing.TB, name string, major, minor int) {
	t.Helper()
	if release := running(); !older(release, major, minor) {
		t.Fatalf("%s: this kernel (%s) should have it, Linux %d.%d brought it", name, release, major, minor)
	}
	t.Skipf("%s (Linux %d.%d)", name, major, minor)
}

// BestTC is how TC programs are attached where node.tc is auto.
func BestTC(t testing.TB) string {
	t.Helper()
	if Has(t, TCX) {
		return "tcx"
	}
	return "clsact"
}

// WaysTC are the values of node.tc that this kernel serves.
func WaysTC(t testing.TB) []string {
	t.Helper()
	if Has(t, TCX) {
		return []string{"tcx", "clsact"}
	}
	return []string{"clsact"}
}

func running() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// older compares a release such as "6.1.0-56-cloud-amd64". One that cannot be
// read is not older: no test is skipped for it.
func older(release string, major, minor int) bool {
	a, rest, _ := strings.Cut(release, ".")
	b, _, _ := strings.Cut(rest, ".")
	b = b[:len(b)-len(strings.TrimLeft(b, "0123456789"))]
	gotMajor, err1 := strconv.Atoi(a)
	gotMinor, err2 := strconv.Atoi(b)
	if err1 != nil || err2 != nil {
		return false
	}
	return gotMajor < major || gotMajor == major && gotMinor < minor
}

// passAll is the least XDP program.
func passAll(flags uint32) (*ebpf.Program, error) {
	return ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, License: "GPL", Flags: flags,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
	})
}

func probeXDPFrags() error {
	prog, err := passAll(unix.BPF_F_XDP_HAS_FRAGS)
	if err != nil {
		return err
	}
	return prog.Close()
}

func probeXDPContext() error {
	prog, err := passAll(0)
	if err != nil {
		return err
	}
	defer prog.Close()
	frame := make([]byte, 64)
	ctx := make([]byte, 24)
	binary.NativeEndian.PutUint32(ctx[4:], uint32(len(frame)))
	_, err = prog.Run(&ebpf.RunOptions{Data: frame, DataOut: make([]byte, 320), Context: ctx})
	return err
}
