// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"testing"

	"golang.org/x/sys/unix"
)

// The hook sees what a socket tells where the kernel lets it (Linux 5.14).
func TestHookedCookie(t *testing.T) {
	needRoot(t)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	got, err := hookedCookie(fd)
	if err != nil || got == 0 {
		t.Fatalf("cookie %d: %v", got, err)
	}
	if want, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err == nil && got != want {
		t.Errorf("the hook saw namespace %d, the socket says %d", got, want)
	}
	all, err := NetnsCookie()
	if err != nil || all != got {
		t.Errorf("NetnsCookie: %d, %v; the hook saw %d", all, err, got)
	}
}
