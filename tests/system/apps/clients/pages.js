// Applications whose client is a page, in Chromium: `node pages.js PAGE URL BROWSER [FOLDER]`
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const puppeteer = require('puppeteer-core');
const WebSocket = require('ws');
const { assert, refusal, talk } = require('./talk');

const [kind, url, browserWSEndpoint, folder] = process.argv.slice(2);
let page;

/// Runs in the page before its own scripts: counts its WebSockets that open, and keeps how each of them ends.
function watch() {
  globalThis.openings = 0;
  globalThis.endings = [];
  globalThis.WebSocket = new Proxy(WebSocket, {
    construct(target, given) {
      const socket = new target(...given);
      let open = false;
      socket.addEventListener('open', () => (open = true) && openings++);
      socket.addEventListener('close', ({ code, reason }) => open && endings.push({ code, reason }));
      return socket;
    },
  });
}

/// The page in a window of its own, which counts as visible: a hidden one waits with what it does.
async function open() {
  const browser = await puppeteer.connect({ browserWSEndpoint, acceptInsecureCerts: true });
  page = await (await browser.createBrowserContext()).newPage();
  page.setDefaultTimeout(60_000);
  const devtools = await page.createCDPSession();
  await devtools.send('Emulation.setFocusEmulationEnabled', { enabled: true });
  await page.evaluateOnNewDocument(watch);
  const answer = await page.goto(url);
  assert.equal(answer.status(), 200);
}

const wait = (condition, ...given) => page.waitForFunction(condition, { polling: 20 }, ...given);

/// Waits for the end of a WebSocket of the page.
async function socketEnds() {
  await wait(() => endings.length);
  return { ended: await page.evaluate(() => endings) };
}

const otherPage = (where, protocols) =>
  refusal(new WebSocket(url.replace('https', 'wss') + where, protocols, { origin: 'https://elsewhere.example' }));

/// What a `fetch` of the page's own gets for a body of so many bytes.
const upload = (where, bytes) =>
  page.evaluate(
    async (where, bytes) => {
      const answer = await fetch(where, { method: 'POST', body: new Uint8Array(bytes) });
      return { status: answer.status, type: answer.headers.get('content-type'), body: await answer.text() };
    },
    where,
    bytes,
  );

// A button whose callback runs in the server.
const bokeh = {
  shown: () => Bokeh.documents[0]?.get_model_by_name('pressed')?.text,
  async round() {
    if (!page) await open();
    await wait(() => globalThis.Bokeh?.documents[0]?.get_model_by_name('pressed'));
    const before = await page.evaluate(bokeh.shown);
    const button = await page.waitForSelector('>>> .bk-btn');
    await button.evaluate((element) => element.click());
    await wait((before) => Bokeh.documents[0].get_model_by_name('pressed').text !== before, before);
    return {};
  },
  refused: () => otherPage('/plots/ws', ['bokeh', 'token']),
  ended: socketEnds,
  /// BokehJS connects again by itself; what is pressed while it pulls its session may be lost, so the page is loaded anew.
  async back() {
    await wait(() => openings > 1);
    await page.goto(url);
    return bokeh.round();
  },
};

// A saved module is exchanged in the page that runs.
const vite = {
  async round() {
    if (!page) await open();
    await wait(() => document.querySelector('#shown')?.textContent);
    const loads = await page.evaluate(() => globalThis.loads);
    const text = `saved ${process.hrtime.bigint()}`;
    fs.writeFileSync(path.join(folder, 'text.js'), `export const text = '${text}';\n`);
    await wait((text) => document.querySelector('#shown')?.textContent === text, text);
    assert.equal(await page.evaluate(() => globalThis.loads), loads, 'the page was not loaded anew');
    return {};
  },
  refused: () => otherPage('/', 'vite-hmr'),
  async ended() {
    await page.evaluate(() => (globalThis.loads = -1)); // which a reload forgets
    return socketEnds();
  },
  /// Vite's client asks until it is answered, then loads the page anew.
  async back() {
    await wait(() => globalThis.loads === 1);
    return vite.round();
  },
};

// A key goes through websockify to a VNC server, and paints the screen.
const novnc = {
  async connected() {
    await wait(() => globalThis.states?.includes('connected'));
    for (const shade of [65, 90, 66]) {
      await page.evaluate((key) => rfb.sendKey(key), shade);
      await wait((shade) => {
        const canvas = document.querySelector('#screen canvas');
        return canvas.getContext('2d').getImageData(32, 24, 1, 1).data[0] === shade;
      }, shade);
    }
    return {};
  },
  async round() {
    await open();
    return novnc.connected();
  },
  refused: () => otherPage('/websockify', 'binary'),
  async ended() {
    await wait(() => /closed|lost/.test(states.at(-1)));
    const { ended } = await socketEnds();
    return { ended, shown: await page.evaluate(() => states) };
  },
  async back() {
    await page.evaluate(() => ((states.length = 0), connect()));
    return novnc.connected();
  },
};

// A stream of events that the browser follows.
const events = {
  async round() {
    if (!page) await open();
    const from = await page.evaluate(() => seen.length);
    await wait((from) => seen.length >= from + 5, from);
    const numbers = await page.evaluate(() => seen.map(([number]) => number));
    numbers.forEach((number, at) => assert.equal(number, at + 1, 'every event comes once, in order'));
    return {};
  },
  refused: () => upload('/upload', 5 << 20),
  async ended() {
    await wait(() => /reconnecting|closed/.test(states.at(-1)));
    await wait(() => states.at(-1) === 'closed');
    return { ended: [{ stream: 'cut' }], shown: await page.evaluate(() => states) };
  },
  async back() {
    await page.evaluate(() => ((seen.length = 0), follow()));
    return events.round();
  },
};

talk({ bokeh, vite, novnc, events }[kind]);
