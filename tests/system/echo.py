"""The echo backend on Python's `websockets`: returns every message unchanged, text or binary.

`python echo.py PORT deflate|plain`; with `deflate` it agrees to permessage-deflate where the client offers it.
"""

import asyncio
import sys

from websockets.asyncio.server import serve


async def echo(socket):
    async for message in socket:
        await socket.send(message)


async def main(port, deflate):
    compression = "deflate" if deflate == "deflate" else None
    async with serve(echo, "127.0.0.1", int(port), compression=compression, max_size=16 << 20):
        await asyncio.get_running_loop().create_future()


asyncio.run(main(*sys.argv[1:]))
