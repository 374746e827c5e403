package bench

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A terminator is a program that takes TLS and passes plaintext to a backend, as
// 'aftls proxy' does. Its configuration has places: @DIR@ a folder of its own,
// @LISTEN@ and @TO@ addresses, @CERT@, @KEY@ and @BOTH@ files.
type terminator struct {
	name    string // of the peer
	program string
	conf    string
	args    []string // @CONF@ is the configuration

	// check says what else the configuration needs on top, or why the program
	// cannot be measured.
	check func(exe string) (top string, err error)

	version *regexp.Regexp // in what -v or -V says
	ask     string
}

// terminators are those that the proxy row looks for. Each has one process, or one
// thread, that does the work, and speaks TLS 1.3 with the suite of the other peers.
var terminators = []terminator{
	{
		name: "nginx stream", program: "nginx", ask: "-V", version: regexp.MustCompile(`nginx/(\S+)`), check: nginxStream,
		args: []string{"-p", "@DIR@", "-c", "@CONF@", "-g", "daemon off;"},
		conf: `
worker_processes 1;
error_log "@DIR@/error.log" error;
pid "@DIR@/pid";
events { worker_connections 1024; }
stream {
	access_log off;
	server {
		listen @LISTEN@ ssl;
		ssl_certificate "@CERT@";
		ssl_certificate_key "@KEY@";
		ssl_protocols TLSv1.3;
		ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
		proxy_pass @TO@;
	}
}
`,
	},
	{
		name: "haproxy", program: "haproxy", ask: "-v", version: regexp.MustCompile(`version (\S+)`),
		args: []string{"-db", "-f", "@CONF@"},
		conf: `
global
	nbthread 1
	maxconn 1000
defaults
	mode tcp
	timeout client 10m
	timeout server 10m
	timeout connect 10s
frontend tls
	bind @LISTEN@ ssl crt @BOTH@ ssl-min-ver TLSv1.3 ciphersuites TLS_AES_128_GCM_SHA256
	default_backend plain
backend plain
	server one @TO@
`,
	},
	{
		name: "hitch", program: "hitch", ask: "--version", version: regexp.MustCompile(`hitch (\S+)`), check: hitchUser,
		args: []string{"--config=@CONF@"},
		conf: `
frontend = "[@LISTENHOST@]:@LISTENPORT@"
backend = "[@TOHOST@]:@TOPORT@"
pem-file = "@BOTH@"
tls-protos = TLSv1.3
ciphersuites = "TLS_AES_128_GCM_SHA256"
workers = 1
daemon = off
`,
	},
}

// hitchUser is whom hitch is to be, as it refuses to be root.
func hitchUser(string) (top string, err error) {
	if os.Getuid() == 0 {
		top = "user = \"nobody\"\ngroup = \"nogroup\"\n"
	}
	return top, nil
}

// nginxStream finds out whether nginx has the stream module, and where.
func nginxStream(exe string) (top string, err error) {
	out, err := exec.Command(exe, "-V").CombinedOutput()
	if err != nil {
		return "", err
	}
	if os.Getuid() == 0 {
		top = "user root;\n" // nobody else may read the files
	}
	said := string(out)
	if !strings.Contains(said, "--with-stream=dynamic") {
		if !strings.Contains(said, "--with-stream ") {
			return "", errors.New("it was built without the stream module")
		}
		return top, nil
	}
	_, dir, _ := strings.Cut(said, "--modules-path=")
	dir, _, _ = strings.Cut(dir, " ")
	module := filepath.Join(dir, "ngx_stream_module.so")
	if _, err := os.Stat(module); err != nil {
		return "", errors.New("its stream module is not installed")
	}
	return "load_module " + module + ";\n" + top, nil
}

// startTerminators starts those that are here, in front of a backend. Why the
// others are not measured, and which versions are, is noted in the report.
func (r *runner) startTerminators(to string) (names []string, servers []*process, err error) {
	for _, t := range terminators {
		s, version, err := r.startTerminator(t, to)
		if missing, ok := errors.AsType[*errMissing](err); ok {
			r.note(fmt.Sprintf("proxy: %s was not measured: %v", t.name, missing))
			continue
		}
		if err != nil {
			endAll(servers)
			return nil, nil, fmt.Errorf("%s: %w", t.name, err)
		}
		r.note(fmt.Sprintf("proxy: %s %s", t.name, version))
		names, servers = append(names, t.name), append(servers, s)
	}
	return names, servers, nil
}

func (r *runner) startTerminator(t terminator, to string) (s *process, version string, err error) {
	exe, err := exec.LookPath(t.program)
	if err != nil {
		if exe, err = exec.LookPath("/usr/sbin/" + t.program); err != nil {
			return nil, "", &errMissing{t.program + " was not found"}
		}
	}
	out, err := exec.Command(exe, t.ask).CombinedOutput()
	if m := t.version.FindSubmatch(out); err == nil && m != nil {
		version = string(m[1])
	}
	top := ""
	if t.check != nil {
		if top, err = t.check(exe); err != nil {
			return nil, "", &errMissing{err.Error()}
		}
	}
	dir, err := os.MkdirTemp(r.dir, "terminator-")
	if err != nil {
		return nil, "", err
	}
	both := filepath.Join(dir, "both.pem")
	if err := r.cert.both(both); err != nil {
		return nil, "", err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, "", err
	}
	conf := filepath.Join(dir, "conf")
	host, port, _ := strings.Cut(addr, ":")
	toHost, toPort, _ := strings.Cut(to, ":")
	places := strings.NewReplacer("@DIR@", dir, "@CONF@", conf, "@LISTEN@", addr, "@TO@", to, "@CERT@", r.cert.file, "@KEY@", r.cert.keyFile,
		"@BOTH@", both, "@LISTENHOST@", host, "@LISTENPORT@", port, "@TOHOST@", toHost, "@TOPORT@", toPort)
	if err := os.WriteFile(conf, []byte(top+places.Replace(t.conf)), 0o600); err != nil {
		return nil, "", err
	}
	argv := []string{exe}
	for _, a := range t.args {
		argv = append(argv, places.Replace(a))
	}
	if p := r.cfg.Placement; p.Taskset != "" {
		argv = append([]string{p.Taskset, "-c", strconv.Itoa(p.Server)}, argv...)
	}
	cmd, said := r.prepareHere(argv...)
	if s, err = r.begin(cmd); err != nil {
		return nil, "", err
	}
	s.addr = addr
	s.cpu = func() (time.Duration, error) { return treeTime(cmd.Process.Pid) }
	s.stop = func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	if err := r.listens(s); err != nil {
		s.end()
		return nil, "", fmt.Errorf("%w: %s", err, said)
	}
	return s, version, nil
}
