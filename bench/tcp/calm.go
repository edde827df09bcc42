// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// A sample is disturbed when others, or the host of a virtual machine, had more
// than this share of one CPU meanwhile. It is taken again, a few times.
const (
	calmShare = 0.15
	calmTries = 4
)

// machineTime is what all processes have used of the CPUs, and the time that
// the host gave to others (proc(5), /proc/stat, in ticks of 10 ms).
func machineTime() (time.Duration, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("read the CPUs' time: %w", err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	var ticks int64
	for i, f := range strings.Fields(line) {
		switch i {
		case 1, 2, 3, 6, 7, 8: // user, nice, system, irq, softirq, steal
			n, err := strconv.ParseInt(f, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read the CPUs' time: %w", err)
			}
			ticks += n
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

// disturbed tells whether others took part: all is what the CPUs did, own what
// of it belongs to the run.
func disturbed(all, own, elapsed time.Duration) bool {
	return float64(all-own) > calmShare*float64(elapsed)
}
