// A client on npm's `ws` that takes Autobahn's cases one after the other and echoes what they send.
// `node autobahn.js BASE AGENT CASES CA`: CASES is a list of numbers with commas between; CA a file, for wss.
'use strict';

const { readFileSync } = require('fs');
const WebSocket = require('ws');

const [base, agent, cases, ca] = process.argv.slice(2);
const options = {
  perMessageDeflate: false,
  maxPayload: 32 << 20,
  maxFragments: 1 << 20,
  maxBufferedChunks: 1 << 20,
  ...(base.startsWith('wss:') && { ca: readFileSync(ca) }),
};

function take(number) {
  return new Promise((resolve) => {
    const socket = new WebSocket(`${base}/runCase?case=${number}&agent=${agent}`, options);
    socket.on('message', (data, binary) => socket.send(data, { binary }));
    socket.on('error', () => {}); // most cases are meant to fail
    socket.on('close', resolve);
  });
}

(async () => {
  for (const number of cases.split(',')) await take(number);
})();
