// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// linkPrefix begins the names of our pinned links.
const linkPrefix = "link_"

// pinned is a BPF link with its pin. Methods on nil do nothing.
type pinned struct {
	link link.Link
	path string

	prog *ebpf.Program // the last one that update was given, and its id
	id   ebpf.ProgramID
}

// pin pins a new link; on an error the link is closed, which detaches it.
// A pin of the same name is one whose link is not attached any more.
func pin(l link.Link, dir, name string) (*pinned, error) {
	path := filepath.Join(dir, name)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		_ = l.Close()
		return nil, fmt.Errorf("replace pin: %w", err)
	}
	if err := l.Pin(path); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("pin link: %w", err)
	}
	return &pinned{link: l, path: path}, nil
}

// on tells whether the link is attached to the interface.
func (p *pinned) on(ifindex uint32) bool {
	at, err := p.ifindex()
	return err == nil && at == ifindex
}

// ifindex is where the link is attached; 0: nowhere any more.
func (p *pinned) ifindex() (uint32, error) {
	info, err := p.link.Info()
	if err != nil {
		return 0, err
	}
	switch {
	case info.XDP() != nil:
		return info.XDP().Ifindex, nil
	case info.TCX() != nil:
		return info.TCX().Ifindex, nil
	}
	return 0, fmt.Errorf("%s is a link of type %d, not XDP or tcx", p.path, info.Type)
}

// update replaces the link's program in place, if it is another one.
func (p *pinned) update(prog *ebpf.Program) error {
	if p.prog != prog { // its id costs more to ask for than all the rest
		id, err := programID(prog)
		if err != nil {
			return err
		}
		p.prog, p.id = prog, id
	}
	info, err := p.link.Info()
	if err != nil {
		return err
	}
	if info.Program == p.id {
		return nil
	}
	if err := p.link.Update(prog); err != nil {
		return fmt.Errorf("replace program of %s: %w", filepath.Base(p.path), err)
	}
	return nil
}

// remove detaches the link and removes its pin.
func (p *pinned) remove() error {
	if p == nil {
		return nil
	}
	// Detaching, not only dropping the pin: somebody may hold the link open.
	// A link whose interface is gone refuses (ENOLINK), which is as good.
	_ = p.link.Detach()
	if err := os.Remove(p.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove pin: %w", err)
	}
	return p.link.Close()
}

// close gives the link back without detaching it: the pin holds it.
func (p *pinned) close() {
	if p != nil {
		_ = p.link.Close()
	}
}

// ifacePin names the pin of an interface's link.
func ifacePin(kind, name string, ifindex uint32) string {
	return linkPrefix + kind + "_" + pinSuffix(name, ifindex)
}

// pinSuffix is NAME_INDEX. A bpffs refuses dots in names.
func pinSuffix(name string, ifindex uint32) string {
	return strings.ReplaceAll(name, ".", "~") + "_" + strconv.FormatUint(uint64(ifindex), 10)
}

// loadPins opens all pinned links in dir, by name.
func loadPins(dir string) ([]*pinned, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list pins: %w", err)
	}
	var found []*pinned
	for _, e := range entries {
		if e.IsDir() || !strings.HasPrefix(e.Name(), linkPrefix) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		l, err := link.LoadPinnedLink(path, nil)
		if err != nil {
			for _, p := range found {
				p.close()
			}
			return nil, fmt.Errorf("open pin %s: %w", path, err)
		}
		found = append(found, &pinned{link: l, path: path})
	}
	return found, nil
}

// marks lists the marks of qdiscs we made in dir: path by interface index.
func marks(dir string) (map[uint32][]string, error) {
	paths, err := filepath.Glob(filepath.Join(dir, qdiscMark+"*"))
	if err != nil {
		return nil, fmt.Errorf("list qdisc marks: %w", err)
	}
	found := map[uint32][]string{}
	for _, p := range paths {
		index, err := strconv.ParseUint(p[strings.LastIndexByte(p, '_')+1:], 10, 32)
		if err == nil {
			found[uint32(index)] = append(found[uint32(index)], p)
		}
	}
	return found, nil
}

func markedQdisc(dir string, ifindex uint32) (bool, error) {
	m, err := marks(dir)
	return len(m[ifindex]) > 0, err
}

func unmarkQdisc(dir string, ifindex uint32) error {
	m, err := marks(dir)
	if err != nil {
		return err
	}
	for _, p := range slices.Concat(m[ifindex]) {
		if err := os.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove qdisc mark: %w", err)
		}
	}
	return nil
}

func programID(p *ebpf.Program) (ebpf.ProgramID, error) {
	info, err := p.Info()
	if err != nil {
		return 0, fmt.Errorf("ask for program: %w", err)
	}
	id, ok := info.ID()
	if !ok {
		return 0, errors.New("ask for program: the kernel gives no id")
	}
	return id, nil
}
