// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// boot runs one kernel until its jobs are over and reads what they say.
func boot(ctx context.Context, c config, k unpacked, image string) result {
	ctx, cancel := context.WithTimeout(ctx, c.limit)
	defer cancel()
	r := result{release: k.release}
	args := []string{
		"-accel", c.accel, "-smp", "1", "-m", c.memory, "-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio",
		"-kernel", k.vmlinuz(), "-initrd", image,
	}
	if strings.HasPrefix(c.accel, "tcg") {
		// The guest's clock counts instructions, one a nanosecond, and leaps over
		// idle time: tests' deadlines hold however busy this machine is, and what
		// they wait for costs nothing.
		args = append(args, "-icount", "shift=0,sleep=off")
	}
	program, console := "qemu-system-x86_64", "ttyS0"
	if c.arch == "arm64" {
		program, console = "qemu-system-aarch64", "ttyAMA0"
		args = append(args, "-M", "virt", "-cpu", "cortex-a72")
	} else {
		// Without these two the kernel clears and copies memory in loops. With
		// them it uses string instructions, which are emulated byte by byte.
		args = append(args, "-cpu", "max,-erms,-fsrm")
	}
	args = append(args, "-append", "console="+console+" loglevel=4 panic=-1 rdinit=/init mitigations=off fairlead.slower="+strconv.Itoa(c.slower)+" fairlead.modes="+c.modes)
	cmd := exec.CommandContext(ctx, "nice", append([]string{"-n", "15", program}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		r.problem = err.Error()
		return r
	}
	cmd.Stderr = os.Stderr
	log, err := os.Create(image + ".log")
	if err != nil {
		r.problem = err.Error()
		return r
	}
	defer log.Close()
	if err := cmd.Start(); err != nil {
		r.problem = err.Error()
		return r
	}
	p := parser{result: &r}
	lines := bufio.NewScanner(io.TeeReader(out, log))
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		if c.verbose {
			fmt.Println(lines.Text())
		}
		p.line(lines.Text())
	}
	err = cmd.Wait()
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		p.cut("interrupted")
	case ctx.Err() != nil:
		p.cut(fmt.Sprintf("not over after %v", c.limit))
	case !p.done:
		p.cut(fmt.Sprintf("the machine stopped (%v); see %s", err, log.Name()))
	}
	return r
}
