//go:build !amd64 || purego

package gcm

func detect() able {
	return able{variantGeneric, "there is assembly for amd64 only, and none of it in a build with the tag purego"}
}

func newVAES(v variant, key []byte) AEAD { panic("gcm: no assembly in this build") }
