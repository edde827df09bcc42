// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/nexthop"
)

// Fact is one thing this host offers or lacks.
type Fact struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	// Unknown: it could not be asked for. Then OK is false.
	Unknown bool   `json:"unknown,omitempty"`
	Value   string `json:"value"`          // what was found
	Lost    string `json:"lost,omitempty"` // what is lost without it
	Fix     string `json:"fix,omitempty"`  // what to do
}

// Probe tells what this host offers to the data plane, and leaves it as it was.
func Probe() []Fact {
	facts := []Fact{
		probeKernel(),
		probeCapability("CAP_NET_ADMIN", unix.CAP_NET_ADMIN, "programs cannot be attached to interfaces and cgroups"),
		probeCapability("CAP_BPF", unix.CAP_BPF, "programs and maps cannot be loaded"),
		probeProgramType("XDP programs", ebpf.XDP, "clients' packets are balanced by TC, later in the stack"),
		probeProgramType("TC programs", ebpf.SchedCLS, "replies of replicas are not translated: nothing works"),
		probeProgramType("connect hooks", ebpf.CGroupSockAddr, "clients on this host do not reach services"),
		probeSetRetval(), probeNetnsCookie(), probeCheckMTU(), probeTCX(), probeCgroup(), probeBPFFS(), probeBTF(),
	}
	return append(facts, probeInterfaces()...)
}

func probeKernel() Fact {
	f := Fact{Name: "kernel"}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		f.Value = err.Error()
		return f
	}
	f.Value = unix.ByteSliceToString(u.Release[:])
	f.OK = atLeast(f.Value, 5, 10)
	if !f.OK {
		f.Lost = "BPF links that are replaced in place, and with them forwarding that outlives the agent"
		f.Fix = "run Linux 5.10 or newer"
	}
	return f
}

// atLeast compares a kernel release such as "6.1.0-18-amd64".
func atLeast(release string, major, minor int) bool {
	parts := strings.SplitN(release, ".", 3)
	if len(parts) < 2 {
		return false
	}
	gotMajor, err := strconv.Atoi(parts[0])
	if err != nil {
		return false
	}
	end := strings.IndexFunc(parts[1], func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(parts[1])
	}
	gotMinor, err := strconv.Atoi(parts[1][:end])
	return err == nil && (gotMajor > major || gotMajor == major && gotMinor >= minor)
}

func probeCapability(name string, bit uint, lost string) Fact {
	f := Fact{Name: name, Lost: lost, Fix: "run as root, or give the service the capability (AmbientCapabilities=" + name + ")"}
	held, err := effectiveCaps()
	if err != nil {
		f.Value = err.Error()
		return f
	}
	// Before Linux 5.8 CAP_SYS_ADMIN was what CAP_BPF is now; it still implies it.
	f.OK = held&(1<<bit) != 0 || bit == unix.CAP_BPF && held&(1<<unix.CAP_SYS_ADMIN) != 0
	f.Value = "missing"
	if f.OK {
		f.Value, f.Lost, f.Fix = "held", "", ""
	}
	return f
}

func effectiveCaps() (uint64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, fmt.Errorf("read capabilities: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			return strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
		}
	}
	return 0, errors.New("read capabilities: /proc/self/status has no CapEff")
}

func probeProgramType(name string, typ ebpf.ProgramType, lost string) Fact {
	err := features.HaveProgramType(typ)
	if err == nil {
		return Fact{Name: name, OK: true, Value: "supported"}
	}
	f := Fact{Name: name, Value: err.Error(), Lost: lost, Fix: "run a kernel built with CONFIG_BPF_SYSCALL, CONFIG_CGROUP_BPF and CONFIG_NET_CLS_BPF"}
	if errors.Is(err, os.ErrPermission) {
		f.Unknown, f.Value, f.Fix = true, needsRoot, "run the doctor as root"
	}
	return f
}

// probeSetRetval asks whether a connect hook can say why it refuses.
func probeSetRetval() Fact {
	f := Fact{
		Name: "connect refusals",
		Lost: "a connection from this host to a service without replicas ends with \"operation not permitted\" instead of \"connection refused\"",
		Fix:  "Linux 5.18 brought bpf_set_retval",
	}
	err := bpf.ProbeSetRetval()
	switch {
	case err == nil:
		return Fact{Name: f.Name, OK: true, Value: "connection refused"}
	case errors.Is(err, os.ErrPermission):
		f.Unknown, f.Value, f.Fix = true, needsRoot, "run the doctor as root"
	default:
		f.Value = "operation not permitted"
	}
	return f
}

// probeNetnsCookie asks whether the agent can tell its network namespace to
// the connect hooks.
func probeNetnsCookie() Fact {
	f := Fact{
		Name: "namespace of connect hooks",
		Lost: "connect hooks serve processes in the machine's own network namespace, even if fairlead runs in another",
		Fix:  "run fairlead in the machine's network namespace, or on Linux 5.14, which brought SO_NETNS_COOKIE",
	}
	_, err := bpf.NetnsCookie()
	switch {
	case err == nil:
		return Fact{Name: f.Name, OK: true, Value: "fairlead's own"}
	case errors.Is(err, os.ErrPermission):
		f.Unknown, f.Value, f.Fix = true, needsRoot, "run the doctor as root"
	default:
		f.Value = "that of the machine: " + err.Error()
	}
	return f
}

// probeCheckMTU asks whether the kernel tells programs the MTU of any link.
func probeCheckMTU() Fact {
	f := Fact{
		Name: "packets too big for a link",
		Lost: "a packet that is too big for a link without fairlead's programs, by which it is to leave, may be lost and nobody told",
		Fix:  "name the links towards clients in node.interfaces; Linux 5.12 brought bpf_check_mtu",
	}
	err := bpf.ProbeCheckMTU()
	switch {
	case err == nil:
		return Fact{Name: f.Name, OK: true, Value: "answered with its MTU"}
	case errors.Is(err, os.ErrPermission):
		f.Unknown, f.Value, f.Fix = true, needsRoot, "run the doctor as root"
	default:
		f.Value = "answered where the link carries fairlead's programs"
	}
	return f
}

// needsRoot is the value of what only root may ask.
const needsRoot = "unknown: needs root to be asked"

// probeTCX asks which programs the loopback carries by tcx: a kernel without
// tcx does not know the question. Index 1 is the loopback in any namespace.
func probeTCX() Fact {
	_, err := link.QueryPrograms(link.QueryOptions{Target: 1, Attach: ebpf.AttachTCXIngress})
	caps, capErr := effectiveCaps()
	return tcxFact(err, capErr == nil && caps&(1<<unix.CAP_NET_ADMIN|1<<unix.CAP_SYS_ADMIN) != 0)
}

// tcxFact reads the kernel's answer. To who may not ask the library says that
// the question is not supported.
func tcxFact(err error, mayAsk bool) Fact {
	f := Fact{Name: "tcx", Lost: "nothing that works is lost: TC programs are attached by clsact, for which another agent's qdisc changes matter more", Fix: "Linux 6.6 brought tcx"}
	switch {
	case err == nil:
		return Fact{Name: f.Name, OK: true, Value: "supported"}
	case !mayAsk || errors.Is(err, os.ErrPermission):
		f.Unknown, f.Value, f.Fix = true, needsRoot, "run the doctor as root"
	default:
		f.Value = "not supported"
	}
	return f
}

func probeCgroup() Fact {
	root, err := CgroupRoot()
	if err != nil {
		return Fact{
			Name: "cgroup2", Value: "none mounted",
			Lost: "clients on this host do not reach services by connect-time hooks, and replicas get no cgroup of their own",
			Fix:  "mount -t cgroup2 none /sys/fs/cgroup/unified",
		}
	}
	return Fact{Name: "cgroup2", OK: true, Value: root}
}

func probeBPFFS() Fact {
	mounts, err := mountPoints("bpf")
	if err == nil && len(mounts) > 0 {
		return Fact{Name: "bpffs", OK: true, Value: "mounted at " + strings.Join(mounts, ", ")}
	}
	b, _ := os.ReadFile("/proc/filesystems")
	if strings.Contains(string(b), "\tbpf\n") {
		return Fact{Name: "bpffs", OK: true, Value: "not mounted yet; fairlead run mounts its own"}
	}
	return Fact{Name: "bpffs", Value: "the kernel has none", Lost: "forwarding ends with the agent", Fix: "run a kernel built with CONFIG_BPF_SYSCALL"}
}

func probeBTF() Fact {
	const file = "/sys/kernel/btf/vmlinux"
	if _, err := os.Stat(file); err != nil {
		return Fact{
			Name: "BTF", Value: "none", Lost: "nothing: fairlead's programs need none; tools such as bpftrace do",
			Fix: "a kernel built with CONFIG_DEBUG_INFO_BTF has it",
		}
	}
	return Fact{Name: "BTF", OK: true, Value: file}
}

// probeInterfaces tells how each interface that a client may come in by can
// carry XDP: real hardware, and whatever a default route leads through.
func probeInterfaces() []Fact {
	links, err := nexthop.OpenLinks()
	if err != nil {
		return []Fact{{Name: "interfaces", Value: err.Error()}}
	}
	defer links.Close()
	all, err := links.List()
	if err != nil {
		return []Fact{{Name: "interfaces", Value: err.Error()}}
	}
	defaults, err := links.Default()
	if err != nil {
		return []Fact{{Name: "interfaces", Value: err.Error()}}
	}
	var facts []Fact
	for _, l := range all {
		if !l.Loopback && (l.Kind == "" || slices.Contains(defaults, l.Index)) {
			facts = append(facts, probeInterface(links, l))
		}
	}
	return facts
}

func probeInterface(links *nexthop.Links, l nexthop.Link) Fact {
	f := Fact{Name: "XDP on " + l.Name, OK: true}
	can, err := links.XDPFeatures(l.Index)
	modes := xdpModes("auto", l)
	switch {
	case err != nil:
		f.OK, f.Value = false, err.Error()
	case l.Raw:
		f.OK, f.Value = false, fmt.Sprintf("no Ethernet header (it is of kind %s): not served", cmp.Or(l.Kind, "unknown"))
		f.Lost, f.Fix = "clients that come in by it", "let clients come in by an interface with Ethernet frames"
	case len(modes) == 0:
		f.Value = fmt.Sprintf("a virtual device (%s): TC is the better way there", l.Kind)
	case !can.Known:
		f.Value = "the kernel (before 6.3) does not tell; native is tried first, then generic, then TC"
	case can.Basic && can.Redirect:
		f.Value = "native"
	case can.Basic:
		f.OK, f.Value = false, "native, without redirect"
		f.Lost, f.Fix = "packets to replicas behind other interfaces take the TC program", "a driver with XDP_REDIRECT has it"
	default:
		f.OK, f.Value = false, "generic: the driver has no native XDP"
		f.Lost, f.Fix = "the speed of XDP before the kernel allocates buffers", "use a network card whose driver has native XDP, or node.attach: tc"
	}
	if l.XDPProg != 0 {
		f.Value += fmt.Sprintf("; carries a %s program now (id %d)", l.XDPMode, l.XDPProg)
	}
	return f
}
