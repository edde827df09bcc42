// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// failedName is the memo of replicas that are down, in a handover.
const failedName = "failed replicas"

// mostMemo bounds what is read of a memo, in bytes.
const mostMemo = 64 << 20

// memo writes a value for a successor, however long, into a file that nobody
// else sees. The caller closes it.
func memo(v any) (*os.File, error) {
	fd, err := unix.MemfdCreate("fairlead handover", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("write memo: %w", err)
	}
	f := os.NewFile(uintptr(fd), "memo")
	if err := json.NewEncoder(f).Encode(v); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("write memo: %w", err)
	}
	return f, nil
}

// readMemo reads what a predecessor wrote. The file stays the caller's.
func readMemo(f *os.File, v any) error {
	b, err := io.ReadAll(io.NewSectionReader(f, 0, mostMemo))
	if err != nil {
		return fmt.Errorf("read memo: %w", err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("read memo: %w", err)
	}
	return nil
}
