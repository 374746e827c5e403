// Package pump moves bytes between a record endpoint, such as a socket of TLS
// records, and a plaintext end: a descriptor that a program reads and writes
// with the calls of its system. It makes the pair of which the program gets one
// half. Linux.
//
//	program ── write(2) ──▶ End ── ReadBuffers ──▶ payload places of a batch ──▶ seal ──▶ carrier
//	program ◀── read(2) ─── End ◀──── Write ◀──── opened records ◀──── open ◀──── carrier
//
// The pair is fail-closed. From its first moment any close of our half is an
// error to the program, even the close of a killed process: the kernel makes it
// ECONNRESET because one byte that the program sent, or seems to have sent, lies
// unread in our queue. Only Finish makes the end a clean one.
package pump
