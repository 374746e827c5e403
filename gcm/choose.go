package gcm

import (
	"crypto/fips140"
	"os"
)

// variant is one way to compute AES-GCM; the greater one is the faster.
type variant uint8

const (
	variantGeneric variant = iota
	variantAVX2
	variantAVX512
)

func (v variant) String() string {
	return [...]string{"generic", "avx2", "avx512"}[v]
}

// chosen is the variant of this process, found once.
var chosen, chosenReason = choose(detect(), os.Getenv("AFTLS_GCM"), fips140.Enabled())

// able is what this machine can run at best.
type able struct {
	best variant
	why  string // not better; empty for the best there is
}

// choose picks a variant: the best one, or what the environment variable
// AFTLS_GCM wants, if it is there. In FIPS 140-3 mode only the Go Cryptographic
// Module will do.
func choose(a able, want string, fips bool) (v variant, reason string) {
	if fips {
		return variantGeneric, "FIPS 140-3 mode is on (GODEBUG=fips140), and only Go's own module is validated"
	}
	switch want {
	case "":
		return a.best, a.why
	case a.best.String():
		return a.best, a.why
	}
	for v := variantGeneric; v < a.best; v++ {
		if want == v.String() {
			return v, "AFTLS_GCM=" + want + " asks for it"
		}
	}
	reason = "AFTLS_GCM=" + want + " is not possible here"
	if a.why != "" {
		reason += ": " + a.why
	}
	return a.best, reason
}
