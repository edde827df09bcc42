// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"os"
	"strconv"
	"time"
)

// Slower is how many times slower this machine is than those that the tests'
// deadlines, rates and sizes are made for: 1, or what FAIRLEAD_TEST_SLOWER says,
// as test/vm does where the processor is emulated.
func Slower() int {
	n, err := strconv.Atoi(os.Getenv("FAIRLEAD_TEST_SLOWER"))
	if err != nil || n < 1 {
		return 1
	}
	return n
}

// Patience is how long to wait here for what takes at most d elsewhere.
func Patience(d time.Duration) time.Duration { return d * time.Duration(Slower()) }
