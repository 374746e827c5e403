// The header in C++.
#include "aftls.h"

int connect_and_hand_off(const aftls_handoff &h)
{
	aftls_error why;
	int control, daemon = aftls_connect(nullptr);
	int data = aftls_hand_off(daemon, &h, &control, &why);
	static aftls_event event;
	if (data >= 0 && aftls_ask_info(control) == 0 && aftls_receive(control, &event) == 1)
		return int(event.body.info.tx.seq);
	return data;
}
