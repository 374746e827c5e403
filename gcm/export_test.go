package gcm

// PureGo says that the build has the tag purego.
var PureGo bool
