//go:build race

package aftls_test

// raceDetector says that the test runs under the race detector, which makes
// programs allocate where they otherwise do not.
const raceDetector = true
