// graphql-ws' client over npm's `ws`: `node graphql.js URL ORIGIN`
'use strict';

const { setTimeout: sleep } = require('node:timers/promises');
const { createClient } = require('graphql-ws');
const WebSocket = require('ws');
const { assert, refusal, talk } = require('./talk');

const [url, origin] = process.argv.slice(2);
let ended;

// As in a browser, a socket names the page that opens it.
class PageSocket extends WebSocket {
  constructor(url, protocols) {
    super(url, protocols, { origin });
  }
}

// Unless told so, it takes a refused connection for fatal, as there are while Sidegate is restarted.
const client = createClient({
  url,
  webSocketImpl: PageSocket,
  retryAttempts: Infinity,
  retryWait: () => sleep(300),
  shouldRetry: () => true,
});

/// A query, and a subscription that goes on until the connection ends.
async function round() {
  const greeted = await new Promise((resolve, reject) => {
    client.subscribe({ query: '{ greeting(name: "東京") }' }, { next: resolve, error: reject, complete() {} });
  });
  assert.deepEqual(greeted, { data: { greeting: 'hello 東京' } });
  await new Promise((resolve, reject) => {
    ended = new Promise((settle) => {
      const gone = (why) => settle({ code: why?.code, reason: why?.reason });
      const next = ({ data }) => data.ticks === 3 && resolve();
      client.subscribe(
        { query: 'subscription { ticks }' },
        { next, error: (why) => (reject(why), gone(why)), complete: () => gone() },
      );
    });
  });
  return {};
}

talk({
  round,
  refused: () => refusal(new WebSocket(url, 'graphql-transport-ws', { origin: 'https://elsewhere.example' })),
  ended: async () => ({ ended: [await ended] }),
  back: round,
});
