// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
)

// Detach takes everything of ours off this host, for `fairlead detach` when no
// agent runs: every link pinned in pinDir, every clsact filter of our name and
// the qdiscs we made. removed says in words what was taken off. All is tried;
// the errors are joined.
func Detach(pinDir string) (removed []string, err error) {
	k, err := openKernel()
	if err != nil {
		return nil, err
	}
	defer k.close()
	links, err := k.links.List()
	if err != nil {
		return nil, err
	}
	byIndex := map[uint32]string{}
	for _, l := range links {
		byIndex[l.Index] = l.Name
	}
	var errs []error
	pins, err := loadPins(pinDir)
	errs = append(errs, err)
	for _, p := range pins {
		words := p.words(byIndex)
		if err := p.remove(); err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(removed, words)
	}
	filters, err := k.ourFilters(links)
	errs = append(errs, err)
	for _, l := range links {
		f := filters[l.Index]
		if f == nil {
			errs = append(errs, k.dropQdisc(pinDir, l.Index))
			continue
		}
		if err := k.dropFilter(pinDir, l.Index, f); err != nil {
			errs = append(errs, fmt.Errorf("detach clsact filter of %s: %w", l.Name, err))
			continue
		}
		removed = append(removed, "clsact program of "+l.Name)
	}
	errs = append(errs, unmarkAll(pinDir))
	return removed, errors.Join(errs...)
}

// unmarkAll removes the marks of interfaces that are gone.
func unmarkAll(pinDir string) error {
	m, err := marks(pinDir)
	if err != nil {
		return err
	}
	var errs []error
	for _, paths := range m {
		for _, p := range paths {
			if err := os.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// words says what a link is.
func (p *pinned) words(names map[uint32]string) string {
	info, err := p.link.Info()
	if err != nil {
		return "pin " + filepath.Base(p.path)
	}
	on := func(kind string, ifindex uint32) string {
		if names[ifindex] == "" {
			return fmt.Sprintf("%s program of an interface that is gone (pin %s)", kind, filepath.Base(p.path))
		}
		return kind + " program of " + names[ifindex]
	}
	switch {
	case info.XDP() != nil:
		return on("XDP", info.XDP().Ifindex)
	case info.TCX() != nil:
		return on("tcx", info.TCX().Ifindex)
	case info.Cgroup() != nil:
		return hookName(ebpf.AttachType(info.Cgroup().AttachType)) + " hook of the cgroup"
	}
	return "pin " + filepath.Base(p.path)
}
