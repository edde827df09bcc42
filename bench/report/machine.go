// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Machine says in words where a figure was measured, the load included: a
// shared machine's figures are to be read with it.
func Machine() string {
	var uts unix.Utsname
	release := "an unknown kernel"
	if unix.Uname(&uts) == nil {
		release = "Linux " + string(bytes.TrimRight(uts.Release[:], "\x00"))
	}
	load := "unknown"
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		if f := strings.Fields(string(b)); len(f) > 2 {
			load = strings.Join(f[:3], " ")
		}
	}
	var info unix.Sysinfo_t
	gib := 0.0
	if unix.Sysinfo(&info) == nil {
		gib = float64(info.Totalram) * float64(info.Unit) / (1 << 30)
	}
	return fmt.Sprintf("%s, %s, %d CPUs, %.0f GiB, %s, load average %s",
		time.Now().Format("2006-01-02 15:04"), release, runtime.NumCPU(), gib, cpuModel(), load)
}

func cpuModel() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for l := range strings.Lines(string(b)) {
		if key, v, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return runtime.GOARCH
}
