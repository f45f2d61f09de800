// What the clients of the suite `apps` have in common: a JSON command a line in, a JSON answer a line out.
'use strict';

const assert = require('node:assert/strict');
const readline = require('node:readline');

// Standard output carries the answers alone.
console.log = console.info = console.debug = console.error;

const LONGEST = 90_000; // milliseconds of one step

/// Carries out the steps that the suite asks for, one after the other.
async function talk(steps) {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { step, ...given } = JSON.parse(line);
    let answer;
    try {
      answer = (await within(LONGEST, `the step ${step} ends`, steps[step](given))) ?? {};
    } catch (fault) {
      answer = { fault: fault?.stack ?? JSON.stringify(fault) };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
  }
  process.exit(0);
}

/// The value of a promise, or an error that names the claim.
async function within(milliseconds, claim, promise) {
  let late;
  const timer = new Promise((_, reject) => {
    late = setTimeout(() => reject(new Error(`not within ${milliseconds} ms: ${claim}`)), milliseconds);
  });
  try {
    return await Promise.race([promise, timer]);
  } finally {
    clearTimeout(late);
  }
}

/// Resolves with the first value that `emitter` emits as `event` and that `fits`.
function event(emitter, name, fits = () => true) {
  return new Promise((resolve) => {
    const listener = (...values) => {
      if (!fits(...values)) return;
      emitter.off(name, listener);
      resolve(values);
    };
    emitter.on(name, listener);
  });
}

/// What a refused handshake of npm's `ws` was answered.
function refusal(socket) {
  return new Promise((resolve, reject) => {
    socket.on('open', () => reject(new Error('the handshake was not refused')));
    socket.on('error', reject);
    socket.on('unexpected-response', async (_, answer) => {
      let body = '';
      for await (const part of answer) body += part;
      resolve({ status: answer.statusCode, type: answer.headers['content-type'], body });
    });
  });
}

module.exports = { talk, within, event, refusal, assert };
