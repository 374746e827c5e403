//go:build !race

package soft

// raceDetector says that the test runs under the race detector, which makes
// pools forget and counts allocations of its own.
const raceDetector = false
