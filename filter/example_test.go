package filter_test

import (
	"fmt"
	"net"
	"os"

	"github.com/aftls/aftls/filter"
)

// A filter lets the requests of one network pass, until another program takes its
// place.
func ExampleFilter() {
	p, err := filter.Compile(`src net 192.0.2.0/24 and data[0:4] = 0x47455420`) // "GET "
	if err != nil {
		fmt.Println(err)
		return
	}
	f := new(filter.Filter)
	f.Swap(p)

	h := filter.NewHeader(
		&net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 50000},
		&net.TCPAddr{IP: net.IPv4(203, 0, 113, 1), Port: 443})
	fmt.Println(f.Decide(h, []byte("GET / HTTP/1.1\r\n")))
	fmt.Println(f.Decide(h, []byte("PUT / HTTP/1.1\r\n")))
	f.Swap(nil) // no program: all passes
	fmt.Println(f.Decide(h, []byte("PUT / HTTP/1.1\r\n")))
	fmt.Printf("%+v\n", f.Stats())
	// Output:
	// PASS
	// DROP
	// PASS
	// {Pass:2 Drop:1 Truncate:0 Redirect:0 Select:0 Kill:0}
}

// Rules give each kind of message a verdict; the first that matches decides.
func ExampleCompileRules() {
	p, err := filter.CompileRules(
		filter.Rule{When: "data[0:2] = 0x5353", Then: filter.Verdict{Action: filter.Kill, N: 1}}, // "SS" of SSH
		filter.Rule{When: "data[0] = 0x50", Then: filter.Verdict{Action: filter.Select, N: 2}},   // "P" of POST
		filter.Rule{When: "len > 1040", Then: filter.Verdict{Action: filter.Truncate, N: 1000}},
		filter.Rule{Then: filter.Verdict{Action: filter.Pass}},
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	f := new(filter.Filter)
	f.Swap(p)
	for _, message := range []string{"SSH-2.0", "POST /", "GET /"} {
		fmt.Println(f.Decide(nil, []byte(message)))
	}
	fmt.Println(f.Decide(nil, make([]byte, 5000)))
	// Output:
	// KILL(1)
	// SELECT(2)
	// PASS
	// TRUNCATE(1000)
}

// The output of tcpdump is a program too.
func ExampleParse() {
	const program = "3\n128 0 0 0\n37 0 0 100\n6 0 0 262144\n" // ld len; jgt 100; ret
	p, err := filter.Parse(program)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(p)
	// Output:
	// (000) ld       #pktlen
	// (001) jgt      #0x64            jt 2	jf 2
	// (002) ret      #262144
}

// A tap writes what passes on connections to a file that tcpdump and Wireshark
// read.
func ExampleTap() {
	file, err := os.CreateTemp("", "tap") // mode 0600
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.Remove(file.Name())
	defer file.Close()

	tap := filter.NewTap(file, filter.TapOptions{SnapLen: 96})
	flow := tap.Flow(
		&net.TCPAddr{IP: net.IPv4(203, 0, 113, 1), Port: 443},
		&net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 50000}, false)
	flow.Received([]byte("request"))
	flow.Sent([]byte("answer"))
	flow.Close()
	fmt.Println(tap.Close())
	fmt.Printf("%+v\n", tap.Stats())
	// Output:
	// <nil>
	// {Packets:8 Filtered:0 Dropped:0}
}
