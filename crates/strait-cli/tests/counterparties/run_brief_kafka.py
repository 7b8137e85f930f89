"""Runs another project's program as it is, but for the address: PROGRAM ADDRESS FIRST.

Its endless loop ends when it has processed FIRST and, after that, what it wrote itself.
"""

import sys

program, address, first = sys.argv[1:]
seen = []


def process_order(value):
    seen.append(value.decode())
    print(value.decode(), flush=True)
    if first in seen and seen[-1] == '{"status": "created"}':
        raise SystemExit(0)


with open(program) as file:
    text = file.read()
assert text.count('localhost:9092') == 2
names = {'process_order': process_order}
try:
    exec(compile(text.replace('localhost:9092', address), program, 'exec'), names)
finally:
    # The program itself never leaves its group; the next one would wait for its session to end.
    names['consumer'].close()
