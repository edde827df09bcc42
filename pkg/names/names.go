// SPDX-License-Identifier: Apache-2.0

// Package names makes the names a service is known by: labels from what
// people write in any alphabet it knows, host names from templates, and a
// registry that refuses the second claim of a name. It resolves nothing and
// keeps nothing on disk.
package names

import (
	"fmt"
	"strings"
)

// The limits of RFC 1035 section 2.3.4, in bytes. A name's limit is counted
// in its text form, without the trailing dot.
const (
	MaxLabel = 63
	MaxName  = 253
)

// CheckLabel tells what keeps s from being a lower-case LDH label (RFC 5890
// section 2.3.1): 1 to 63 of a-z, 0-9 and '-', no '-' at either end.
func CheckLabel(s string) error {
	if s == "" {
		return fmt.Errorf("a label is empty, want 1 to %d of a-z, 0-9 and '-'", MaxLabel)
	}
	if len(s) > MaxLabel {
		return fmt.Errorf("label %q is %d bytes long, at most %d fit", s, len(s), MaxLabel)
	}
	for _, r := range s {
		if !isLDH(r) {
			return fmt.Errorf("label %q holds %q, want only a-z, 0-9 and '-'", s, r)
		}
	}
	if s[0] == '-' || s[len(s)-1] == '-' {
		return fmt.Errorf("label %q begins or ends with '-', want a letter or digit there", s)
	}
	return nil
}

// CheckName tells what keeps s from being a host name of lower-case LDH
// labels, at most 253 bytes long. A trailing dot is not part of a name here.
func CheckName(s string) error {
	if s == "" {
		return fmt.Errorf("the name is empty, want labels of a-z, 0-9 and '-' with dots between")
	}
	if len(s) > MaxName {
		return fmt.Errorf("name %q is %d bytes long, at most %d fit", s, len(s), MaxName)
	}
	for label := range strings.SplitSeq(s, ".") {
		err := CheckLabel(label)
		if err != nil && label == s {
			return err
		}
		if err != nil {
			return fmt.Errorf("name %q: %w", s, err)
		}
	}
	return nil
}

func isLDH(r rune) bool { return isLetterDigit(r) || r == '-' }

func isLetterDigit(r rune) bool { return 'a' <= r && r <= 'z' || '0' <= r && r <= '9' }
