// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// cpio writes the "newc" format that kernels unpack as their first root
// (Documentation/driver-api/early-userspace/buffer-format.rst).
type cpio struct {
	w    io.Writer
	n    int // inode
	dirs map[string]bool
	err  error
}

const (
	cpioFile = 0o100000
	cpioDir  = 0o040000
	cpioLink = 0o120000
)

func (c *cpio) entry(name string, mode int, data []byte) {
	if c.err != nil {
		return
	}
	c.n++
	var b bytes.Buffer
	fmt.Fprintf(&b, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", c.n, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
	b.WriteString(name + "\x00")
	pad(&b)
	b.Write(data)
	pad(&b)
	_, c.err = c.w.Write(b.Bytes())
}

func pad(b *bytes.Buffer) {
	for b.Len()%4 != 0 {
		b.WriteByte(0)
	}
}

// mkdir makes a directory and those above it, once.
func (c *cpio) mkdir(name string) {
	if name = strings.Trim(name, "/"); name == "" || name == "." || c.dirs[name] {
		return
	}
	c.mkdir(path.Dir(name))
	c.dirs[name] = true
	c.entry(name, cpioDir|0o755, nil)
}

func (c *cpio) file(name string, mode int, data []byte) {
	name = strings.Trim(name, "/")
	c.mkdir(path.Dir(name))
	c.entry(name, cpioFile|mode, data)
}

func (c *cpio) link(name, to string) { c.entry(name, cpioLink|0o777, []byte(to)) }

// writeImage makes the guest's first root: this program as /init, the tests,
// the kernel's modules and, where it is this machine's architecture, tools.
func writeImage(ctx context.Context, to string, k unpacked, jobs []job, cfg config) error {
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriter(f) // not compressed: a guest begins after 11 s of CPU with 163 MB so, after 20 s with 49 MB by gzip (5.10)
	c := &cpio{w: w, dirs: map[string]bool{}}
	for _, d := range []string{"proc", "sys", "dev", "tmp", "run", "var", "root", "etc"} {
		c.mkdir(d)
	}
	if err := putPrograms(c, jobs, cfg); err != nil {
		return err
	}
	if err := putModules(ctx, c, k); err != nil {
		return err
	}
	if cfg.arch == "amd64" {
		putTools(ctx, c, slices.Contains(strings.Split(cfg.suites, ","), "netns"))
	}
	c.entry("TRAILER!!!", 0, nil)
	if c.err != nil {
		return c.err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return f.Close()
}

func putPrograms(c *cpio, jobs []job, cfg config) error {
	list, err := json.Marshal(jobs)
	if err != nil {
		return err
	}
	c.file("jobs.json", 0o644, list)
	c.file("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\n"))
	c.file("etc/hosts", 0o644, []byte("127.0.0.1 localhost\n::1 localhost\n"))
	c.file("etc/nsswitch.conf", 0o644, []byte("hosts: files dns\n"))
	c.file("etc/resolv.conf", 0o644, []byte("nameserver 127.0.0.1\n"))
	if err := putSource(c); err != nil {
		return err
	}
	bin := filepath.Join(cfg.dir, "bin-"+cfg.arch)
	err = filepath.WalkDir(bin, func(file string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if strings.HasSuffix(file, ".test") && !slices.ContainsFunc(jobs, func(j job) bool { return filepath.Base(j.Args[0]) == filepath.Base(file) }) {
			return nil
		}
		name := "t/" + filepath.ToSlash(strings.TrimPrefix(file, bin+string(filepath.Separator)))
		if name == "t/vm" {
			name = "init"
		}
		c.file(name, 0o755, b)
		return nil
	})
	if err != nil {
		return fmt.Errorf("read test binaries: %w: make test-vm builds them", err)
	}
	return nil
}

// putSource adds what tests read of the source tree, below /src.
func putSource(c *cpio) error {
	c.mkdir("src/test/netns")
	files, err := filepath.Glob("examples/*.yaml")
	if err != nil {
		return err
	}
	for _, f := range append(files, "README.md", "scripts/leftovers.sh") {
		b, err := os.ReadFile(f)
		if err != nil {
			return fmt.Errorf("read source: %w: run this at the top of the tree", err)
		}
		c.file("src/"+f, 0o755, b)
	}
	return nil
}

// putModules adds modules in the order they are to be loaded in.
func putModules(ctx context.Context, c *cpio, k unpacked) error {
	var order []string
	seen := map[string]bool{}
	for _, m := range modules {
		out, err := exec.CommandContext(ctx, "/sbin/modprobe", "-d", k.root, "-S", k.release, "--show-depends", m).Output()
		if err != nil {
			continue // built in, or not of this kernel
		}
		for line := range strings.Lines(string(out)) {
			f := strings.Fields(line)
			if len(f) < 2 || f[0] != "insmod" || seen[f[1]] {
				continue
			}
			seen[f[1]] = true
			b, err := readModule(ctx, f[1])
			if err != nil {
				return err
			}
			name := "modules.d/" + strings.TrimSuffix(filepath.Base(f[1]), ".xz")
			c.file(name, 0o644, b)
			order = append(order, "/"+name)
		}
	}
	c.file("modules", 0o644, []byte(strings.Join(order, "\n")+"\n"))
	return nil
}

func readModule(ctx context.Context, file string) ([]byte, error) {
	if strings.HasSuffix(file, ".xz") {
		return exec.CommandContext(ctx, "xz", "-dc", file).Output()
	}
	return os.ReadFile(file)
}

// toolDirs are where the guest looks for programs, after /t.
const toolDirs = "/usr/sbin:/usr/bin:/sbin:/bin"

// systemTool finds a program of the system's own; "": there is none. Another of
// that name that is earlier in the caller's PATH (pyenv's python3 is a script) is
// of no use in the guest.
func systemTool(name string) string {
	for _, dir := range filepath.SplitList(toolDirs) {
		if file, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return file
		}
	}
	return ""
}

// putTools adds programs of this machine and the libraries they load. Where
// /bin and its like are links into /usr, they are in the guest. What takes long
// to unpack comes only for those tests that use it (withTrees).
func putTools(ctx context.Context, c *cpio, withTrees bool) {
	for _, d := range []string{"bin", "sbin", "lib", "lib64"} {
		if to, err := os.Readlink("/" + d); err == nil {
			c.link(d, to)
		}
	}
	done := map[string]bool{}
	add := func(file string) {
		dir, err := filepath.EvalSymlinks(filepath.Dir(file))
		if err != nil {
			return
		}
		if file = filepath.Join(dir, filepath.Base(file)); done[file] {
			return
		}
		done[file] = true
		if b, err := os.ReadFile(file); err == nil {
			c.file(file, 0o755, b)
		}
	}
	needs := func(file string) {
		add(file)
		out, _ := exec.CommandContext(ctx, "ldd", file).Output()
		for _, word := range strings.Fields(string(out)) {
			if strings.HasPrefix(word, "/") {
				add(word)
			}
		}
	}
	for _, t := range tools {
		if file := systemTool(t); file != "" { // else the test that needs it fails and says so
			needs(file)
		}
	}
	if !withTrees {
		return
	}
	for _, t := range bigTools {
		if file := systemTool(t); file != "" {
			needs(file)
		}
	}
	for _, pattern := range trees {
		tops, _ := filepath.Glob(pattern)
		for _, top := range tops {
			_ = filepath.WalkDir(top, func(file string, e fs.DirEntry, err error) error {
				switch {
				case err != nil:
					return nil
				case e.IsDir() && slices.ContainsFunc(unused, func(u string) bool { ok, _ := path.Match(u, e.Name()); return ok }):
					return fs.SkipDir
				case strings.HasSuffix(file, ".so"):
					needs(file)
				case e.Type().IsRegular():
					add(file)
				}
				return nil
			})
		}
	}
}
