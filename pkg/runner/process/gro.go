// SPDX-License-Identifier: Apache-2.0

package process

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests of linux/ethtool.h.
const ethtoolSetGRO = 0x2c

// enableGRO switches generic receive offload on for a link of the thread's
// namespace. A veth polls (NAPI) only with GRO or an XDP program of its own;
// without it, frames that XDP redirects to its peer are lost without a trace.
// Kernels before 5.13 have no such switch on a veth.
func enableGRO(link string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	value := struct{ cmd, data uint32 }{ethtoolSetGRO, 1} // struct ethtool_value
	req := struct {                                       // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(req.name[:unix.IFNAMSIZ-1], link)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	if errno != 0 {
		return errno
	}
	return nil
}
