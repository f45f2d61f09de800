// npm's `ws` as the client: sends its messages over a few connections and expects each back, in order, byte for byte.
// `node clients.js URL CA deflate|plain MESSAGES CONNECTIONS LARGE`; prints what it carried as one JSON line.
'use strict';

const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const fs = require('node:fs');
const { once } = require('node:events');
const WebSocket = require('ws');

const [url, ca, deflate, messages, connections, large] = process.argv.slice(2);
const TEXT = 'Sidegate carries frames, not messages: ☕ naïve 東京 🚪 '.repeat(40_000);
const WORDS = Buffer.from(TEXT);
const NOISE = crypto.randomBytes(2 << 20);
const KIB = 1024;

const between = (low, high) => Math.floor(Math.exp(Math.log(low) + Math.random() * Math.log(high / low)));

/// Log-uniform from 0 B to 64 KiB, `large` of them to 1 MiB, in any order.
function sizes(count, large) {
  const small = Array.from({ length: count - large - 1 }, () => between(1, 64 * KIB + 1) - 1);
  const big = Array.from({ length: large - 1 }, () => between(64 * KIB + 1, 1024 * KIB));
  const drawn = [0, 1024 * KIB, ...small, ...big];
  for (let i = drawn.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [drawn[i], drawn[j]] = [drawn[j], drawn[i]];
  }
  return drawn;
}

/// Text, or bytes that compress well, or bytes that don't.
function message(size) {
  const kind = Math.floor(Math.random() * 4);
  if (kind === 2) return { data: WORDS.subarray(0, size), binary: true };
  if (kind === 3) return { data: NOISE.subarray(size % KIB, (size % KIB) + size), binary: true };
  const whole = new TextDecoder('utf-8', { ignoreBOM: true }).decode(WORDS.subarray(0, size), { stream: true });
  const data = Buffer.alloc(size, 'x');
  data.write(whole);
  return { data, binary: false };
}

async function echoAll(count, large) {
  const socket = new WebSocket(url, { ca: fs.readFileSync(ca), perMessageDeflate: deflate === 'deflate' ? { threshold: 0 } : false });
  const expected = [];
  let [received, sent] = [0, 0];
  const done = new Promise((resolve, reject) => {
    socket.on('error', reject);
    socket.on('close', (code) => reject(new Error(`closed early with ${code}, ${received} of ${count} echoed`)));
    socket.on('message', (data, binary) => {
      const wanted = expected.shift();
      if (!wanted || wanted.binary !== binary || !wanted.data.equals(data)) reject(new Error(`echo ${received} differs`));
      if (++received === count) resolve();
    });
  });
  await Promise.race([once(socket, 'open'), done]);
  assert.equal(socket.extensions.includes('permessage-deflate'), deflate === 'deflate', `extensions: ${socket.extensions}`);

  const drained = () => new Promise((resolve) => setImmediate(resolve));
  const sending = (async () => {
    for (const size of sizes(count, large)) {
      while (socket.bufferedAmount > 1 << 20) await Promise.race([drained(), done]);
      const one = message(size);
      expected.push(one);
      sent += size;
      socket.send(one.data, { binary: one.binary });
    }
  })();
  await Promise.all([sending, done]);
  socket.removeAllListeners('close');
  socket.close(1000);
  const [code] = await once(socket, 'close');
  assert.equal(code, 1000);
  return sent;
}

(async () => {
  const share = Array.from({ length: Number(connections) }, () =>
    echoAll(Math.floor(messages / connections), Math.floor(large / connections)),
  );
  const carried = await Promise.all(share);
  console.log(JSON.stringify({ bytes: carried.reduce((sum, one) => sum + one, 0) }));
  process.exit(0);
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
