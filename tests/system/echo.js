// The echo backend on npm's `ws`: sends back every message as it came, text or binary.
// `node echo.js PORT deflate|plain`; with `deflate` it agrees to permessage-deflate where the client offers it.
'use strict';

const { WebSocketServer } = require('ws');

const [port, deflate] = process.argv.slice(2);
const server = new WebSocketServer({
  host: '127.0.0.1',
  port: Number(port),
  perMessageDeflate: deflate === 'deflate' ? { threshold: 0 } : false,
  maxPayload: 16 << 20,
  maxFragments: 1 << 20,
  maxBufferedChunks: 1 << 20,
  backlog: 4096,
});

server.on('connection', (socket) => {
  socket.on('message', (data, binary) => socket.send(data, { binary }));
  socket.on('error', (error) => console.error(`echo: ${error.message}`));
});
