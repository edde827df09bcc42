// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// proc is a process of the run.
type proc struct {
	cmd *exec.Cmd
	out lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// said is what the process printed.
func (p *proc) said() string {
	p.out.mu.Lock()
	defer p.out.mu.Unlock()
	return p.out.b.String()
}

// spawn starts a process on a CPU. It ends with this one.
func (b *bench) spawn(cmd *exec.Cmd, cpu int) (*proc, error) {
	p := &proc{cmd: cmd}
	cmd.Stdout, cmd.Stderr = &p.out, &p.out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		// The child has the affinity of the thread that starts it, which is
		// never given back: its end would end the child, too.
		runtime.LockOSThread()
		var set unix.CPUSet
		set.Set(cpu % runtime.NumCPU())
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			started <- err
			return
		}
		started <- cmd.Start()
		select {}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	b.procs = append(b.procs, p)
	return p, nil
}

// startRole starts this program as something else.
func (b *bench) startRole(role string, cpu int, env ...string) (*proc, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(append(os.Environ(), roleEnv+"="+role), env...)
	return b.spawn(cmd, cpu)
}

// cpu is the CPU time of all threads so far.
func (p *proc) cpu() time.Duration {
	const schedClock = 2 // CPUCLOCK_SCHED, see clock_getcpuclockid(3)
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^p.cmd.Process.Pid<<3|schedClock), &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// wait returns once the process accepts connections.
func (p *proc) wait(addr string) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			return c.Close()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("wait for %s: %w\n%s", addr, err, p.said())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (b *bench) stop() {
	for _, p := range b.procs {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
}

// ask has a client process carry out an order.
func (b *bench) ask(o order) (result, error) {
	in, err := json.Marshal(o)
	if err != nil {
		return result{}, err
	}
	p, err := b.startRole("client", clientCPU, "BENCH_ORDER="+string(in))
	if err != nil {
		return result{}, err
	}
	b.procs = b.procs[:len(b.procs)-1]
	if err := p.cmd.Wait(); err != nil {
		return result{}, fmt.Errorf("client: %w: %s", err, p.said())
	}
	var r result
	if err := json.Unmarshal([]byte(p.said()), &r); err != nil {
		return r, fmt.Errorf("client said %q: %w", p.said(), err)
	}
	return r, nil
}
