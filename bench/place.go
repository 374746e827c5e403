package bench

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
)

// Placement is on which CPUs the server and the client run. The zero value
// leaves it to the system.
type Placement struct {
	Taskset        string `json:"-"` // the program; empty: nothing is pinned
	Server, Client int
	Why            string // why nothing is pinned
}

// Place chooses the first two CPUs that this process may use.
func Place() Placement {
	path, err := exec.LookPath("taskset")
	if err != nil {
		return Placement{Why: "taskset (util-linux) was not found"}
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return Placement{Why: "this system does not say which CPUs may be used"}
	}
	cpus := allowed(string(status))
	if len(cpus) < 2 {
		return Placement{Why: "there is one CPU only, server and client share it"}
	}
	return Placement{Taskset: path, Server: cpus[0], Client: cpus[1]}
}

// allowed reads the CPUs of a /proc/PID/status, such as "0-1,4".
func allowed(status string) (cpus []int) {
	_, rest, _ := strings.Cut(status, "\nCpus_allowed_list:")
	list, _, _ := strings.Cut(rest, "\n")
	for part := range strings.SplitSeq(strings.TrimSpace(list), ",") {
		from, to, ok := strings.Cut(part, "-")
		if !ok {
			to = from
		}
		a, err1 := strconv.Atoi(from)
		b, err2 := strconv.Atoi(to)
		if err1 != nil || err2 != nil || b < a || b-a > 1<<16 {
			return nil
		}
		for ; a <= b; a++ {
			cpus = append(cpus, a)
		}
	}
	return cpus
}

// Become replaces this process by the same program with other arguments, on
// the client's CPU. It returns only if that fails.
func (p Placement) Become(args ...string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	argv := append([]string{"taskset", "-c", strconv.Itoa(p.Client), exe}, args...)
	return os.NewSyscallError("exec", syscall.Exec(p.Taskset, argv, os.Environ()))
}

// String is the form that ParsePlacement reads.
func (p Placement) String() string {
	if p.Taskset == "" {
		return ""
	}
	return fmt.Sprintf("%d,%d,%s", p.Server, p.Client, p.Taskset)
}

// ParsePlacement reads what String wrote.
func ParsePlacement(s string) (Placement, error) {
	f := strings.SplitN(s, ",", 3)
	if len(f) == 3 && f[2] != "" {
		server, err1 := strconv.Atoi(f[0])
		client, err2 := strconv.Atoi(f[1])
		if err1 == nil && err2 == nil && server >= 0 && client >= 0 {
			return Placement{Taskset: f[2], Server: server, Client: client}, nil
		}
	}
	return Placement{}, fmt.Errorf("no placement %q: SERVER,CLIENT,TASKSET", s)
}

// Machine is where the figures come from.
type Machine struct {
	CPU              string `json:"cpu"`
	CPUs             int    `json:"cpus"`
	OS               string `json:"os"`
	Kernel           string `json:"kernel,omitempty"`
	Go               string `json:"go"`
	Revision         string `json:"revision,omitempty"` // of the measured program
	ServerGOMAXPROCS int    `json:"server_gomaxprocs"`
	ClientGOMAXPROCS int    `json:"client_gomaxprocs"`
	Placement        string `json:"placement"`
	Suite            string `json:"suite"` // what was negotiated over TLS, where a row looked
}

func machine(p Placement) Machine {
	m := Machine{
		CPU: "unknown CPU", CPUs: runtime.NumCPU(), OS: runtime.GOOS + "/" + runtime.GOARCH,
		Go: runtime.Version(), ClientGOMAXPROCS: runtime.GOMAXPROCS(0),
	}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, rest, ok := strings.Cut(string(b), "\nmodel name"); ok {
			line, _, _ := strings.Cut(rest, "\n")
			m.CPU = strings.TrimLeft(line, "\t :")
		}
		m.CPUs = strings.Count("\n"+string(b), "\nprocessor")
	}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(b))
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				m.Revision = s.Value + m.Revision
			case s.Key == "vcs.modified" && s.Value == "true":
				m.Revision += "+"
			}
		}
	}
	switch {
	case p.Taskset != "":
		m.Placement = fmt.Sprintf("server on CPU %d, client on CPU %d", p.Server, p.Client)
	case p.Why != "":
		m.Placement = "not pinned: " + p.Why
	default:
		m.Placement = "not pinned"
	}
	return m
}

func (m Machine) lines() []string {
	kernel := m.OS
	if m.Kernel != "" {
		kernel += " " + m.Kernel
	}
	program := m.Go
	if m.Revision != "" {
		program += ", aftls " + m.Revision
	}
	tls := "TLS 1.3, X25519, ECDSA P-256"
	if m.Suite != "" {
		tls = "TLS 1.3, " + m.Suite + ", X25519, ECDSA P-256"
	}
	return []string{
		fmt.Sprintf("%s, %d CPUs, %s, %s", m.CPU, m.CPUs, kernel, program),
		fmt.Sprintf("%s; GOMAXPROCS %d and %d; %s", m.Placement, m.ServerGOMAXPROCS, m.ClientGOMAXPROCS, tls),
	}
}
