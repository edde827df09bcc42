// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"errors"
	"os"
	"strings"
)

// Cgroup2 finds where cgroup2 is mounted (also beside v1 controllers).
func Cgroup2() (string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		before, after, _ := strings.Cut(line, " - ")
		if f := strings.Fields(before); strings.HasPrefix(after, "cgroup2 ") && len(f) > 4 {
			return f[4], nil
		}
	}
	return "", errors.New("no cgroup2 is mounted: mount it with `mount -t cgroup2 none /sys/fs/cgroup`")
}
