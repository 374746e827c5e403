//go:build !linux

package gcm

import "time"

// threadTime is not known here.
func threadTime() time.Duration { return 0 }
