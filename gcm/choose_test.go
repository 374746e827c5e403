package gcm

import (
	"crypto/fips140"
	"strings"
	"testing"
)

func TestChoose(t *testing.T) {
	none := able{variantGeneric, "there is no VAES"}
	some := able{variantAVX2, "there is no AVX-512"}
	all := able{best: variantAVX512}
	for _, c := range []struct {
		a      able
		want   string
		fips   bool
		v      variant
		reason string // what the reason contains; empty: it is empty
	}{
		{none, "", false, variantGeneric, "no VAES"},
		{some, "", false, variantAVX2, "no AVX-512"},
		{all, "", false, variantAVX512, ""},
		{all, "avx512", false, variantAVX512, ""},
		{all, "avx2", false, variantAVX2, "AFTLS_GCM=avx2 asks for it"},
		{all, "generic", false, variantGeneric, "AFTLS_GCM=generic asks for it"},
		{some, "avx2", false, variantAVX2, "no AVX-512"},
		{some, "avx512", false, variantAVX2, "AFTLS_GCM=avx512 is not possible here: there is no AVX-512"},
		{some, "generic", false, variantGeneric, "AFTLS_GCM=generic asks for it"},
		{none, "avx512", false, variantGeneric, "AFTLS_GCM=avx512 is not possible here: there is no VAES"},
		{none, "avx2", false, variantGeneric, "AFTLS_GCM=avx2 is not possible here: there is no VAES"},
		{none, "generic", false, variantGeneric, "no VAES"},
		{all, "fast", false, variantAVX512, "AFTLS_GCM=fast is not possible here"},
		{all, "", true, variantGeneric, "FIPS"},
		{all, "avx512", true, variantGeneric, "FIPS"},
	} {
		v, reason := choose(c.a, c.want, c.fips)
		if v != c.v || (c.reason == "") != (reason == "") || !strings.Contains(reason, c.reason) {
			t.Errorf("choose(%v, %q, %v) is %v because %q, want %v because %q", c.a.best, c.want, c.fips, v, reason, c.v, c.reason)
		}
	}
}

func TestImplementation(t *testing.T) {
	name, reason := Implementation()
	t.Logf("%s; %s", name, reason)
	if name != chosen.String() {
		t.Errorf("name is %q, want %q", name, chosen)
	}
	if fips140.Enabled() && name != "generic" {
		t.Errorf("in FIPS 140-3 mode the implementation is %s", name)
	}
	if (reason == "") != (chosen == variantAVX512) {
		t.Errorf("the reason for %s is %q", name, reason)
	}
	if fips140.Enforced() {
		return
	}
	a, err := New(make([]byte, 16))
	if err != nil {
		t.Fatal(err)
	}
	if _, generic := a.(*generic); generic != (chosen == variantGeneric) {
		t.Errorf("New returns a %T, and %v was chosen", a, chosen)
	}
}
