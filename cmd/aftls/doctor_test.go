package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/aftls/aftls/features"
)

// doctorSays runs the command and returns what it prints, and its exit code.
func doctorSays(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	c := command(t, append([]string{"doctor"}, args...)...)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil {
		if _, ok := err.(*exec.ExitError); !ok {
			t.Fatal(err)
		}
	}
	return out.String(), errs.String(), c.ProcessState.ExitCode()
}

// On whatever machine this runs: both forms say what trying says.
func TestDoctor(t *testing.T) {
	text, stderr, code := doctorSays(t)
	if code != 0 || stderr != "" {
		t.Fatalf("exit code %d, %s", code, stderr)
	}
	raw, _, code := doctorSays(t, "--json", "--stats")
	var d diagnosis
	if err := json.Unmarshal([]byte(raw), &d); err != nil || code != 0 {
		t.Fatalf("exit code %d, %v\n%s", code, err, raw)
	}
	if len(d.Features) != len(features.All()) || d.Stats == nil || d.Kernel != features.Kernel() {
		t.Errorf("%s", raw)
	}
	for _, f := range d.Features {
		r := features.Try(f.Name)
		if f.Answer != r.Answer || f.Reason != r.Reason || f.Remedy != r.Remedy {
			t.Errorf("%s: %+v by the command, %+v here", f.Name, f.Result, r)
		}
		if f.Answer != features.Yes && !strings.Contains(text, f.Reason) {
			t.Errorf("the screen does not say %q:\n%s", f.Reason, text)
		}
	}
	if release := os.Getenv("AFTLS_VM"); release != "" {
		if d.Provider.TLS12.Receive != "kernel" || d.Provider.TLS13.Send != "kernel" || d.Stats.Counters["TlsTxSw"] == 0 || !strings.Contains(text, release) {
			t.Errorf("in kernel %s:\n%s", release, raw)
		}
		old := strings.HasPrefix(release, "6.")
		if (d.Provider.TLS13.Receive == "soft") != old {
			t.Errorf("kernel %s receives TLS 1.3 in %s", release, d.Provider.TLS13.Receive)
		}
		if old {
			t.Logf("not there: %s", d.Provider.Reason)
		}
		stats, _, _ := doctorSays(t, "--stats")
		if !strings.Contains(stats, "TlsDecryptError") {
			t.Errorf("no counters:\n%s", stats)
		}
	}
}

func TestDoctorRequire(t *testing.T) {
	_, stderr, code := doctorSays(t, "--require", "kernel")
	has := features.Try(features.TLS13AES128GCM).Answer == features.Yes
	if has && (code != 0 || stderr != "") {
		t.Errorf("the kernel provider is there: exit code %d, %s", code, stderr)
	}
	if !has && (code != 1 || !strings.Contains(stderr, "\nhint: ") || !strings.Contains(stderr, features.Try(features.ULP).Reason)) {
		t.Errorf("the kernel provider is not there: exit code %d, %s", code, stderr)
	}
	if _, stderr, code = doctorSays(t, "--require", "nic"); code != 1 || !strings.Contains(stderr, `"nic"`) {
		t.Errorf("of something unknown: exit code %d, %s", code, stderr)
	}
}

// without answers no to what it is given, and yes to all else.
func without(no ...features.Feature) func(features.Feature) features.Result {
	return func(f features.Feature) features.Result {
		for _, n := range no {
			if n == f {
				return features.Result{Answer: features.No, Reason: "it is not", Remedy: "make it"}
			}
		}
		return features.Result{Answer: features.Yes}
	}
}

func TestDoctorChooses(t *testing.T) {
	six := []features.Feature{features.TLS12AES128GCM, features.TLS12AES256GCM, features.TLS12ChaCha20Poly1305, features.TLS13AES128GCM, features.TLS13AES256GCM, features.TLS13ChaCha20Poly1305}
	for _, c := range []struct {
		no           []features.Feature
		tls12, tls13 string
		reason       string
	}{
		{nil, "kernel", "kernel", ""},
		{[]features.Feature{features.Rekey}, "kernel", "send kernel, receive soft", "KeyUpdate"},
		{[]features.Feature{features.ULP}, "soft", "soft", "see ulp"},
		{six, "soft", "soft", "stay in soft"},
		{six[:3], "soft", "kernel", "tls1.2-aes-128-gcm, tls1.2-aes-256-gcm, tls1.2-chacha20-poly1305 stay in soft"},
		{six[2:3], "kernel", "kernel", "tls1.2-chacha20-poly1305 stay in soft"},
		{[]features.Feature{features.TLS13AES128CCM, features.KCM}, "kernel", "kernel", ""},
	} {
		got := choose(without(c.no...))
		if got.TLS12.String() != c.tls12 || got.TLS13.String() != c.tls13 || got.kernel() != (c.tls12 != "soft" || c.tls13 != "soft") || !strings.Contains(got.Reason, c.reason) || (c.reason == "") != (got.Reason == "") {
			t.Errorf("without %v: %+v", c.no, got)
		}
	}
}

// One screen, also for who has little: 24 lines of answers, and what is below them.
func TestDoctorScreen(t *testing.T) {
	try := without(features.Rekey, features.TLS13AES128CCM)
	d := &diagnosis{OS: "linux", Arch: "amd64", Kernel: "6.6.6", Provider: choose(try)}
	for _, f := range features.All() {
		d.Features = append(d.Features, featureResult{f, try(f)})
	}
	yes, off := features.Result{Answer: features.Yes}, features.Result{Answer: features.No, Reason: "it is switched off", Remedy: "run 'ethtool …'"}
	d.Interfaces = []features.Interface{{Name: "eth0", TX: yes, RX: off}, {Name: "eth1", TX: yes, RX: yes}}
	d.Stats = &tlsStats{order: []features.Counter{{Name: "TlsCurrTxDevice", Value: 3}}, TX: map[string]int{"device": 2, "none": 1}, RX: map[string]int{}}
	var b bytes.Buffer
	if err := d.print(&b); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for line := range strings.Lines(b.String()) {
		if name, text, ok := strings.Cut(strings.TrimRight(line, "\n"), "  "); ok {
			got[name] += strings.TrimSpace(text) + "|"
		}
	}
	for name, want := range map[string]string{
		"system":          "linux 6.6.6 on amd64|",
		"records":         "TLS 1.2: kernel; TLS 1.3: send kernel, receive soft|",
		"tls1.3":          "aes-128-gcm yes, aes-256-gcm yes, chacha20-poly1305 yes, aes-128-ccm no|",
		"rekey":           "no: it is not|",
		"sendfile":        "yes|",
		"nic eth0 tx":     "yes|",
		"nic eth0 rx":     "no: it is switched off|",
		"nic eth1":        "yes|",
		"TlsCurrTxDevice": "3|",
		"sockets":         "tx: 2 device, 1 none; rx: none seen|",
	} {
		if got[name] != want {
			t.Errorf("%s: %q, want %q\n%s", name, got[name], want, b.Bytes())
		}
	}
	if n := strings.Count(b.String(), "\n"); n > 32 {
		t.Errorf("%d lines:\n%s", n, b.Bytes())
	}
	for _, words := range []string{"make it", "run 'ethtool …'"} {
		if !strings.Contains(b.String(), words) {
			t.Errorf("no %q:\n%s", words, b.Bytes())
		}
	}
}
