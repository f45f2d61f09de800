"""A client that moves 200 MB each way: `bulk.py HOST PORT CA`"""

import contextlib
import hashlib
import http.client
import json
import select
import ssl
import sys
import threading
import time

from talk import need, talk

host, port, ca = sys.argv[1:]
trust = ssl.create_default_context(cafile=ca)
BLOCK = bytes(range(256)) * 1024
BLOCKS = 800  # 200 MiB
DIGEST = hashlib.sha256(BLOCK * BLOCKS).hexdigest()
ended, over = {}, threading.Barrier(3)


def connection():
    return http.client.HTTPSConnection(host, int(port), context=trust, timeout=60)


def round_trip():
    """Up, with a length and in chunks, and down."""
    for chunked in (False, True):
        upload(BLOCKS, chunked)
    down, digest = connection(), hashlib.sha256()
    down.request("GET", f"/download/{BLOCKS}")
    answer = down.getresponse()
    while part := answer.read(1 << 20):
        digest.update(part)
    need(digest.hexdigest() == DIGEST, "the download arrives whole")


def upload(blocks, chunked=False):
    up, length = connection(), blocks * len(BLOCK)
    fields = {} if chunked else {"Content-Length": str(length)}
    up.request("POST", "/upload", (BLOCK for _ in range(blocks)), fields, encode_chunked=chunked)
    got = json.loads(up.getresponse().read())
    wanted = DIGEST if blocks == BLOCKS else hashlib.sha256(BLOCK * blocks).hexdigest()
    need(got == {"size": length, "sha256": wanted}, f"the upload arrives whole: {got}")


def refused():
    """An upload that is too large by its length: the client has sent 16 MiB of it when it looks for an answer."""
    sending = connection()
    sending.putrequest("POST", "/upload")
    sending.putheader("Content-Length", str(300 << 20))
    sending.endheaders()
    for _ in range(64):
        sending.send(BLOCK)
    answer = sending.getresponse()
    return {"status": answer.status, "type": answer.headers["content-type"], "body": answer.read().decode()}


def begin():
    """An upload and a download that take their time."""
    up, down = connection(), connection()
    up.putrequest("POST", "/upload")
    up.putheader("Content-Length", str(BLOCKS * len(BLOCK)))
    up.endheaders()
    up.send(BLOCK)
    down.request("GET", f"/download/{BLOCKS}")
    answer = down.getresponse()
    answer.read(len(BLOCK))
    for slow in (send_on, read_on):
        threading.Thread(target=slow, args=(up if slow is send_on else answer,), daemon=True).start()


def send_on(up):
    """Sends until there is an answer, as browsers do."""
    try:
        while not select.select([up.sock], [], [], 0.01)[0]:
            up.send(BLOCK[:4096])
        ended["upload"] = up.getresponse().status
    except (OSError, http.client.HTTPException) as fault:
        ended["upload"] = type(fault).__name__
    over.wait(30)


def read_on(answer):
    """Reads as long as something comes. http.client takes an end for an end: the length tells what is missing."""
    got = len(BLOCK)
    with contextlib.suppress(OSError, http.client.HTTPException):
        while part := answer.read(4096):
            got += len(part)
            time.sleep(0.001)
    ended["download"] = "whole" if got == BLOCKS * len(BLOCK) else "cut"
    over.wait(30)


def gone():
    over.wait(30)
    need(ended == {"upload": 403, "download": "cut"}, f"the upload is refused, the download cut: {ended}")
    return {"ended": [ended]}


talk({"round": round_trip, "refused": refused, "begin": begin, "ended": gone, "back": lambda: upload(16)})
