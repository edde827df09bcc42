// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/florianl/go-tc"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/pkg/nexthop"
)

// Our filters are known by the beginning of their name.
const (
	filterPrefix = "fl_"
	filterName   = "fl_tc"
	filterHandle = 0xf1 // any; others count from 1
	qdiscMark    = "qdisc_clsact_"
)

// filter is a cls_bpf filter of ours at the ingress of an interface.
type filter struct {
	prio    uint16
	handle  uint32
	program ebpf.ProgramID
}

// kernel holds the netlink sockets, opened in the namespace of the agent.
type kernel struct {
	links *nexthop.Links
	rt    *netlink.Handle // lists qdiscs and filters; it skips what it does not know
	tc    *tc.Tc          // changes them
}

func openKernel() (*kernel, error) {
	links, err := nexthop.OpenLinks()
	if err != nil {
		return nil, err
	}
	k := &kernel{links: links}
	if k.rt, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		k.close()
		return nil, fmt.Errorf("open rtnetlink socket: %w", err)
	}
	if k.tc, err = tc.Open(&tc.Config{}); err != nil {
		k.close()
		return nil, fmt.Errorf("open traffic control socket: %w", err)
	}
	return k, nil
}

func (k *kernel) close() {
	k.links.Close()
	if k.rt != nil {
		k.rt.Close()
	}
	if k.tc != nil {
		_ = k.tc.Close()
	}
}

// has tells whether an interface is there (still); its going is announced and
// leads to another pass.
func (k *kernel) has(ifindex uint32) bool {
	_, err := k.rt.LinkByIndex(int(ifindex))
	return !errors.As(err, new(netlink.LinkNotFoundError))
}

// ourFilters finds our filter on each interface that has one.
func (k *kernel) ourFilters(links []nexthop.Link) (map[uint32]*filter, error) {
	qdiscs, err := k.ingressQdiscs()
	if err != nil {
		return nil, err
	}
	found := map[uint32]*filter{}
	for _, l := range links {
		if !qdiscs[l.Index] {
			continue
		}
		filters, err := k.filters(l.Index, netlink.HANDLE_MIN_INGRESS)
		if err != nil {
			return nil, err
		}
		for _, f := range filters {
			if b, ok := f.(*netlink.BpfFilter); ok && strings.HasPrefix(b.Name, filterPrefix) {
				found[l.Index] = &filter{prio: b.Priority, handle: b.Handle, program: ebpf.ProgramID(b.Id)}
			}
		}
	}
	return found, nil
}

// ingressQdiscs lists the interfaces that have a clsact or ingress qdisc.
func (k *kernel) ingressQdiscs() (map[uint32]bool, error) {
	qdiscs, err := again(func() ([]netlink.Qdisc, error) { return k.rt.QdiscList(nil) })
	if err != nil {
		return nil, fmt.Errorf("list qdiscs: %w", err)
	}
	found := map[uint32]bool{}
	for _, q := range qdiscs {
		if q.Attrs().Parent == netlink.HANDLE_CLSACT {
			found[uint32(q.Attrs().LinkIndex)] = true
		}
	}
	return found, nil
}

func (k *kernel) filters(ifindex, parent uint32) ([]netlink.Filter, error) {
	dev := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: int(ifindex)}}
	filters, err := again(func() ([]netlink.Filter, error) { return k.rt.FilterList(dev, parent) })
	// The interface or its qdisc may have gone since it was listed.
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list filters of interface %d: %w", ifindex, err)
	}
	return filters, nil
}

// putFilter attaches the program by clsact. An old filter of ours is replaced
// in place, which the kernel does between two packets.
func (k *kernel) putFilter(pinDir string, l nexthop.Link, old *filter, prog *ebpf.Program) (*filter, error) {
	id, err := programID(prog)
	if err != nil {
		return nil, err
	}
	if old != nil {
		f := &filter{prio: old.prio, handle: old.handle, program: id}
		if err := k.tc.Filter().Replace(f.object(l.Index, prog)); err != nil {
			return nil, fmt.Errorf("replace clsact filter: %w", err)
		}
		return f, nil
	}
	if err := k.ensureQdisc(pinDir, l); err != nil {
		return nil, err
	}
	prio, err := k.freePrio(l.Index)
	if err != nil {
		return nil, err
	}
	f := &filter{prio: prio, handle: filterHandle, program: id}
	if err := k.tc.Filter().Add(f.object(l.Index, prog)); err != nil {
		return nil, errors.Join(fmt.Errorf("add clsact filter: %w", err), k.dropQdisc(pinDir, l.Index))
	}
	return f, nil
}

// freePrio is the first priority no other filter has: filters of one priority
// must be of one kind, and ours must not replace another's.
func (k *kernel) freePrio(ifindex uint32) (uint16, error) {
	filters, err := k.filters(ifindex, netlink.HANDLE_MIN_INGRESS)
	if err != nil {
		return 0, err
	}
	used := map[uint16]bool{}
	for _, f := range filters {
		used[f.Attrs().Priority] = true
	}
	prio := uint16(1)
	for used[prio] {
		prio++
	}
	return prio, nil
}

// ensureQdisc makes the clsact qdisc and marks it as ours, unless there is one
// (or its elder, ingress) already.
func (k *kernel) ensureQdisc(pinDir string, l nexthop.Link) error {
	have, err := k.ingressQdiscs()
	if err != nil || have[l.Index] {
		return err
	}
	mark := filepath.Join(pinDir, qdiscMark+pinSuffix(l.Name, l.Index))
	if err := os.Mkdir(mark, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("mark the qdisc as ours: %w", err)
	}
	dev, err := k.rt.LinkByIndex(int(l.Index))
	if err != nil {
		return errors.Join(fmt.Errorf("look up interface: %w", err), os.Remove(mark))
	}
	if err := k.tc.Qdisc().Add(clsact(l.Index)); err != nil {
		return errors.Join(fmt.Errorf("add clsact qdisc: %w", err), os.Remove(mark))
	}
	// The kernel takes a queue length of 0 for an oversight and sets 1000
	// (qdisc_create in net/sched/sch_api.c); the host shall stay as it was.
	if dev.Attrs().TxQLen == 0 {
		if err := k.rt.LinkSetTxQLen(dev, 0); err != nil {
			return fmt.Errorf("keep queue length of %s: %w", l.Name, err)
		}
	}
	return nil
}

// dropFilter removes our filter, and the qdisc if we made it and nobody else
// has come to use it.
func (k *kernel) dropFilter(pinDir string, ifindex uint32, f *filter) error {
	if err := k.tc.Filter().Delete(f.object(ifindex, nil)); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return k.dropQdisc(pinDir, ifindex)
}

func (k *kernel) dropQdisc(pinDir string, ifindex uint32) error {
	ours, err := markedQdisc(pinDir, ifindex)
	if err != nil || !ours {
		return err
	}
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		others, err := k.filters(ifindex, parent)
		if err != nil {
			return err
		}
		if len(others) > 0 {
			return unmarkQdisc(pinDir, ifindex)
		}
	}
	if err := k.tc.Qdisc().Delete(clsact(ifindex)); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("delete clsact qdisc: %w", err)
	}
	return unmarkQdisc(pinDir, ifindex)
}

func clsact(ifindex uint32) *tc.Object {
	return &tc.Object{
		Msg: tc.Msg{
			Family: unix.AF_UNSPEC, Ifindex: ifindex,
			Handle: tc.HandleIngress &^ 0xffff, Parent: tc.HandleIngress,
		},
		Attribute: tc.Attribute{Kind: "clsact"},
	}
}

// object is the filter for go-tc; prog is nil to delete it.
func (f *filter) object(ifindex uint32, prog *ebpf.Program) *tc.Object {
	var proto [2]byte // the kernel wants the protocol in network order
	binary.BigEndian.PutUint16(proto[:], unix.ETH_P_ALL)
	o := &tc.Object{
		Msg: tc.Msg{
			Family: unix.AF_UNSPEC, Ifindex: ifindex, Handle: f.handle, Parent: netlink.HANDLE_MIN_INGRESS,
			Info: uint32(f.prio)<<16 | uint32(binary.NativeEndian.Uint16(proto[:])),
		},
		Attribute: tc.Attribute{Kind: "bpf"},
	}
	if prog != nil {
		fd, name, flags := uint32(prog.FD()), filterName, uint32(tc.BpfActDirect)
		o.BPF = &tc.Bpf{FD: &fd, Name: &name, Flags: &flags}
	}
	return o
}

func again[T any](dump func() ([]T, error)) ([]T, error) {
	found, err := dump()
	for n := 0; n < 4 && errors.Is(err, netlink.ErrDumpInterrupted); n++ {
		found, err = dump()
	}
	if errors.Is(err, netlink.ErrDumpInterrupted) {
		err = nil // what interrupted it is announced, and leads to another look
	}
	return found, err
}
