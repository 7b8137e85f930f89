"""A program without a client library, XADD and XREADGROUP over a socket: HOST:PORT STREAM GROUP COUNT.

It adds one entry, then reads COUNT as a member of a new group, acknowledges them and prints each as JSON: id and fields.
"""

import json
import socket
import sys

address, stream, group, count = sys.argv[1:]
host, port = address.rsplit(':', 1)
connection = socket.create_connection((host, int(port))).makefile('rwb')


def answer():
    line = connection.readline().rstrip(b'\r\n')
    kind, rest = line[:1], line[1:].decode()
    if kind == b'$':
        return None if rest == '-1' else connection.read(int(rest) + 2)[:-2].decode()
    if kind == b'*':
        return None if rest == '-1' else [answer() for _ in range(int(rest))]
    if kind == b'-':
        raise SystemExit(rest)
    return rest


def ask(*words):
    connection.write(b'*%d\r\n' % len(words))
    for word in map(str.encode, words):
        connection.write(b'$%d\r\n%s\r\n' % (len(word), word))
    connection.flush()
    return answer()


ask('XADD', stream, '*', 'body', 'by hand', 'key', 'socket', 'h:from', 'plain')
ask('XGROUP', 'CREATE', stream, group, '0')
left = int(count)
while left > 0:
    for _, entries in ask('XREADGROUP', 'GROUP', group, 'c1', 'COUNT', '10', 'BLOCK', '1000', 'STREAMS', stream, '>') or []:
        for id, fields in entries:
            print(json.dumps([id, fields]), flush=True)
            assert ask('XACK', stream, group, id) == '1'
            left -= 1
