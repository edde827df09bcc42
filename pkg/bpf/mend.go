// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"fmt"
)

// MendUntil has programs look, until this time in jiffies, whether connections of
// direct services still have their entry, and write it again if not
// (direct_mend in bpf/lib/direct.h).
func (o *Objects) MendUntil(jiffies uint64) error {
	var b [8]byte
	binary.NativeEndian.PutUint64(b[:], jiffies)
	if _, err := o.mend.WriteAt(b[:], 0); err != nil {
		return fmt.Errorf("write the time to mend until: %w", err)
	}
	return nil
}
