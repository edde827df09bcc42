// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// kernel is one that people run, by the Debian suite that carries it.
type kernel struct {
	name, suite string
}

var kernels = []kernel{
	{"5.10", "bullseye-security"},
	{"6.1", "bookworm-security"},
	{"6.12", "trixie-security"},
	{"newest", "trixie-backports"},
}

func kernelNames() []string {
	var names []string
	for _, k := range kernels {
		names = append(names, k.name)
	}
	return names
}

func kernelByName(name string) kernel {
	return kernels[slices.IndexFunc(kernels, func(k kernel) bool { return k.name == name })]
}

// unpacked is a kernel ready to boot.
type unpacked struct {
	kernel
	release string // as uname -r says
	root    string // with boot/ and lib/modules/
}

// vmlinuz is where the image is: from Linux 7 on beside the modules.
func (u unpacked) vmlinuz() string {
	file := filepath.Join(u.root, "boot/vmlinuz-"+u.release)
	if _, err := os.Stat(file); err != nil {
		file = filepath.Join(u.root, "lib/modules", u.release, "vmlinuz")
	}
	return file
}

// apt asks the mirrors this machine is set up with, by a configuration of its
// own: other suites, other lists, an empty package database. Nothing can be
// installed by it, and the machine's own sources are left alone.
type apt struct {
	dir, arch string
	env       []string
}

const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// newApt writes the configuration for the suites of these kernels, and
// refreshes the lists.
func newApt(ctx context.Context, dir, arch string, names []string) (*apt, error) {
	main, security, err := mirrors(ctx)
	if err != nil {
		return nil, err
	}
	a := &apt{dir: dir, arch: arch}
	etc := filepath.Join(dir, "apt-"+arch)
	for _, d := range []string{"lists/partial", "cache/archives/partial", "empty"} {
		if err := os.MkdirAll(filepath.Join(etc, d), 0o755); err != nil {
			return nil, err
		}
	}
	var sources strings.Builder
	for _, n := range names {
		suite, mirror := kernelByName(n).suite, main
		if strings.HasSuffix(suite, "-security") {
			mirror = security
		}
		fmt.Fprintf(&sources, "deb [arch=%s signed-by=%s] %s %s main\n", arch, keyring, mirror, suite)
	}
	conf := fmt.Sprintf(`Dir::State %[1]q; Dir::State::Lists "%[1]s/lists"; Dir::State::status "%[1]s/status";
Dir::Cache "%[1]s/cache"; Dir::Etc::SourceList "%[1]s/sources.list"; Dir::Etc::SourceParts "%[1]s/empty";
Dir::Etc::Parts "%[1]s/empty"; Dir::Etc::PreferencesParts "%[1]s/empty"; Dir::Etc::Preferences "/dev/null";
Acquire::Languages "none"; Acquire::Check-Valid-Until "false"; APT::Architecture %[2]q; APT::Architectures { %[2]q; };
APT::Sandbox::User "root";
`, etc, arch)
	for name, text := range map[string]string{"sources.list": sources.String(), "apt.conf": conf, "status": ""} {
		if err := os.WriteFile(filepath.Join(etc, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	a.env = append(os.Environ(), "APT_CONFIG="+filepath.Join(etc, "apt.conf"))
	if _, err := a.run(ctx, "apt-get", "-q", "update"); err != nil {
		return nil, fmt.Errorf("refresh package lists: %w", err)
	}
	return a, nil
}

// mirrors are those of the machine's own configuration.
func mirrors(ctx context.Context) (main, security string, err error) {
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").Output()
	if err != nil {
		return "", "", fmt.Errorf("list this machine's package mirrors: %w", err)
	}
	for _, uri := range strings.Fields(string(out)) {
		switch {
		case strings.HasSuffix(uri, "/debian/"):
			main = uri
		case strings.HasSuffix(uri, "/debian-security/"):
			security = uri
		}
	}
	if main == "" || security == "" {
		return "", "", errors.New("find Debian's mirrors: this machine's apt sources have none; run apt-get update on a Debian machine")
	}
	return main, security, nil
}

func (a *apt) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env, cmd.Dir = a.env, a.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

var imageRE = regexp.MustCompile(`linux-image-([0-9]\S*-cloud-(?:amd64|arm64))`)

// unpack downloads a kernel's packages and unpacks them; what is there from an
// earlier run is used again.
func (a *apt) unpack(ctx context.Context, k kernel) (unpacked, error) {
	meta := "linux-image-cloud-" + a.arch
	out, err := a.run(ctx, "apt-cache", "show", meta+"/"+k.suite)
	if err != nil {
		return unpacked{}, fmt.Errorf("find the kernel of %s: %w", k.suite, err)
	}
	m := imageRE.FindStringSubmatch(out)
	if m == nil {
		return unpacked{}, fmt.Errorf("find the kernel of %s: %s depends on none", k.suite, meta)
	}
	u := unpacked{kernel: k, release: m[1], root: filepath.Join(a.dir, "kernel-"+m[1])}
	if _, err := os.Stat(filepath.Join(u.root, "lib/modules", u.release, "modules.dep")); err == nil {
		return u, nil
	}
	fresh := u.root + ".new"
	debs := filepath.Join(a.dir, "debs-"+u.release)
	for _, d := range []string{fresh, debs} {
		if err := os.RemoveAll(d); err != nil {
			return unpacked{}, err
		}
		if err := os.MkdirAll(d, 0o755); err != nil {
			return unpacked{}, err
		}
	}
	if err := a.download(ctx, debs, u.release); err != nil {
		return unpacked{}, err
	}
	files, _ := filepath.Glob(filepath.Join(debs, "*.deb"))
	for _, f := range files {
		if _, err := a.run(ctx, "dpkg-deb", "-x", f, fresh); err != nil {
			return unpacked{}, err
		}
	}
	if _, err := os.Stat(filepath.Join(fresh, "lib")); err != nil { // merged /usr
		if err := os.Symlink("usr/lib", filepath.Join(fresh, "lib")); err != nil {
			return unpacked{}, err
		}
	}
	if _, err := a.run(ctx, "/sbin/depmod", "-b", fresh, u.release); err != nil {
		return unpacked{}, err
	}
	_ = os.RemoveAll(debs)
	return u, errors.Join(os.RemoveAll(u.root), os.Rename(fresh, u.root))
}

// download fetches the image and, from Linux 7 on, what it was split into.
func (a *apt) download(ctx context.Context, dir, release string) error {
	cmd := []string{"env", "-C", dir, "apt-get", "-q", "download", "linux-image-" + release}
	for _, part := range []string{"linux-binary-", "linux-modules-"} {
		if _, err := a.run(ctx, "apt-cache", "show", part+release); err == nil {
			cmd = append(cmd, part+release)
		}
	}
	_, err := a.run(ctx, cmd...)
	return err
}
