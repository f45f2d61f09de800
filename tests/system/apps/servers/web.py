"""A FastAPI application under uvicorn: `web.py PORT`. A WebSocket that echoes, a stream of events, uploads, downloads."""

import asyncio
import hashlib
import sys

import uvicorn
from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import HTMLResponse, StreamingResponse

app = FastAPI()
BLOCK = bytes(range(256)) * 1024  # 256 KiB

PAGE = """<!doctype html><title>events</title><script>
  const seen = [], states = [];
  let source;
  function follow() {
    source = new EventSource('/events');
    source.onopen = () => states.push('open');
    source.onmessage = ({ data, lastEventId }) => seen.push([Number(lastEventId), data]);
    source.onerror = () => states.push(source.readyState === EventSource.CLOSED ? 'closed' : 'reconnecting');
  }
  follow();
</script>"""


@app.websocket("/ws")
async def echo(socket: WebSocket):
    await socket.accept()
    try:
        while True:
            message = await socket.receive()
            if message.get("text") is not None:
                await socket.send_text(message["text"])
            elif message.get("bytes") is not None:
                await socket.send_bytes(message["bytes"])
            else:
                return
    except WebSocketDisconnect:
        pass


@app.get("/")
async def page():
    return HTMLResponse(PAGE)


@app.get("/events")
async def events(request: Request):
    """An event every 100 ms, from the one behind `Last-Event-ID` on."""
    first = int(request.headers.get("last-event-id", 0)) + 1

    async def stream():
        yield "retry: 200\n\n"
        for number in range(first, 1 << 30):
            yield f"id: {number}\ndata: tick {number}\n\n"
            await asyncio.sleep(0.1)

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


@app.get("/who")
async def who(request: Request):
    """What the application knows of the request's way to it."""
    return {"url": str(request.url), "client": request.client.host}


@app.post("/upload")
async def upload(request: Request):
    size, digest = 0, hashlib.sha256()
    async for part in request.stream():
        size += len(part)
        digest.update(part)
    return {"size": size, "sha256": digest.hexdigest()}


@app.get("/download/{blocks}")
async def download(blocks: int):
    async def stream():
        for _ in range(blocks):
            yield BLOCK

    length = {"Content-Length": str(blocks * len(BLOCK))}
    return StreamingResponse(stream(), media_type="application/octet-stream", headers=length)


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
