// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// setGRO switches generic receive offload on, by the ioctl of ethtool(8).
func setGRO(name string) error {
	const ethtoolSGRO = 0x2c
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	value := [2]uint32{ethtoolSGRO, 1}
	req := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(req.name[:], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	runtime.KeepAlive(&value)
	if errno != 0 {
		return errno
	}
	return nil
}
