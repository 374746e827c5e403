package gcm

// For the tests of package gcm_test.
const RaceDetector = raceDetector
