module github.com/aftls/aftls

go 1.26.0

require golang.org/x/crypto v0.58.0

require (
	github.com/pion/dtls/v3 v3.1.15
	github.com/spf13/cobra v1.10.2
	golang.org/x/net v0.62.0
	golang.org/x/sys v0.49.0
)

require (
	github.com/inconshreveable/mousetrap v1.1.0 // indirect
	github.com/spf13/pflag v1.0.9 // indirect
)
