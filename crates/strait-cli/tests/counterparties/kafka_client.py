"""confluent-kafka as a program: write ADDRESS TOPIC | read ADDRESS TOPIC GROUP COUNT.

What is read is committed, and printed as one JSON object per message, bytes as hexadecimal digits.
"""

import json
import sys

from confluent_kafka import Consumer, Producer


def hexadecimal(value):
    return None if value is None else value.hex()


def write(address, topic):
    producer = Producer({'bootstrap.servers': address, 'enable.idempotence': True})
    failed = []

    def acknowledged(error, message):
        if error is not None:
            failed.append(str(error))

    def send(**message):
        producer.produce(topic, partition=0, on_delivery=acknowledged, **message)

    send(key='plain', value='text')
    send(key=b'\xff\x00', value=b'\x00\xff')
    send(value=None)
    send(key='h', value='headers', headers=[('a', b'1'), ('a', b'\xff'), ('none', None), ('ü', 'é')])
    send(key='event', value='{}', timestamp=1700000000123, headers=[
        ('ce_specversion', '1.0'), ('ce_id', 'A234'), ('ce_type', 'order.placed.v1'), ('ce_source', '/shop'),
        ('content-type', 'application/json')])
    producer.flush()
    assert not failed, failed


def read(address, topic, group, count):
    consumer = Consumer({'bootstrap.servers': address, 'group.id': group, 'auto.offset.reset': 'earliest',
                         'enable.auto.commit': False})
    consumer.subscribe([topic])
    left = int(count)
    while left > 0:
        message = consumer.poll(1.0)
        if message is None:
            continue
        if message.error():
            raise SystemExit(str(message.error()))
        print(json.dumps({
            'partition': message.partition(), 'offset': message.offset(), 'key': hexadecimal(message.key()),
            'value': hexadecimal(message.value()), 'time': message.timestamp()[1],
            'headers': [[name, hexadecimal(value)] for name, value in message.headers() or []]}), flush=True)
        consumer.commit(message=message, asynchronous=False)
        left -= 1
    consumer.close()


{'write': write, 'read': read}[sys.argv[1]](*sys.argv[2:])
