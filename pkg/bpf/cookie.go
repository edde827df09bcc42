// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// NetnsCookie is the kernel's number of the network namespace this process is
// in, by which connect hooks know it. From Linux 5.14 on a socket tells it.
// Before, a hook does that is attached to this process's own cgroup for a moment.
func NetnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err == nil {
		return cookie, nil
	}
	return hookedCookie(fd)
}

// hookedCookie has a connect hook look at a UDP socket of this process, which
// it connects.
func hookedCookie(fd int) (uint64, error) {
	dir, err := ownCgroup()
	if err != nil {
		return 0, err
	}
	socket, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("identify a socket: %w", err)
	}
	told, err := ebpf.NewMap(&ebpf.MapSpec{Name: "fl_cookie", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		return 0, fmt.Errorf("make a map: %w", err)
	}
	defer told.Close()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "fl_cookie", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "GPL",
		Instructions: cookieHook(socket, told),
	})
	if err != nil {
		return 0, fmt.Errorf("load a hook: %w", err)
	}
	defer prog.Close()
	l, err := link.AttachCgroup(link.CgroupOptions{Path: dir, Attach: ebpf.AttachCGroupInet4Connect, Program: prog})
	if err != nil {
		return 0, fmt.Errorf("attach a hook to %s: %w", dir, err)
	}
	defer l.Close()
	// To nobody: connecting UDP sends nothing, and the hook is asked before the route.
	_ = unix.Connect(fd, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}})
	var cookie uint64
	if err := told.Lookup(uint32(0), &cookie); err != nil {
		return 0, fmt.Errorf("read what the hook saw: %w", err)
	}
	if cookie == 0 {
		return 0, fmt.Errorf("the hook at %s saw nothing", dir)
	}
	return cookie, nil
}

// cookieHook lets every connect pass, and at that of one socket writes the
// cookie of its namespace into the map.
func cookieHook(socket uint64, told *ebpf.Map) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.FnGetSocketCookie.Call(),
		asm.LoadImm(asm.R1, int64(socket), asm.DWord),
		asm.JNE.Reg(asm.R0, asm.R1, "pass"),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.FnGetNetnsCookie.Call(),
		asm.Mov.Reg(asm.R7, asm.R0),
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, told.FD()),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "pass"),
		asm.StoreMem(asm.R0, 0, asm.R7, asm.DWord),
		asm.Mov.Imm(asm.R0, 1).WithSymbol("pass"),
		asm.Return(),
	}
}

// ownCgroup is the directory of the cgroup2 that this process is in.
func ownCgroup() (string, error) {
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	for line := range bytes.Lines(groups) {
		path, ok := strings.CutPrefix(strings.TrimSpace(string(line)), "0::")
		if !ok {
			continue
		}
		for mount := range bytes.Lines(mounts) {
			if f := strings.Fields(string(mount)); len(f) > 2 && f[2] == "cgroup2" {
				return filepath.Join(f[1], path), nil
			}
		}
	}
	return "", errors.New("no cgroup2 is mounted")
}
