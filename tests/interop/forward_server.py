"""A forward receiver that decodes with Python's msgpack. It prints the port that it listens on, and then each event that it
receives, one per line. It acknowledges a chunk after it has printed its events."""

import gzip
import json
import socketserver
import struct

import msgpack


class Connection(socketserver.BaseRequestHandler):
    def handle(self):
        messages = msgpack.Unpacker(max_buffer_size=0)
        while received := self.request.recv(65536):
            messages.feed(received)
            for tag, entries, options in messages:
                if options.get("compressed") == "gzip":
                    entries = gzip.decompress(entries)
                events = msgpack.Unpacker(max_buffer_size=0)
                events.feed(entries)
                for time, record in events:
                    assert time.code == 0, time
                    seconds, nanoseconds = struct.unpack(">II", time.data)
                    event = {"tag": tag, "seconds": seconds, "nanoseconds": nanoseconds, "record": record}
                    print(json.dumps(event), flush=True)
                self.request.sendall(msgpack.packb({"ack": options["chunk"]}))


with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Connection) as server:
    print(server.server_address[1], flush=True)
    server.serve_forever()
