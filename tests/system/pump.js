// Many tunnels from one cheap client: WebSocket frames written by hand over Node's TLS, one message in flight on each.
// `node pump.js '{"port":…,"path":…,"ca":…}'` reads one JSON command a line and answers each with one JSON line:
//   open {count}              opens so many more tunnels, a few at a time
//   pump {size, pause}        each tunnel echoes messages of its own, verified, with a pause in milliseconds between
//   renew {count}             the oldest so many leave, and as many come: they pump if the others do
//   rest                      stops pumping, and waits for the echoes that are under way
//   flood {size, tunnels, messages}   that many echoes over the first tunnels, as fast as they come back
//   pace {size, rate, seconds}   so many echoes a second, over tunnels in turn; how long they took, in microseconds
//   come {rate, from}         so many clients a second from these addresses in turn: in, one message there and back, out
//   came                      no further ones; what became of them, once that is known of all
//   return                    from now on, who is told to go away (1001) comes back at once, and goes on
//   stats, close
'use strict';

const crypto = require('node:crypto');
const fs = require('node:fs');
const net = require('node:net');
const readline = require('node:readline');
const tls = require('node:tls');

const target = JSON.parse(process.argv[2]);
// Made once: it would cost each client more than its TLS handshake does.
const secureContext = target.ca && tls.createSecureContext({ ca: fs.readFileSync(target.ca), ciphers: 'TLS_AES_128_GCM_SHA256' });
const AT_ONCE = 64; // TLS handshakes under way
const TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10;

const tunnels = [];
const total = { opened: 0, echoed: 0, dropped: 0, corrupted: 0, closes: {}, returned: 0, shut_out: {} };
let pumping = null; // { size, pause }
let returning = false;
let coming = null; // { timer, became, under way, longest }
const endings = []; // when tunnels ended, in milliseconds
let resting = null; // called as each echo arrives, while `rest` waits

/// A frame from a client: masked.
function frame(opcode, payload) {
  const mask = crypto.randomBytes(4);
  const long = payload.length > 125;
  if (payload.length > 65535) throw new Error('no message here is that long');
  const head = Buffer.alloc(long ? 8 : 6);
  head[0] = 0x80 | opcode;
  head[1] = 0x80 | (long ? 126 : payload.length);
  if (long) head.writeUInt16BE(payload.length, 2);
  mask.copy(head, head.length - 4);
  const masked = Buffer.allocUnsafe(payload.length);
  for (let i = 0; i < payload.length; i++) masked[i] = payload[i] ^ mask[i & 3];
  return Buffer.concat([head, masked]);
}

class Tunnel {
  constructor(socket) {
    this.socket = socket;
    this.unread = Buffer.alloc(0);
    this.sequence = 0;
    this.own = crypto.randomBytes(32).toString('hex');
    this.awaited = null; // the payload whose echo is under way
    this.echoed = null; // called with it
    this.ended = null; // called with how it ended, where that is not for `total`
    this.leaving = false; // it has said goodbye, and sends nothing more
    this.closed = false;
  }

  /// Resolves once the 101 is here; else it fails with the word for why.
  static open(from = target.from) {
    return new Promise((resolve, reject) => {
      const where = { host: '127.0.0.1', port: target.port, localAddress: from, servername: 'localhost', secureContext };
      const socket = secureContext ? tls.connect(where) : net.connect(where);
      const tunnel = new Tunnel(socket);
      socket.setNoDelay(true);
      socket.once(secureContext ? 'secureConnect' : 'connect', () => {
        const key = crypto.randomBytes(16).toString('base64');
        socket.write(
          `GET ${target.path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n` +
            `Sec-WebSocket-Key: ${key}\r\nSec-WebSocket-Version: 13\r\n\r\n`,
        );
      });
      const failed = (error) => reject(error.code ? new Error(error.code) : error);
      const cut = () => reject(new Error('cut'));
      socket.once('error', failed).once('close', cut);
      let head = Buffer.alloc(0);
      const onHead = (bytes) => {
        head = Buffer.concat([head, bytes]);
        const end = head.indexOf('\r\n\r\n');
        if (end < 0) return;
        const status = head.subarray(0, head.indexOf('\r\n')).toString();
        if (!status.startsWith('HTTP/1.1 101')) {
          reject(new Error(status.split(' ')[1]));
          return socket.destroy();
        }
        socket.off('data', onHead).off('error', failed).off('close', cut);
        tunnel.serve();
        tunnel.read(head.subarray(end + 4));
        resolve(tunnel);
      };
      socket.on('data', onHead);
    });
  }

  serve() {
    this.socket.on('data', (bytes) => this.read(bytes));
    this.socket.on('error', (error) => this.gone(error.code));
    this.socket.on('close', () => this.gone('no close frame'));
  }

  read(bytes) {
    this.unread = this.unread.length ? Buffer.concat([this.unread, bytes]) : bytes;
    for (;;) {
      const { unread } = this;
      if (unread.length < 2) return;
      let [length, at] = [unread[1], 2];
      if (length === 126) {
        if (unread.length < 4) return;
        [length, at] = [unread.readUInt16BE(2), 4];
      } else if (length > 126 || (unread[0] & 0xf0) !== 0x80) {
        total.corrupted += 1; // masked, longer than anything sent, or in fragments
        return this.socket.destroy();
      }
      if (unread.length < at + length) return;
      this.unread = unread.subarray(at + length);
      this.receive(unread[0] & 15, unread.subarray(at, at + length));
    }
  }

  receive(opcode, payload) {
    if (opcode === PING) return this.socket.write(frame(PONG, payload));
    if (opcode === CLOSE) {
      const code = payload.length >= 2 ? `${payload.readUInt16BE(0)} ${payload.subarray(2)}`.trim() : 'none';
      this.gone(code);
      if (!this.leaving) this.socket.write(frame(CLOSE, payload));
      return this.socket.end();
    }
    if (opcode !== BINARY || !this.awaited || !payload.equals(this.awaited)) total.corrupted += 1;
    this.awaited = null;
    total.echoed += 1;
    this.echoed?.();
    resting?.();
  }

  gone(why) {
    if (this.closed) return;
    this.closed = true;
    this.why = why;
    if (this.ended) return this.ended(why);
    if (returning && why.startsWith('1001')) comeBack();
    endings.push(Date.now());
    total.closes[why] = (total.closes[why] ?? 0) + 1;
    if (!this.leaving) total.dropped += 1;
    this.awaited = null;
    resting?.();
  }

  send(payload, bytes = frame(BINARY, payload)) {
    this.awaited = payload;
    this.socket.write(bytes);
  }

  /// One message after another, each unlike every other one.
  pump() {
    if (!pumping || this.leaving || this.closed) return;
    const payload = Buffer.alloc(pumping.size, `${this.own} ${this.sequence++} `);
    this.echoed = () => setTimeout(() => this.pump(), pumping?.pause * (0.5 + Math.random()));
    this.send(payload);
  }
}

async function open({ count }) {
  let left = count;
  const opener = async () => {
    while (left-- > 0) tunnels.push(await Tunnel.open());
  };
  await Promise.all(Array.from({ length: AT_ONCE }, opener));
  total.opened = tunnels.length;
}

function pump({ size, pause }) {
  pumping = { size, pause };
  for (const tunnel of tunnels) setTimeout(() => tunnel.pump(), Math.random() * pause);
}

async function renew({ count }) {
  await leave(tunnels.splice(0, count));
  await open({ count });
  if (pumping) for (const tunnel of tunnels.slice(-count)) setTimeout(() => tunnel.pump(), Math.random() * pumping.pause);
}

async function rest() {
  pumping = null;
  const busy = () => tunnels.some((tunnel) => tunnel.awaited);
  if (busy()) await new Promise((resolve) => (resting = () => busy() || resolve()));
  resting = null;
}

/// Each tunnel has one message in flight, always the same one: the client costs next to nothing.
async function flood({ size, tunnels: count, messages }) {
  const payload = Buffer.alloc(size, 'sidegate');
  const bytes = frame(BINARY, payload);
  let [left, returned] = [messages, 0];
  const began = process.hrtime.bigint();
  await new Promise((resolve, reject) => {
    for (const tunnel of tunnels.slice(0, count)) {
      tunnel.socket.once('close', () => reject(new Error('a tunnel ended under the flood')));
      tunnel.echoed = () => {
        if (++returned === messages) return resolve();
        if (left-- > 0) tunnel.send(payload, bytes);
      };
      if (left-- > 0) tunnel.send(payload, bytes);
    }
  });
  for (const tunnel of tunnels) tunnel.socket.removeAllListeners('close').on('close', () => tunnel.gone('no close frame'));
  return { seconds: Number(process.hrtime.bigint() - began) / 1e9 };
}

/// Sends when it is time, over the next tunnel that waits for no echo; where every one does, the message's wait counts.
async function pace({ size, rate, seconds }) {
  const payload = Buffer.alloc(size, 'sidegate');
  const bytes = frame(BINARY, payload);
  const took = [];
  let [sent, turn, behind] = [0, 0, false];
  const began = performance.now();
  const next = () => {
    for (let tried = 0; tried < tunnels.length; tried++) {
      const tunnel = tunnels[turn++ % tunnels.length];
      if (!tunnel.awaited && !tunnel.closed) return tunnel;
    }
  };
  while (sent < rate * seconds) {
    const due = Math.min(((performance.now() - began) * rate) / 1000, rate * seconds);
    for (; sent < due; sent++) {
      const tunnel = next();
      if (!tunnel) break;
      const at = behind ? began + (sent * 1000) / rate : performance.now();
      tunnel.echoed = () => took.push(performance.now() - at);
      tunnel.send(payload, bytes);
    }
    behind = sent < due;
    if (!tunnels.some((tunnel) => !tunnel.closed)) throw new Error('every tunnel is closed');
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  await rest();
  if (took.length !== sent) throw new Error(`${sent} sent, ${took.length} echoed`);
  took.sort((one, other) => one - other);
  const at = (share) => Math.round(took[Math.floor((took.length - 1) * share)] * 1000);
  return { sent, p50: at(0.5), p99: at(0.99), most: at(1) };
}

/// Clients that don't wait for each other: a server that answers late has more of them at once.
function come({ rate, from }) {
  const began = performance.now();
  const state = { became: {}, begun: 0, visiting: new Set(), longest: 0 };
  const next = () => {
    for (const due = ((performance.now() - began) * rate) / 1000; state.begun < due; ) {
      const visiting = visit(from[state.begun++ % from.length]).then(({ outcome, took }) => {
        state.visiting.delete(visiting);
        state.became[outcome] = (state.became[outcome] ?? 0) + 1;
        state.longest = Math.max(state.longest, took);
      });
      state.visiting.add(visiting);
    }
  };
  state.timer = setInterval(next, 1);
  coming = state;
}

async function came() {
  const { timer, became, visiting } = coming;
  clearInterval(timer);
  await Promise.all(visiting);
  return { became, begun: coming.begun, longest: Math.round(coming.longest) };
}

/// One client: `served`, or the word for what became of it instead.
async function visit(from) {
  const began = performance.now();
  let outcome = 'served';
  try {
    const tunnel = await Tunnel.open(from);
    const why = await new Promise((resolve) => {
      // What came along with the 101 may have ended it already.
      if (tunnel.closed) return resolve(tunnel.why);
      tunnel.ended = resolve;
      tunnel.echoed = () => tunnel.socket.write(frame(CLOSE, Buffer.from([0x03, 0xe8])));
      tunnel.send(Buffer.from(tunnel.own));
    });
    if (why !== '1000') outcome = why;
  } catch (error) {
    outcome = error.message;
  }
  return { outcome, took: performance.now() - began };
}

/// Once, as a client that is told to come back does: whoever serves next must be there for it.
async function comeBack() {
  try {
    const tunnel = await Tunnel.open();
    tunnels.push(tunnel);
    total.returned += 1;
    tunnel.pump();
  } catch (error) {
    total.shut_out[error.message] = (total.shut_out[error.message] ?? 0) + 1;
  }
}

function stats() {
  const sorted = [...endings].sort((one, other) => one - other);
  return { ended: { first: sorted[0], median: sorted[sorted.length >> 1], last: sorted.at(-1) } };
}

/// Says goodbye on each, and waits until they are closed.
async function leave(leaving) {
  const open = leaving.filter((tunnel) => !tunnel.closed);
  await Promise.all(
    open.map((tunnel) => {
      const ended = new Promise((resolve) => tunnel.socket.once('close', resolve));
      tunnel.leaving = true;
      tunnel.socket.write(frame(CLOSE, Buffer.from([0x03, 0xe8])));
      return ended;
    }),
  );
}

const close = () => leave(tunnels.splice(0));
const comesBack = () => void (returning = true);
const commands = { open, pump, renew, rest, flood, pace, come, came, return: comesBack, stats, close };

(async () => {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { do: command, ...rest } = JSON.parse(line);
    const more = await commands[command](rest);
    console.log(JSON.stringify({ ...total, open: tunnels.filter((tunnel) => !tunnel.closed).length, ...more }));
  }
  process.exit(0);
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
