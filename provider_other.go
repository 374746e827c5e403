//go:build !linux

package aftls

import (
	"errors"
	"io"

	"github.com/aftls/aftls/internal/kernel"
	"github.com/aftls/aftls/internal/soft"
	"github.com/aftls/aftls/record"
)

func (s *Socket) sendInKernel(*soft.Sender, record.Keys) error { return errors.ErrUnsupported }

func (s *Socket) receiveInKernel(*soft.Receiver, record.Keys) error { return errors.ErrUnsupported }

func (s *Socket) resumeInKernel(*State, Options) error { return errors.ErrUnsupported }

func (s *Socket) sendFile(*soft.Source, int64) (int64, bool, error) { return 0, false, nil }

func (s *Socket) spliceTurn(*soft.Source, **kernel.Splice, int64) (int64, bool, error) {
	return 0, false, nil
}

type splicer struct{ w io.Writer }

func (*splicer) close() {}

func (s *Socket) spliceTo(*splicer, func() error, func() error) (int, bool, error) {
	return 0, false, nil
}

type refresher interface{ Refresh() }

func isKernel(any) bool { return false }
