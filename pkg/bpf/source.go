// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// MaxSources is SOURCES of bpf/lib/maps.h.
const MaxSources = 256

// PortClass names one of the queues of free source ports.
type PortClass struct {
	UDP bool // else TCP
	V6  bool
}

// PortClasses are all of them.
var PortClasses = [...]PortClass{{}, {UDP: true}, {V6: true}, {UDP: true, V6: true}}

func (c PortClass) mapName() string {
	switch c {
	case PortClass{UDP: true}:
		return lbMapFlPortsUdp4
	case PortClass{V6: true}:
		return lbMapFlPortsTcp6
	case PortClass{UDP: true, V6: true}:
		return lbMapFlPortsUdp6
	}
	return lbMapFlPortsTcp4
}

// SourcePort is a port of a source, as the queues hold it.
type SourcePort struct {
	Source uint16 // index
	Port   uint16
}

// PortMark is a value that no flow takes: its source does not exist.
var PortMark = SourcePort{Source: 0xffff, Port: 0xffff}

// Sources reads the addresses that backends see in mode full-nat, by index;
// those that are not in use are invalid.
func (o *Objects) Sources() ([]netip.Addr, error) {
	out := make([]netip.Addr, MaxSources)
	for i := range out {
		var a [4]uint32
		if err := o.maps[lbMapFlSources].Lookup(uint32(i), &a); err != nil {
			return nil, fmt.Errorf("read source %d: %w", i, err)
		}
		out[i] = fromAddr(a)
	}
	return out, nil
}

// PutSource sets a source; an invalid address takes it away. Flows keep the
// address they have.
func (o *Objects) PutSource(i uint16, a netip.Addr) error {
	var v [4]uint32
	if a.IsValid() {
		v = toAddr(a)
	}
	if err := o.maps[lbMapFlSources].Put(uint32(i), v); err != nil {
		return fmt.Errorf("write source %d (%s): %w", i, a, err)
	}
	return nil
}

// PortLimit is how many free ports a class can hold.
func (o *Objects) PortLimit() uint32 { return o.maps[lbMapFlPortsTcp4].MaxEntries() }

// TakePort takes the port that rested longest; ok is false if there is none.
func (o *Objects) TakePort(c PortClass) (p SourcePort, ok bool, err error) {
	var v uint32
	err = o.maps[c.mapName()].LookupAndDelete(nil, &v)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return p, false, nil
	}
	if err != nil {
		return p, false, fmt.Errorf("take source port: %w", err)
	}
	return SourcePort{Source: uint16(v >> 16), Port: uint16(v)}, true, nil
}

// GivePort puts a port behind all that rest. Where there is no room for it, as
// ports of sources that are gone rest there too, it is left out: an audit makes
// room and finds it.
func (o *Objects) GivePort(c PortClass, p SourcePort) error {
	err := o.maps[c.mapName()].Put(nil, uint32(p.Source)<<16|uint32(p.Port))
	if err != nil && !errors.Is(err, unix.E2BIG) {
		return fmt.Errorf("give back source port %d: %w", p.Port, err)
	}
	return nil
}

// SetLoad sets the number of a backend's flows that new ones are compared by.
func (o *Objects) SetLoad(backend, flows uint32) error {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], flows)
	if _, err := o.loads.WriteAt(b[:], int64(backend)*8); err != nil {
		return fmt.Errorf("write load of backend %d: %w", backend, err)
	}
	return nil
}
