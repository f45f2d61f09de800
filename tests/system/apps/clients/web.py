"""Clients of a FastAPI application: `websockets` and httpx. `web.py URL CA ADDRESS`"""

import ssl
import sys
import threading

import httpx
from talk import need, talk
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

url, ca, address = sys.argv[1:]
trust = ssl.create_default_context(cafile=ca)
http = httpx.Client(base_url=url, verify=trust, timeout=20)
ended, over = [], threading.Event()


def round_trip():
    """Text and bytes come back over the WebSocket; events come over a stream, whose end is seen."""
    over.clear()
    ended.clear()
    who = http.get("/who").json()
    need(who == {"url": f"{url}/who", "client": address}, f"the application knows the client and its URL: {who}")
    socket = connect(f"{url.replace('https', 'wss')}/ws", ssl=trust, max_size=4 << 20)
    for message in ("naïve ☕ 東京", b"\0\xff" * 500_000, ""):
        socket.send(message)
        need(socket.recv(20) == message, f"{len(message)} come back")
    stream = http.stream("GET", "/events")
    lines = stream.__enter__().iter_lines()
    need(next(line for line in lines if line.startswith("data: ")) == "data: tick 1", "the first event comes")
    threading.Thread(target=watch, args=(socket, stream, lines), daemon=True).start()


def watch(socket, stream, lines):
    try:
        for _ in lines:
            pass
        ended.append({"stream": "complete"})
    except httpx.HTTPError as fault:
        ended.append({"stream": type(fault).__name__})
    stream.__exit__(None, None, None)
    try:
        socket.recv(20)
    except ConnectionClosed as closed:
        ended.append({"code": closed.rcvd and closed.rcvd.code, "reason": closed.rcvd and closed.rcvd.reason})
    over.set()


def refused():
    """An upload that is larger than the route's `max_body`."""
    answer = http.post("/upload", content=bytes(3 << 20))
    return {"status": answer.status_code, "type": answer.headers["content-type"], "body": answer.text}


def gone():
    need(over.wait(30), "both end")
    return {"ended": ended}


talk({"round": round_trip, "refused": refused, "ended": gone, "back": round_trip})
