// Socket.IO's client: begins with long-polling and upgrades. `node socketio.js URL ADDRESS`
'use strict';

const { io } = require('socket.io-client');
const { assert, event, talk } = require('./talk');

const [url, address] = process.argv.slice(2);
const ended = [];
let socket;
let seen; // what the server says of the client's address

async function round() {
  socket ??= connect();
  if (!socket.connected) await event(socket, 'connect');
  assert.equal(await seen, address, "the server sees the client's own address");
  const engine = socket.io.engine;
  if (engine.transport.name !== 'websocket') await event(engine, 'upgrade');
  const sent = { text: 'naïve ☕ 東京', bytes: Buffer.alloc(100_000, 7) };
  const echoed = await socket.timeout(20_000).emitWithAck('echo', sent);
  assert.deepEqual({ ...echoed, bytes: Buffer.from(echoed.bytes) }, sent, 'the acknowledgement carries what was sent');
  return { transport: engine.transport.name };
}

function connect() {
  const opened = io(url, { reconnectionDelay: 100, reconnectionDelayMax: 300, forceNew: true });
  seen = event(opened, 'hello').then(([address]) => address);
  opened.io.on('open', () => {
    opened.io.engine.once('close', (_, details) => {
      const { code, reason } = details?.context ?? {};
      ended.push({ code, reason });
    });
  });
  return opened;
}

/// Over long-polling alone, a message that is larger than the route's `max_body`.
async function refused() {
  const polling = io(url, { transports: ['polling'], reconnection: false, forceNew: true });
  await event(polling, 'connect');
  const told = new Promise((resolve) => {
    // The client aborts this request as soon as it has told of the error, and what it has read is gone then.
    polling.on('disconnect', (_, { context }) => {
      resolve({ status: context.status, type: context.getResponseHeader('content-type'), body: context.responseText });
    });
  });
  polling.emit('echo', Buffer.alloc(3 << 20));
  return told;
}

talk({
  round,
  refused,
  ended: async () => {
    if (!ended.length) await event(socket, 'disconnect');
    return { ended };
  },
  back: round,
});
