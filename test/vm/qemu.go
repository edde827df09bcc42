// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// boot runs one kernel until its jobs are over and reads what they say.
func boot(ctx context.Context, c config, k unpacked, image string) result {
	ctx, cancel := context.WithTimeout(ctx, c.limit)
	defer cancel()
	r := result{release: k.release}
	args := []string{
		"-accel", c.accel, "-smp", "2", "-m", c.memory, "-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio",
		"-kernel", k.vmlinuz(), "-initrd", image,
	}
	program, console := "qemu-system-x86_64", "ttyS0"
	if c.arch == "arm64" {
		program, console = "qemu-system-aarch64", "ttyAMA0"
		args = append(args, "-M", "virt", "-cpu", "cortex-a72")
	} else {
		args = append(args, "-cpu", "max")
	}
	args = append(args, "-append", "console="+console+" loglevel=4 panic=-1 rdinit=/init mitigations=off")
	cmd := exec.CommandContext(ctx, "nice", append([]string{program}, args...)...)
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
	case ctx.Err() != nil:
		p.cut(fmt.Sprintf("not over after %v", c.limit))
	case !p.done:
		p.cut(fmt.Sprintf("the machine stopped (%v); see %s", err, log.Name()))
	}
	return r
}
