//go:build purego

package gcm

func init() { PureGo = true }
