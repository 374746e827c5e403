package aftls_test

import (
	"testing"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlstest"
)

// Every provider keeps the contract, by name.
func TestContract(t *testing.T) {
	for _, p := range []aftls.Provider{aftls.Soft, aftls.Kernel} {
		t.Run(p.String(), func(t *testing.T) {
			if p == aftls.Kernel {
				aftlstest.NeedKernel(t)
			}
			aftlstest.TestSocket(t, p)
		})
	}
}
