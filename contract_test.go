package aftls_test

import (
	"testing"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlstest"
)

// Every provider keeps the contract, by name.
func TestContract(t *testing.T) {
	for _, p := range []aftls.Provider{aftls.Soft} {
		t.Run(p.String(), func(t *testing.T) { aftlstest.TestSocket(t, p) })
	}
}
