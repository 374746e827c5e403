package gcm_test

import (
	"crypto/aes"
	"crypto/cipher"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/aftls/aftls/aftlstest"
	"github.com/aftls/aftls/gcm"
)

// asked is set in the environment of a process that is to say what it uses.
const asked = "AFTLS_GCM_TEST_ASKED"

// TestSays is run by the tests below in processes of their own: which variant
// is used is settled when a process starts.
func TestSays(t *testing.T) {
	if os.Getenv(asked) == "" {
		return
	}
	name, reason := gcm.Implementation()
	fmt.Printf("says %s; %s\n", name, reason)
	_, err := gcm.New(make([]byte, 16))
	block, stdErr := aes.NewCipher(make([]byte, 16))
	if stdErr == nil {
		_, stdErr = cipher.NewGCM(block)
	}
	if fmt.Sprint(err) != fmt.Sprint(stdErr) {
		t.Errorf("New returns the error %v, crypto/cipher %v", err, stdErr)
	}
	fmt.Printf("error %v\n", err)
}

// ask runs this test program again and returns what it says.
func ask(t *testing.T, run string, env []string, emulator ...string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := append(emulator, self, "-test.run", run, "-test.short")
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), asked+"=1", "AFTLS_GCM=", "GODEBUG=")
	cmd.Env = append(cmd.Env, env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v %v: %v\n%s", env, args, err, out)
	}
	return string(out)
}

func TestEnvironment(t *testing.T) {
	best := ask(t, "^TestSays$", nil)
	for _, c := range []struct {
		env  string
		want string // what is said contains it; empty: the best variant
	}{
		{"AFTLS_GCM=generic", "says generic;"},
		{"AFTLS_GCM=unheard-of", "AFTLS_GCM=unheard-of is not possible here"},
		{"GODEBUG=fips140=on", "says generic; FIPS"},
		{"GODEBUG=fips140=only", "says generic; FIPS"},
		{"GODEBUG=fips140=only", "error crypto/cipher: use of GCM with arbitrary IVs is not allowed"},
		{"GODEBUG=fips140=off", best[:strings.IndexByte(best, '\n')]},
	} {
		if gcm.PureGo && strings.HasPrefix(c.env, "GODEBUG=fips140=o") && c.env != "GODEBUG=fips140=off" {
			continue // Go's own module refuses to start without its assembly
		}
		if out := ask(t, "^TestSays$", []string{c.env}); !strings.Contains(out, c.want) {
			t.Errorf("with %s a process says\n%swant %q in it", c.env, out, c.want)
		}
	}
	if strings.Contains(best, "says avx512;") {
		if out := ask(t, "^TestSays$", []string{"AFTLS_GCM=avx2"}); !strings.Contains(out, "says avx2;") {
			t.Errorf("with AFTLS_GCM=avx2 a process says\n%s", out)
		}
	}
}

// What this machine cannot run was not tested here: that is to be seen.
func TestVariantsOfThisMachine(t *testing.T) {
	for _, name := range []string{"avx2", "avx512"} {
		t.Run(name, func(t *testing.T) {
			out := ask(t, "^TestSays$", []string{"AFTLS_GCM=" + name})
			if strings.Contains(out, "says "+name+";") {
				return
			}
			if aftlstest.Expected(name) {
				t.Fatalf("AFTLS_EXPECT says that %s can be tested here:\n%s", name, out)
			}
			t.Skipf("%s cannot be tested here: %s", name, strings.TrimSpace(strings.Split(out, "\n")[0]))
		})
	}
}
