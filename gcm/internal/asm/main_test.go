package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The committed assembly is what the generator makes.
func TestCommitted(t *testing.T) {
	made := files()
	for name, content := range made {
		committed, err := os.ReadFile(filepath.Join("..", "..", name))
		if err != nil {
			t.Error(err)
		} else if string(committed) != content {
			t.Errorf("%s is not what internal/asm makes: run go generate ./gcm", name)
		}
	}
	present, err := filepath.Glob("../../*.s")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range present {
		if _, ok := made[filepath.Base(name)]; !ok {
			t.Errorf("%s is not made by internal/asm", name)
		}
	}
}

// functions cuts a file into its functions, by name.
func functions(content string) map[string][]string {
	all := make(map[string][]string)
	name := ""
	for line := range strings.Lines(content) {
		line = strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(line, "TEXT ·"); ok {
			name, _, _ = strings.Cut(rest, "(")
		} else if name != "" && line != "" && !strings.HasPrefix(line, "//") {
			all[name] = append(all[name], line)
		}
	}
	return all
}

var register = regexp.MustCompile(`\b[XYZ]([0-9]+)\b`)

// Before each return every vector register that the function writes is zeroed,
// and nothing comes in between.
func TestRegistersAreCleared(t *testing.T) {
	for file, content := range files() {
		for name, lines := range functions(content) {
			var used []string
			for _, line := range lines {
				for _, m := range register.FindAllStringSubmatch(line, -1) {
					if !slices.Contains(used, m[1]) {
						used = append(used, m[1])
					}
				}
			}
			returns := 0
			for i, line := range lines {
				if line != "RET" {
					continue
				}
				returns++
				if len(used) == 0 {
					continue
				}
				if lines[i-1] != "VZEROUPPER" {
					t.Errorf("%s: %s returns without VZEROUPPER", file, name)
				}
				var cleared []string
				for j := i - 2; j >= 0; j-- {
					m := regexp.MustCompile(`^VPXORQ? X([0-9]+), X([0-9]+), X([0-9]+)$`).FindStringSubmatch(lines[j])
					if m == nil || m[1] != m[2] || m[1] != m[3] {
						break
					}
					cleared = append(cleared, m[1])
				}
				for _, r := range used {
					if !slices.Contains(cleared, r) {
						t.Errorf("%s: %s returns with something in vector register %s", file, name, r)
					}
				}
			}
			if returns != 1 {
				t.Errorf("%s: %s has %d returns", file, name, returns)
			}
			if len(used) == 0 && name != "leaf7" {
				t.Errorf("%s: %s uses no vector registers: the test cannot read it", file, name)
			}
		}
	}
}

// What must run without AVX-512 has no register and no instruction of it. Each
// name is one that the assembler encodes for AVX2 as long as its registers are
// below 16.
func TestAVX2OnlyInAVX2(t *testing.T) {
	plain := []string{"VAESENC", "VAESENCLAST", "VAESKEYGENASSIST", "VBROADCASTI128", "VEXTRACTI128", "VINSERTI128",
		"VMOVD", "VMOVDQA", "VMOVDQU", "VMOVQ", "VPADDD", "VPADDQ", "VPAND", "VPCLMULQDQ", "VPEXTRQ", "VPINSRD", "VPINSRQ",
		"VPSHUFB", "VPSHUFD", "VPSLLDQ", "VPSRAD", "VPSRLQ", "VPXOR", "VZEROUPPER"}
	more := regexp.MustCompile(`\b(Z[0-9]+|[XY](1[6-9]|2[0-9]|3[01])|K[0-7])\b`)
	for _, file := range []string{"setup_amd64.s", "avx2_amd64.s"} {
		for name, lines := range functions(files()[file]) {
			for _, line := range lines {
				if more.MatchString(line) {
					t.Errorf("%s: %s has a register of AVX-512: %s", file, name, line)
				}
				if op, _, _ := strings.Cut(line, " "); op[0] == 'V' && !slices.Contains(plain, op) {
					t.Errorf("%s: %s has %s, which is not known to be AVX2", file, name, op)
				}
			}
		}
	}
}

// The registers that belong to Go are left alone.
func TestGoRegisters(t *testing.T) {
	own := regexp.MustCompile(`\b(R14|R15|BP|SP)\b`)
	for file, content := range files() {
		for name, lines := range functions(content) {
			for _, line := range lines {
				if own.MatchString(line) {
					t.Errorf("%s: %s: %s", file, name, line)
				}
			}
		}
	}
}
