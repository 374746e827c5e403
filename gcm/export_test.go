package gcm

// For the tests of package gcm_test.
const RaceDetector = raceDetector

// PureGo says that the build has the tag purego.
var PureGo bool
