// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A virtual machine is taken off its CPU at times, for milliseconds, and nothing
// that runs in it can be faster than that. A thread per CPU looks at the clock every
// millisecond, above all others (SCHED_FIFO): where it is late, the CPU stood still.

const (
	heartbeat = time.Millisecond
	// noticed is how late a look must be to be told of. Interrupts alone take less.
	noticed = 2 * time.Millisecond
)

// still is a stretch of CLOCK_MONOTONIC, in nanoseconds, in which a CPU ran nothing.
type still struct{ from, to int64 }

// stills are all of them so far, as their process tells.
type stills struct {
	began  time.Time
	stolen time.Duration // by the host until then

	mu  sync.Mutex
	all []still
}

// stolen is how long the host has kept this machine's CPUs from running, by its own
// account (proc(5), /proc/stat).
func stolen() time.Duration {
	const tick = 10 * time.Millisecond
	text, _ := os.ReadFile("/proc/stat")
	var fields [8]int64 // user, nice, system, idle, iowait, irq, softirq, steal
	_, _ = fmt.Sscanf(string(text), "cpu %d %d %d %d %d %d %d %d", &fields[0], &fields[1], &fields[2], &fields[3], &fields[4], &fields[5], &fields[6], &fields[7])
	return time.Duration(fields[7]) * tick
}

// watchStills starts the process that looks. It ends with the run.
func watchStills() (*stills, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleEnv+"=still")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("watch for standstills: %w", err)
	}
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); err != nil {
		return nil, fmt.Errorf("watch for standstills: %w: %s", err, line)
	}
	s := &stills{began: time.Now(), stolen: stolen()}
	go s.read(lines)
	return s, nil
}

func (s *stills) read(r io.Reader) {
	for {
		var one still
		if _, err := fmt.Fscan(r, &one.from, &one.to); err != nil {
			return
		}
		s.mu.Lock()
		s.all = append(s.all, one)
		s.mu.Unlock()
	}
}

// within is how much of a stretch of time some CPU stood still, at most.
func (s *stills) within(from, to int64) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	var sum int64
	for _, one := range s.all {
		sum += max(0, min(to, one.to)-max(from, one.from))
	}
	return time.Duration(sum)
}

// total is how many there were, and how long together.
func (s *stills) total() (n int, sum time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.all {
		sum += time.Duration(one.to - one.from)
	}
	return len(s.all), sum
}

// lookOut is the job of the process.
func lookOut() error {
	debug.SetGCPercent(-1)
	said := make(chan still, 1024)
	failed := make(chan error, 1)
	for cpu := range runtime.NumCPU() {
		go func() { failed <- lookAt(cpu, said) }()
	}
	fmt.Println("looking")
	for {
		select {
		case err := <-failed:
			return err
		case one := <-said:
			if _, err := fmt.Println(one.from, one.to); err != nil {
				return err
			}
		}
	}
}

func lookAt(cpu int, said chan<- still) error {
	runtime.LockOSThread()
	var one unix.CPUSet
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("look at CPU %d: %w", cpu, err)
	}
	if err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}, 0); err != nil {
		return fmt.Errorf("look at CPU %d: %w", cpu, err)
	}
	wait := unix.NsecToTimespec(int64(heartbeat))
	for last := clock(); ; {
		_ = unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &wait, nil)
		now := clock()
		if late := now - last - int64(heartbeat); late > int64(noticed) {
			said <- still{now - late, now}
		}
		last = now
	}
}
