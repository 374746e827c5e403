//go:build !race

package gcm

// raceDetector says that the test runs under the race detector.
const raceDetector = false
