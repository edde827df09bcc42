// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What the guest says about itself stands in lines that begin so.
const mark = "@@vm "

// guest is the first process of the virtual machine: it mounts what tests
// expect, loads modules, runs the jobs and powers off. It does not return.
func guest() {
	if err := runGuest(); err != nil {
		fmt.Printf("%sproblem %v\n", mark, err)
	}
	fmt.Println(mark + "done")
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

func runGuest() error {
	for _, m := range [][3]string{
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""},
		{"devtmpfs", "/dev", ""},
		{"tmpfs", "/tmp", "mode=1777"},
		{"tmpfs", "/run", "mode=755"},
		{"tmpfs", "/var", "mode=755"},
		{"bpf", "/sys/fs/bpf", ""},
		{"cgroup2", "/sys/fs/cgroup", ""},
	} {
		if err := os.MkdirAll(m[1], 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m[0], m[1], m[0], 0, m[2]); err != nil {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	for _, d := range []string{"/run/netns", "/root", "/dev/shm"} {
		_ = os.MkdirAll(d, 0o755)
	}
	loadModules()
	for k, v := range map[string]string{
		"PATH": "/t:" + toolDirs, "HOME": "/root", "CI": "true", "FAIRLEAD_BIN": "/t/fairlead", "FAIRLEAD_PEBBLE": "/t/pebble",
		"FAIRLEAD_TEST_SLOWER": argument("slower"), "FAIRLEAD_TEST_MODES": argument("modes"),
		"FAIRLEAD_TEST_FRAMES": "10000", "FAIRLEAD_TEST_SEEDS": "1", "FAIRLEAD_SLEEP_ROUNDS": "40",
	} {
		_ = os.Setenv(k, v)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set loopback up: %w", err)
	}
	b, err := os.ReadFile("/jobs.json")
	if err != nil {
		return err
	}
	var jobs []job
	if err := json.Unmarshal(b, &jobs); err != nil {
		return err
	}
	for _, j := range jobs {
		runJob(j)
	}
	return nil
}

// argument is a value of the kernel's command line.
func argument(name string) string {
	b, _ := os.ReadFile("/proc/cmdline")
	for _, word := range strings.Fields(string(b)) {
		if value, ok := strings.CutPrefix(word, "fairlead."+name+"="); ok {
			return value
		}
	}
	return ""
}

func runJob(j job) {
	fmt.Printf("%sbegin %s\n", mark, j.Name)
	begun := time.Now()
	cmd := exec.Command(j.Args[0], j.Args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = j.Dir, os.Stdout, os.Stdout
	err := cmd.Run()
	code := 0
	if err != nil {
		code = 1
		fmt.Printf("%v\n", err)
	}
	fmt.Printf("%send %s %d %d\n", mark, j.Name, code, int(time.Since(begun).Seconds()))
}

// loadModules loads what the image lists, in that order; what the kernel has
// built in or refuses is told and no error: a test that needs it will say so.
func loadModules() {
	b, _ := os.ReadFile("/modules")
	for _, path := range strings.Fields(string(b)) {
		f, err := os.Open(path)
		if err != nil {
			fmt.Println("module:", err)
			continue
		}
		if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && err != unix.EEXIST {
			fmt.Printf("module %s: %v\n", path, err)
		}
		_ = f.Close()
	}
}
