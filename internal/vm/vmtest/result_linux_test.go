package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aftls/aftls/internal/vm"
)

const someTests = `=== RUN   TestOne
    one_test.go:10: not there: rekey (device or resource busy)
--- PASS: TestOne (0.01s)
=== RUN   TestTwo
=== RUN   TestTwo/part
--- PASS: TestTwo (0.02s)
    --- PASS: TestTwo/part (0.01s)
=== RUN   TestThree
    three_test.go:5: the program curl is missing: not found
--- SKIP: TestThree (0.00s)
`

func TestCount(t *testing.T) {
	for _, c := range []struct {
		log  string
		exit vm.Exit
		good bool
		says string
	}{
		{someTests + "PASS\n", vm.Exit{}, true, "ok 2, 1 not there, 1 skipped"},
		{someTests + "--- FAIL: TestFour (0.00s)\n    --- FAIL: TestFour/part (0.00s)\nFAIL\n", vm.Exit{Code: 1}, false, "FAILED 2, 1 not there, 1 skipped"},
		{"--- PASS: TestOne (0.01s)\npanic: test timed out\n", vm.Exit{Code: 2}, false, "FAILED: exit code 2"},
		{"--- PASS: TestOne (0.01s)\n", vm.Exit{Code: 137, Error: "killed after 330 s"}, false, "FAILED: killed after 330 s"},
		{"PASS\n", vm.Exit{}, false, "FAILED: no test ran"},
	} {
		r := &result{exit: c.exit}
		if err := r.count(strings.NewReader(c.log), 0); err != nil {
			t.Fatal(err)
		}
		if r.good() != c.good || r.String() != c.says {
			t.Errorf("%v %q, want %v %q", r.good(), r, c.good, c.says)
		}
	}
	r := &result{}
	if err := r.count(strings.NewReader(someTests), 0); err != nil || len(r.skips) != 1 || !strings.Contains(r.skips[0], "TestThree: three_test.go:5: the program curl") {
		t.Errorf("%v, %v", r.skips, err)
	}
	if len(r.tests) != 3 || r.tests[0].String() != "ok, not there 0.01s" || r.tests[1].String() != "ok 0.02s" || r.test("TestThree").String() != "skipped 0.00s" || r.test("none").String() != "-" {
		t.Errorf("%+v", r.tests)
	}
	for _, r := range []*result{nil, {missing: true}} {
		if r.good() || r.String() != "did not run" {
			t.Errorf("%v", r)
		}
	}
}

func TestTable(t *testing.T) {
	kernels := []vm.Kernel{{Name: "6.1", Release: "6.1.0-1"}, {Name: "newest", Release: "7.3.4"}}
	suites := []suite{{name: "features"}, {name: ".", pattern: "Kernel"}}
	var b bytes.Buffer
	if err := table(&b, kernels, suites, [][]*result{{{passed: 3, lack: 2}, {passed: 1}}, {{passed: 3}, {passed: 1}}}); err != nil {
		t.Error(err)
	}
	const want = "package      6.1.0-1              7.3.4\nfeatures     ok 3, 2 not there   ok 3\n. (Kernel)   ok 1                 ok 1\n"
	if strings.Join(strings.Fields(b.String()), " ") != strings.Join(strings.Fields(want), " ") {
		t.Errorf("%s", b.Bytes())
	}
	// A kernel that did not come up is no success.
	if err := table(&b, kernels, suites, [][]*result{{{passed: 3}, {passed: 1}}, nil}); err == nil || !strings.Contains(err.Error(), "2 of 4") {
		t.Errorf("%v", err)
	}
}

func TestReportShowsTheFailure(t *testing.T) {
	log := filepath.Join(t.TempDir(), "x.log")
	if err := os.WriteFile(log, []byte("--- FAIL: TestFour (0.00s)\n    four_test.go:1: why\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &result{log: log}
	if err := r.read(vm.Exit{Code: 1}, 0); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	r.report(&b, vm.Kernel{Name: "6.1"}, suite{name: "features"})
	for _, want := range []string{"failed: TestFour", "four_test.go:1: why", log} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.Bytes())
		}
	}
}
