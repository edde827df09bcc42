// SPDX-License-Identifier: Apache-2.0

package dataplane

import "time"

// clockRate translates jiffies, whose rate (CONFIG_HZ) no interface tells:
// it is measured between two readings of both of the kernel's clocks.
type clockRate struct {
	first bool
	j0    uint64
	m0    time.Duration
	hz    float64
}

// likelyHz is assumed until the first two readings are far enough apart. It is
// the highest rate in use, so that no flow looks older than it is.
const likelyHz = 1000

func (c *clockRate) read(m interface {
	Clock() (uint64, time.Duration, error)
},
) (jiffies uint64, err error) {
	j, mono, err := m.Clock()
	if err != nil {
		return 0, err
	}
	if !c.first {
		c.first, c.j0, c.m0 = true, j, mono
	}
	if d := mono - c.m0; d >= time.Second && j > c.j0 {
		c.hz = float64(j-c.j0) / d.Seconds()
	}
	return j, nil
}

// age is how long ago a flow had its last packet, to about a second.
func (c *clockRate) age(now uint64, seen uint32) time.Duration {
	// A CPU may be ahead of the one that was asked for the time.
	ago := int32(uint32(now) - seen)
	if ago <= 0 {
		return 0
	}
	return time.Duration(float64(ago) / c.rate() * float64(time.Second))
}

// in is the time d after now, in jiffies.
func (c *clockRate) in(now uint64, d time.Duration) uint64 {
	return now + uint64(d.Seconds()*c.rate())
}

// rate is how many jiffies a second has.
func (c *clockRate) rate() float64 {
	if c.hz == 0 {
		return likelyHz
	}
	return c.hz
}
