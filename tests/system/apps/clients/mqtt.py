"""paho over WebSockets: `mqtt.py HOST PORT PATH CA`. It reconnects by itself, as its loop does."""

import asyncio
import ssl
import sys
import threading

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from talk import need, talk, until
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

host, port, path, ca = sys.argv[1:]
got, ended, subscribed = [], [], threading.Event()

client = mqtt.Client(CallbackAPIVersion.VERSION2, transport="websockets")
client.ws_set_options(path=path)
client.tls_set(ca)
client.reconnect_delay_set(1, 1)
client.on_connect = lambda client, *_: client.subscribe("news/#", qos=1)
client.on_subscribe = lambda *_: subscribed.set()
client.on_message = lambda _client, _data, message: got.append((message.topic, message.payload))


def on_disconnect(_client, _data, _flags, reason, _properties):
    subscribed.clear()
    ended.append({"reason": str(reason)})


client.on_disconnect = on_disconnect


def round_trip():
    if not client.is_connected():
        client.connect(host, int(port), keepalive=30)
        client.loop_start()
    return publish()


def publish():
    """A message of each size comes back by the subscription."""
    need(subscribed.wait(30), "the subscription is confirmed")
    for size in (0, 100, 20_000):
        message = ("news/today", b"m" * size)
        got.clear()
        client.publish(*message, qos=1).wait_for_publish(10)
        until("the message comes back", lambda message=message: message in got)


def refused():
    """A client that speaks another subprotocol."""

    async def attempt():
        url = f"wss://{host}:{port}{path}"
        try:
            async with connect(url, subprotocols=["amqp"], ssl=ssl.create_default_context(cafile=ca)):
                raise AssertionError("the handshake was not refused")
        except InvalidStatus as refusal:
            answer = refusal.response
            return {"status": answer.status_code, "type": answer.headers["Content-Type"], "body": answer.body.decode()}

    return asyncio.run(attempt())


def came_back():
    until("paho connects again", client.is_connected)
    publish()


def gone():
    until("paho sees the end", lambda: ended)
    return {"ended": ended}


talk({"round": round_trip, "refused": refused, "ended": gone, "back": came_back})
