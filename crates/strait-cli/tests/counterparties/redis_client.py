"""redis-py as a program: write ADDRESS STREAM | work ADDRESS STREAM GROUP COUNT.

A worker as many have it: XGROUP CREATE, XREADGROUP, XACK. What it read is printed as one JSON object per entry, bytes as
hexadecimal digits.
"""

import json
import sys

import redis


def connect(address):
    host, port = address.rsplit(':', 1)
    return redis.Redis(host=host, port=int(port))


def write(address, stream):
    server = connect(address)
    server.xadd(stream, {'body': 'text', 'key': 'plain'})
    server.xadd(stream, {'body': b'\x00\xff', 'key': b'\xff\x00'})
    server.xadd(stream, {'body': 'headers', 'key': 'h', 'h:a': '1', 'h:b': b'\xff', 'colour': 'red'})
    server.xadd(stream, {'body': '{}', 'id': 'A234', 'type': 'order.placed.v1', 'source': '/shop',
                         'time': '1700000000123', 'content-type': 'application/json'})
    server.xadd(stream, {'order': '7', 'status': 'created'})
    server.xadd(stream, {'payload': 'alone'})


def work(address, stream, group, count):
    server = connect(address)
    server.xgroup_create(stream, group, id='0')
    left = int(count)
    while left > 0:
        for _, entries in server.xreadgroup(group, 'worker', {stream: '>'}, count=2, block=1000):
            for id, fields in entries:
                print(json.dumps({'id': id.decode(), 'fields': {
                    name.decode(): value.hex() for name, value in fields.items()}}), flush=True)
                assert server.xack(stream, group, id) == 1
                left -= 1
    assert server.xpending(stream, group)['pending'] == 0


{'write': write, 'work': work}[sys.argv[1]](*sys.argv[2:])
