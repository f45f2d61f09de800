// A person's first minutes: `sidegate demo`, its page in Chromium, and the edit that locks its reader out.
'use strict';

const assert = require('node:assert/strict');
const { spawn } = require('node:child_process');
const fs = require('node:fs');
const { once } = require('node:events');
const os = require('node:os');
const path = require('node:path');
const puppeteer = require('puppeteer-core');

const QUIET = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync',
];
const place = fs.mkdtempSync(path.join(process.env.SYSTEM_TMP ?? os.tmpdir(), 'place-'));
const figure = (text) => console.log(`= ${text}`);

/// Starts the demo and reads what it says until it has named its page, its list and its metrics.
async function startDemo() {
  const demo = spawn(process.env.SIDEGATE, ['demo'], { cwd: place, env: { ...process.env, TMPDIR: place }, stdio: ['ignore', 'pipe', 'pipe'] });
  process.on('exit', () => demo.kill('SIGKILL'));
  let said = '';
  const named = await new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error(`the demo named no page, list and metrics in 20 s:\n${said}`)), 20_000);
    const read = (bytes) => {
      said += bytes;
      const [page] = said.match(/https:\/\/localhost:\d+\//) ?? [];
      const [list] = said.match(/[^\s'"`]+\.cidr/) ?? [];
      const [metrics] = said.match(/http:\/\/\S+\/metrics/) ?? [];
      const [status] = said.match(/http:\/\/\S+\/status/) ?? [];
      if (!page || !list || !metrics || !status) return;
      clearTimeout(late);
      resolve({ page, list: path.resolve(place, list), metrics, status });
    };
    demo.stdout.on('data', read);
    demo.stderr.on('data', read);
    demo.once('exit', (code) => reject(new Error(`the demo ended with ${code}:\n${said}`)));
  });
  demo.removeAllListeners('exit');
  return { demo, ...named };
}

async function text(page, id) {
  return page.$eval(id, (element) => element.textContent);
}

async function shows(page, id, pattern, seconds = 10) {
  try {
    await page.waitForFunction(
      (id, source) => new RegExp(source, 'i').test(document.querySelector(id).textContent),
      { timeout: seconds * 1000, polling: 20 },
      id,
      pattern.source,
    );
  } catch (fault) {
    throw new Error(`${id} shows ${JSON.stringify(await text(page, id))} instead of ${pattern}`, { cause: fault });
  }
}

/// In both themes and on a narrow screen nothing is wider than the window. SYSTEM_SHOTS=DIR keeps pictures.
async function looks(browser, url, name, prepare = async () => {}) {
  for (const value of ['light', 'dark']) {
    for (const width of [1280, 360]) {
      const page = await browser.newPage();
      await page.setViewport({ width, height: 800 });
      await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value }]);
      await page.goto(url);
      await prepare(page);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.ok(wide <= 0, `${name}, ${value} at ${width}: ${wide} px too wide`);
      if (process.env.SYSTEM_SHOTS) {
        fs.mkdirSync(process.env.SYSTEM_SHOTS, { recursive: true });
        await page.screenshot({ path: path.join(process.env.SYSTEM_SHOTS, `${name}-${value}-${width}.png`), fullPage: true });
      }
      await page.close();
    }
  }
}

async function main() {
  const { demo, page: url, list, metrics, status } = await startDemo();
  const browser = await puppeteer.launch({
    executablePath: '/usr/bin/chromium',
    headless: true,
    pipe: true, // Chromium ends with this process
    acceptInsecureCerts: true,
    userDataDir: path.join(place, 'chromium'),
    args: QUIET,
  });
  const page = await browser.newPage();
  const frames = { sent: [], received: [] };
  const devtools = await page.createCDPSession();
  await devtools.send('Network.enable');
  devtools.on('Network.webSocketFrameSent', ({ response }) => frames.sent.push(response.payloadData));
  devtools.on('Network.webSocketFrameReceived', ({ response }) => frames.received.push(response.payloadData));
  page.on('pageerror', (error) => assert.fail(`the page throws: ${error}`));

  const answer = await page.goto(url);
  assert.equal(answer.status(), 200);
  await page.click('#open');
  await shows(page, '#state', /\bopen\b/);
  const message = 'naïve ☕ 東京 <b>&amp;';
  await page.$eval('#message', (input) => (input.value = ''));
  await page.type('#message', message);
  await page.click('#send');
  await page.waitForFunction(
    (message) => document.querySelector('#log').textContent.split(message).length > 2,
    { timeout: 10_000, polling: 20 },
    message,
  );
  assert.deepEqual([frames.sent.at(-1), frames.received.at(-1)], [message, message], 'the message and its echo');
  await page.click('#close');
  await shows(page, '#state', /\b100[05]\b/);
  figure('opened, echoed, closed');

  await page.click('#open');
  await shows(page, '#state', /\bopen\b/);
  const admitting = fs.readFileSync(list, 'utf8');
  const saved = Date.now();
  fs.appendFileSync(list, '!127.0.0.1\n!::1\n');
  await shows(page, '#state', /\b1008\b/, 6);
  await shows(page, '#state', /1008 network: the list does not admit your address/);
  figure(`1008 shown ${Date.now() - saved} ms after the list was saved`);
  // Locked out, its reader reloads the page, which still says how to get in again.
  const again = await page.reload();
  assert.equal(again.status(), 200);
  assert.match(await text(page, 'body'), /Take the lines out/);
  await page.click('#open');
  await shows(page, '#state', /\b1006\b.*take the two lines out again/);
  await looks(browser, url, 'demo-locked-out', async (page) => {
    await page.click('#open');
    await shows(page, '#state', /\b1006\b/);
  });
  // The live page of the demo names the line by which its reader is locked out.
  await looks(browser, status, 'demo-status', (page) => shows(page, '#refused', /network[^]*demo\.cidr:[45]/));
  await page.bringToFront();
  figure('the status names the line of the lock-out');
  fs.writeFileSync(list, admitting);
  for (const deadline = Date.now() + 6000; !/\bopen\b/.test(await text(page, '#state')); ) {
    assert.ok(Date.now() < deadline, 'let in again once the lines are taken out');
    await page.click('#open');
    await shows(page, '#state', /\b(open|1006)\b/);
  }
  const counted = await (await fetch(metrics)).text();
  assert.match(counted, /^sidegate_tunnels_closed_total\{[^}]*revoked[^}]*\} 1$/m, 'the revocation is counted');

  const ended = once(demo, 'exit');
  demo.kill('SIGINT');
  await shows(page, '#state', /\b1001\b/);
  const [code] = await ended;
  assert.equal(code, 0, 'Ctrl-C drains');
  await browser.close();
}

main().then(
  () => process.exit(0),
  (fault) => {
    console.error(fault);
    process.exit(1);
  },
);
