package bench

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// peerNginx is nginx that makes its records itself.
const peerNginx = "nginx's own TLS"

// nginx: unmodified, with the TLS sockets of Linux, which it has from 'aftls run',
// against the same one with the records of its OpenSSL. Over one connection nginx
// has one process, however many it may have, and the supervisor a CPU beside it;
// over several all CPUs are busy on both sides.
func (r *runner) nginx() error {
	exe, err := exec.LookPath("nginx")
	if err != nil {
		if exe, err = exec.LookPath("/usr/sbin/nginx"); err != nil {
			return &errMissing{"nginx was not found"}
		}
	}
	if err := r.helpless(); err != nil {
		return err
	}
	version, openssl, err := nginxVersion(exe)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(r.www(), 0o700); err != nil {
		return err
	}
	size := r.scale.fileSizes[len(r.scale.fileSizes)-1]
	const file = "nginx.bin"
	want, err := writeFile(filepath.Join(r.www(), file), size)
	if err != nil {
		return err
	}
	names := []string{peerRun, peerNginx}
	var servers []*command
	var users []cpuUser
	for i := range names {
		c, err := r.startNginx(exe, i == 0)
		if err != nil {
			return fmt.Errorf("%s: %w", names[i], err)
		}
		defer c.end()
		servers, users = append(servers, c), append(users, c)
	}
	faster := 1.5
	if !strings.HasPrefix(openssl, "3.0.") {
		faster = 1
	}
	var report []func() // when it is certain that the right thing was measured
	sent := int64(0)
	for _, conns := range []int{1, fileConns} {
		gets := make([][]*getter, len(servers))
		for i, s := range servers {
			ls, err := r.links(s.process, conns)
			if err != nil {
				return err
			}
			defer closeLinks(ls)
			for _, l := range ls {
				g := &getter{link: l, path: "/" + file, b: make([]byte, clientBuffer)}
				if err := g.first(size, want); err != nil {
					return fmt.Errorf("%s: %w", names[i], err)
				}
				gets[i] = append(gets[i], g)
			}
		}
		rounds := max(r.scale.fileBytes/size/int64(conns), 1)
		total := rounds * int64(conns) * size
		p := pace{name: fmt.Sprintf("nginx %d MB x %d", size>>20, conns), reps: r.reps(r.amounts().reps), warm: true, peers: names, users: users}
		figures, foreign, err := r.interleave(p, func(peer int) ([]float64, error) {
			before, err := servers[peer].used()
			if err != nil {
				return nil, err
			}
			begin := time.Now()
			if err := each(gets[peer], func(g *getter) error { return g.again(rounds) }); err != nil {
				return nil, errors.Join(err, errors.New(servers[peer].said.String()))
			}
			took := time.Since(begin)
			after, err := servers[peer].used()
			if peer == 0 {
				sent += total
			}
			return []float64{float64(total) / float64(took), perGB(after-before, total)[0]}, err
		})
		if err != nil {
			return err
		}
		report = append(report, func() {
			r.addOf(names, p.name, unitSpeed, figures[0], &Goal{Of: ofRatio, Over: peerNginx, Min: faster}, foreign)
			r.addOf(names, p.name, unitPerGB, figures[1], &Goal{Of: ofRatio, Over: peerNginx, Max: 0.9}, foreign)
		})
		for i := range gets {
			for _, g := range gets[i] {
				g.NetConn().Close()
			}
		}
	}
	st, err := servers[0].statistics(syscall.SIGTERM)
	if err != nil {
		return err
	}
	if st.sockets == 0 {
		return &errMissing{version + " made no TLS socket: its OpenSSL was built without kernel TLS"}
	}
	if st.failed != 0 || int64(st.sealedBytes) < sent {
		return fmt.Errorf("nginx sent %d bytes, aftls run counted %+v: %s", sent, st, servers[0].said)
	}
	for _, add := range report {
		add()
	}
	r.report.Notes = append(r.report.Notes, fmt.Sprintf("nginx: %s with OpenSSL %s", version, openssl))
	return nil
}

var nginxSays = regexp.MustCompile(`(nginx/\S+)[\s\S]*?built with OpenSSL (\S+)(?:.*\(running with OpenSSL (\S+))?`)

func nginxVersion(exe string) (version, openssl string, err error) {
	out, err := exec.Command(exe, "-V").CombinedOutput()
	if err != nil {
		return "", "", err
	}
	m := nginxSays.FindStringSubmatch(string(out))
	if m == nil {
		return "", "", &errMissing{"this nginx has no OpenSSL"}
	}
	if m[3] != "" {
		return m[1], m[3], nil
	}
	return m[1], m[2], nil
}

// nginxConf has the folder, the address, the certificate, its key, the files to
// serve, the number of processes, and what differs.
const nginxConf = `
%[8]s
worker_processes %[6]d;
error_log "%[1]s/error.log" error;
pid "%[1]s/pid";
events { worker_connections 1024; }
http {
	access_log off;
	sendfile on;
	client_body_temp_path "%[1]s/b"; proxy_temp_path "%[1]s/p"; fastcgi_temp_path "%[1]s/f"; uwsgi_temp_path "%[1]s/u"; scgi_temp_path "%[1]s/s";
	server {
		listen %[2]s ssl;
		ssl_certificate "%[3]s";
		ssl_certificate_key "%[4]s";
		ssl_protocols TLSv1.3;
		%[7]s
		keepalive_requests 1000000;
		root "%[5]s";
	}
}
`

// startNginx starts nginx with as many processes as it has CPUs.
func (r *runner) startNginx(exe string, under bool) (*command, error) {
	prefix, err := os.MkdirTemp(r.dir, "nginx-")
	if err != nil {
		return nil, err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	workers, user, option := r.report.Machine.CPUs, "", ""
	if r.cfg.Placement.Taskset != "" {
		workers = 2
	}
	if os.Getuid() == 0 {
		user = "user root;" // nobody else may read the files
	}
	if under {
		option = "ssl_conf_command Options KTLS;"
	}
	conf := filepath.Join(prefix, "nginx.conf")
	text := fmt.Sprintf(nginxConf, prefix, addr, r.cert.file, r.cert.keyFile, r.www(), workers, option, user)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	if out, err := exec.CommandContext(r.ctx, exe, "-t", "-p", prefix, "-c", conf).CombinedOutput(); err != nil {
		return nil, &errMissing{"nginx does not take the configuration: " + strings.TrimSpace(string(out))}
	}
	argv := []string{exe, "-p", prefix, "-c", conf, "-g", "daemon off;"}
	if under {
		argv = append(r.supervised(), argv...)
	}
	cmd, said := r.prepare(argv...)
	s, err := r.begin(cmd)
	if err != nil {
		return nil, err
	}
	s.addr = addr
	c := &command{process: s, said: said}
	if err := r.listens(s); err != nil {
		c.end()
		return nil, fmt.Errorf("nginx: %w: %s", err, said)
	}
	return c, nil
}

// listens waits until a program that says nothing can be connected to.
func (r *runner) listens(s *process) error {
	gone := make(chan struct{})
	go func() {
		for s.out.Scan() { // nothing comes but the end
		}
		close(gone)
	}()
	for deadline := time.Now().Add(patience); ; {
		conn, err := r.dial(s)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-gone:
		default:
			if r.ctx.Err() == nil && time.Now().Before(deadline) {
				continue
			}
		}
		return fmt.Errorf("it does not listen: %w", err)
	}
}

// freeAddr is an address that nobody listens on.
func freeAddr() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}
