package aftls_test

import (
	"testing"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlstest"
)

// Every provider keeps the contract of datagrams, by name.
func TestDatagramContract(t *testing.T) {
	for _, p := range []aftls.Provider{aftls.Soft} {
		t.Run(p.String(), func(t *testing.T) { aftlstest.TestDatagram(t, p) })
	}
}
