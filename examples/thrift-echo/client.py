#!/usr/bin/python3
"""Many callers on one connection to thrift-echo, with Debian's python3-thrift.

usage: client.py HOST PORT CA-FILE [CALLERS [CALLS]]

Half of the callers call wait, each of the others calls echo with the text that
one of them waits for: answers come in another order than the calls.
"""

import asyncio
import ssl
import struct
import sys

from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.Thrift import TApplicationException, TMessageType, TType
from thrift.transport.TTransport import TFramedTransport, TMemoryBuffer

PATIENCE = 60  # seconds, for one call


class Client:
    """One connection for any number of callers."""

    @classmethod
    async def connect(cls, host, port, ca):
        self = cls()
        self.reader, self.writer = await asyncio.open_connection(
            host, port, ssl=ssl.create_default_context(cafile=ca))
        self.calls = {}  # by sequence number: future of the answer
        self.last = 0
        self.order = []  # sequence numbers, as answers came
        self.receiving = asyncio.create_task(self._receive())
        return self

    async def call(self, method, text):
        self.last += 1
        answer = asyncio.get_running_loop().create_future()
        self.calls[self.last] = answer
        out = TMemoryBuffer()
        framed = TFramedTransport(out)
        protocol = TBinaryProtocol(framed)
        protocol.writeMessageBegin(method, TMessageType.CALL, self.last)
        protocol.writeStructBegin(method + "_args")
        protocol.writeFieldBegin("text", TType.STRING, 1)
        protocol.writeString(text)
        protocol.writeFieldEnd()
        protocol.writeFieldStop()
        protocol.writeStructEnd()
        protocol.writeMessageEnd()
        framed.flush()
        self.writer.write(out.getvalue())
        await self.writer.drain()
        return await asyncio.wait_for(answer, PATIENCE)

    async def _receive(self):
        error = ConnectionError("the connection ended")
        try:
            while True:
                size, = struct.unpack("!i", await self.reader.readexactly(4))
                protocol = TBinaryProtocol(TMemoryBuffer(await self.reader.readexactly(size)))
                _, kind, number = protocol.readMessageBegin()
                self.order.append(number)
                answer = self.calls.pop(number)
                if kind == TMessageType.EXCEPTION:
                    failed = TApplicationException()
                    failed.read(protocol)
                    answer.set_exception(failed)
                else:
                    answer.set_result(self._result(protocol))
        except Exception as e:
            error = e
        finally:
            for answer in self.calls.values():
                answer.set_exception(error)

    @staticmethod
    def _result(protocol):
        result = None
        protocol.readStructBegin()
        while True:
            _, kind, number = protocol.readFieldBegin()
            if kind == TType.STOP:
                return result
            if number == 0 and kind == TType.STRING:
                result = protocol.readString()
            else:
                protocol.skip(kind)
            protocol.readFieldEnd()

    async def close(self):
        self.receiving.cancel()
        self.writer.close()
        await self.writer.wait_closed()


async def call(client, method, text):
    answer = await client.call(method, text)
    if answer != text:
        raise ValueError("%s of %r was answered with %r" % (method, text, answer))


async def pair(client, name, calls):
    """Two callers. The echo is repeated, as it may come before its wait."""
    for i in range(calls):
        text = "pair %d, call %d %s" % (name, i, "\u00e4" * (i % 50))
        waits = asyncio.create_task(call(client, "wait", text))
        await asyncio.sleep(0)  # the wait is sent first
        while not waits.done():
            await call(client, "echo", text)
        await waits


async def main():
    host, port, ca = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    callers = int(sys.argv[4]) if len(sys.argv) > 4 else 16
    calls = int(sys.argv[5]) if len(sys.argv) > 5 else 100
    client = await Client.connect(host, port, ca)
    await asyncio.gather(*(pair(client, i, calls) for i in range(callers // 2)))
    try:
        await client.call("nonsense", "")
        sys.exit("a method that there is not was answered")
    except TApplicationException as e:
        if e.type != TApplicationException.UNKNOWN_METHOD:
            raise
    overtaken = sum(1 for a, b in zip(client.order, client.order[1:]) if b < a)
    print("%d calls, %d answers were overtaken" % (client.last, overtaken))
    await client.close()


if __name__ == "__main__":
    asyncio.run(main())
