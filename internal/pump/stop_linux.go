package pump

import "errors"

// ErrStopped is what the directions of a pump end of after Stop.
var ErrStopped = errors.New("pump: stopped")

// Stop ends Run without closing anything: the endpoint, which must have been
// made to return from WriteTo, and the end are the caller's. What the program
// wrote and was not sent stays in the end.
func (p *Pump) Stop() {
	p.stopping.Store(true)
	p.Kick()
	<-p.over
}

// stopped turns the error of a direction into ErrStopped where Stop is why.
func (p *Pump) stopped(err error) error {
	if err != nil && p.stopping.Load() {
		return ErrStopped
	}
	return err
}
