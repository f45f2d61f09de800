// The page /status in Chromium: with and without scripts, in both themes, on a narrow screen, among hostile texts and
// hostile pages. SYSTEM_SHOTS=DIR keeps pictures of it.
'use strict';

const assert = require('node:assert/strict');
const { execFileSync, spawn } = require('node:child_process');
const fs = require('node:fs');
const http = require('node:http');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const { once } = require('node:events');
const axe = require('axe-core');
const puppeteer = require('puppeteer-core');
const { WebSocket, WebSocketServer } = require('ws');

const place = fs.mkdtempSync(path.join(process.env.SYSTEM_TMP ?? os.tmpdir(), 'page-'));
const shots = process.env.SYSTEM_SHOTS;
const figure = (text) => console.log(`= ${text}`);
const HOSTILE = '</td><script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">';
const PATIENCE = { timeout: 15_000, polling: 50 };

async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

function write(file, text) {
  const at = path.join(place, file);
  fs.mkdirSync(path.dirname(at), { recursive: true });
  fs.writeFileSync(`${at}.new~`, text);
  fs.renameSync(`${at}.new~`, at);
}

/// Writes the files of an agent with one page, a route to `backend`, and one to a port where nothing listens.
async function configure(backend) {
  const ports = { page: await freePort(), clients: await freePort(), nothing: await freePort() };
  write('sidegate.toml', `schema = 1
metrics.listen = "off"
process.state = "state"
[admin]
socket = "admin.sock"
page_listen = "127.0.0.1:${ports.page}"
page = "full"
[[listener]]
name = "public"
listen = "127.0.0.1:${ports.clients}"
tls = false
[[route]]
name = "ticks"
host = "*"
path = "/ticks/"
backend = "http://127.0.0.1:${backend}"
policy = "market"
[[route]]
name = "a-route-whose-name-is-rather-long-for-a-narrow-screen"
host = "*"
path = "/down/"
backend = "http://127.0.0.1:${ports.nothing}"
policy = "market"
`);
  write('policies/market.toml', `schema = 1
[lists]
partners = { file = "lists/partners.cidr" }
[client]
allow = ["partners"]
`);
  write('policies/lists/partners.cidr', `127.0.0.0/16 owner=<img/src=x/onerror=window.hacked=3> ticket=T-1 expires=2099-01-01
!127.0.2.0/24 ticket=T-2
127.0.3.4 owner=<script>window.hacked=4</script> expires=${new Date(Date.now() + 3_600_000).toISOString()}
`);
  fs.mkdirSync(path.join(place, 'state'), { recursive: true });
  return ports;
}

async function start(ports) {
  const agent = spawn(process.env.SIDEGATE, ['run', '--config', place], { stdio: ['ignore', 'ignore', fs.openSync(path.join(place, 'log'), 'a')] });
  process.on('exit', () => agent.kill('SIGKILL'));
  const deadline = Date.now() + 20_000;
  for (;;) {
    const socket = net.connect(ports.page, '127.0.0.1');
    const [up] = await Promise.race([once(socket, 'connect').then(() => [true]), once(socket, 'error').then(() => [false])]).catch(() => [false]);
    socket.destroy();
    if (up) return agent;
    assert.ok(Date.now() < deadline && agent.exitCode === null, 'the agent starts');
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const order = (...args) => execFileSync(process.env.SIDEGATE, [...args, '--config', place], { encoding: 'utf8' });

async function tunnel(ports, from = '127.0.0.1', target = '/ticks/btc') {
  const client = new WebSocket(`ws://127.0.0.1:${ports.clients}${target}`, { localAddress: from, origin: 'https://<b>.evil.example' });
  await new Promise((resolve) => { client.on('open', resolve); client.on('error', resolve); });
  return client;
}

/// A page that reports everything that it must not do: violations of its own policy, errors, foreign requests.
async function watched(browser, faults, { scheme = 'light', width = 1280, script = true } = {}) {
  const page = await browser.newPage();
  await page.setJavaScriptEnabled(script);
  await page.setViewport({ width, height: 900 });
  await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }]);
  page.on('pageerror', (error) => faults.push(`throws ${error}`));
  page.on('console', (said) => { if (['error', 'warning'].includes(said.type())) faults.push(said.text()); });
  page.on('request', (request) => { if (!/^http:\/\/(localhost|127\.0\.0\.1):/.test(request.url())) faults.push(`asks for ${request.url()}`); });
  return page;
}

async function picture(page, name) {
  if (!shots) return;
  fs.mkdirSync(shots, { recursive: true });
  await page.screenshot({ path: path.join(shots, `${name}.png`), fullPage: true });
}

async function isLive(page) {
  await page.waitForFunction(() => document.getElementById('feed').dataset.state === 'live', PATIENCE);
}

async function looks(browser, url, faults) {
  for (const scheme of ['light', 'dark']) {
    for (const width of [1280, 800, 360]) {
      const page = await watched(browser, faults, { scheme, width });
      await page.goto(url);
      await isLive(page);
      const { inner, outer } = await page.evaluate(() => ({
        inner: document.documentElement.scrollWidth, outer: document.documentElement.clientWidth,
      }));
      assert.ok(inner <= outer, `${scheme} at ${width}: ${inner} px wide in ${outer} px`);
      await picture(page, `${scheme}-${width}`);
      await page.setBypassCSP(true); // for axe alone, which puts styles into the page
      await page.reload();
      await isLive(page);
      await page.evaluate(axe.source);
      const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ['violations'] }));
      const found = violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(' ')}`);
      assert.deepEqual(found, [], `${scheme} at ${width}`);
      await page.close();
    }
  }
  const page = await watched(browser, faults);
  const devtools = await page.createCDPSession();
  await devtools.send('Emulation.setEmulatedMedia', { features: [{ name: 'forced-colors', value: 'active' }, { name: 'prefers-reduced-motion', value: 'reduce' }] });
  await page.goto(url);
  assert.equal(await page.evaluate(() => getComputedStyle(document.documentElement).scrollBehavior), 'auto');
  await picture(page, 'forced-colors');
  await page.close();
  figure('two themes, three widths: no scrolling sideways, no finding of axe');
}

async function updates(browser, url, ports, faults) {
  const page = await watched(browser, faults);
  await page.goto(url);
  await isLive(page);
  const shown = (selector) => page.$eval(selector, (element) => element.textContent);
  const before = Number(await shown('#chart-tunnels .value'));
  const opened = Date.now();
  const client = await tunnel(ports);
  await page.waitForFunction((before) => Number(document.querySelector('#chart-tunnels .value').textContent) === before + 1, PATIENCE, before);
  figure(`a tunnel is shown ${Date.now() - opened} ms after it opened`);

  // What the reader holds stays: an open part, a selection; and the pause.
  await page.$eval('#history', (details) => { details.open = true; });
  await page.evaluate(() => {
    const range = document.createRange();
    range.selectNodeContents(document.querySelector('#routes tbody th'));
    getSelection().removeAllRanges();
    getSelection().addRange(range);
  });
  await tunnel(ports).then((other) => other.close());
  await page.waitForFunction((before) => Number(document.querySelector('#chart-tunnels .value').textContent) === before + 1, PATIENCE, before);
  assert.equal(await page.evaluate(() => getSelection().toString()), 'ticks');
  assert.ok(await page.$eval('#history', (details) => details.open));
  await page.evaluate(() => getSelection().removeAllRanges());
  await page.click('#pause');
  assert.equal(await shown('#feed'), 'Paused');
  client.close();
  await once(client, 'close');
  await new Promise((resolve) => setTimeout(resolve, 1500)); // an update was due
  assert.equal(Number(await shown('#chart-tunnels .value')), before + 1);
  await page.click('#pause');
  await page.waitForFunction((before) => Number(document.querySelector('#chart-tunnels .value').textContent) === before, PATIENCE, before);
  return page;
}

async function staysText(page, ports) {
  order('ban', '203.0.113.9', '--for', '1h', '--why', HOSTILE);
  await tunnel(ports, '127.0.2.7');
  write('policies/lists/broken.cidr', '');
  write('policies/market.toml', fs.readFileSync(path.join(place, 'policies/market.toml'), 'utf8') + 'evil = "<script>window.hacked = 5</script>"\n"<img src=x onerror=window.hacked=6>" = 1\n');
  await page.waitForFunction(() => /Rejected/.test(document.getElementById('files').textContent), PATIENCE);
  await page.waitForFunction(() => document.getElementById('bans').textContent.includes('</td><script>'), PATIENCE);
  const found = await page.evaluate(() => ({
    hacked: window.hacked, scripts: document.scripts.length, images: document.images.length,
    bans: document.getElementById('bans').textContent, summary: document.getElementById('summary').textContent,
    title: document.title, refused: document.getElementById('refused').textContent,
  }));
  assert.deepEqual([found.hacked, found.scripts, found.images], [undefined, 1, 0]);
  assert.ok(found.bans.includes(HOSTILE), found.bans);
  assert.match(found.summary, /Reload rejected/);
  assert.match(found.title, /^\(\d+\) /);
  assert.match(found.refused, /127\.0\.2\.7.*network.*!127\.0\.2\.0\/24.*partners\.cidr:2/s);
  await picture(page, 'hostile');
  figure('hostile texts stay text');
}

async function withoutScript(browser, url, faults) {
  const page = await watched(browser, faults, { script: false });
  await page.goto(url);
  const text = await page.$eval('body', (body) => body.innerText);
  for (const part of ['Needs action', 'Open tunnels', 'Routes', 'Bans', 'Loads anew every 10 s']) assert.ok(text.includes(part), part);
  assert.ok(!(await page.$eval('#pause', (button) => button.checkVisibility())));
  await picture(page, 'no-script');
  await page.waitForNavigation({ timeout: 15_000 });
  await page.goto(`${url}?refresh=off`);
  assert.equal((await page.$$('meta[http-equiv]')).length, 0);
  await page.close();
  figure('whole without scripts, and loads itself anew');
}

/// Pages of other origins try to read the page, by each way that a browser has.
async function foreignPages(browser, url, ports) {
  const attack = `<!doctype html><title>attack</title><script>
    const url = ${JSON.stringify(url)};
    const tries = {
      events: () => new Promise((yes) => { const s = new EventSource(url + '/events'); s.onopen = s.onmessage = () => yes('read'); s.onerror = () => yes('refused'); }),
      fetch: () => fetch(url).then((answer) => answer.text()),
      opaque: () => fetch(url, { mode: 'no-cors' }).then((answer) => answer.text()).then((text) => { if (!text) throw 0; return text; }),
      script: () => new Promise((yes, no) => { const s = document.createElement('script'); s.src = url + '/script.js'; s.onload = () => yes('read'); s.onerror = no; document.head.append(s); }),
      image: () => new Promise((yes, no) => { const i = new Image(); i.src = url + '/icon.svg'; i.onload = () => yes('read'); i.onerror = no; }),
      frame: () => new Promise((yes, no) => { const f = document.createElement('iframe'); f.src = url; f.onload = () => { try { yes(f.contentDocument.body.textContent || no()); } catch { no(); } }; document.body.append(f); }),
      post: () => fetch(url, { method: 'POST', mode: 'cors' }).then((answer) => answer.text()),
    };
    onload = async () => {
      window.results = {};
      for (const [name, run] of Object.entries(tries)) window.results[name] = await run().then((got) => got, () => 'refused');
      window.done = true;
    };
  </script><body>`;
  const server = http.createServer((_, answer) => answer.setHeader('content-type', 'text/html').end(attack)).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const foreign = server.address().port;
  for (const origin of [`http://localhost:${foreign}`, `http://evil.example:${foreign}`]) {
    const page = await browser.newPage();
    await page.goto(origin);
    await page.waitForFunction(() => window.done, { timeout: 20_000 });
    const results = await page.evaluate(() => window.results);
    assert.deepEqual(Object.entries(results).filter(([, got]) => got !== 'refused'), [], origin);
    await page.close();
  }
  const page = await browser.newPage();
  const rebound = await page.goto(`http://evil.example:${ports.page}/status`);
  assert.equal(rebound.status(), 403, 'a name that leads to this host (DNS rebinding)');
  await page.close();
  server.close();
  figure('pages of other origins read nothing');
}

async function comesBack(page, agent, ports) {
  const ended = once(agent, 'exit');
  agent.kill('SIGTERM');
  assert.equal((await ended)[0], 0, 'an open page delays no end');
  await page.waitForFunction(() => document.getElementById('feed').dataset.state === 'lost', PATIENCE);
  const next = await start(ports);
  await page.waitForFunction(() => document.getElementById('feed').dataset.state === 'live', { timeout: 30_000, polling: 50 });
  figure('says that it is old, and is live again after a restart');
  return next;
}

async function main() {
  const backend = new WebSocketServer({ host: '127.0.0.1', port: 0 });
  await once(backend, 'listening');
  backend.on('connection', (client) => client.on('message', (message) => client.send(message)));
  const ports = await configure(backend.address().port);
  let agent = await start(ports);
  const browser = await puppeteer.launch({
    executablePath: '/usr/bin/chromium',
    headless: true,
    pipe: true, // Chromium ends with this process
    userDataDir: path.join(place, 'chromium'),
    args: [
      '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync', '--host-resolver-rules=MAP evil.example 127.0.0.1',
    ],
  });
  const url = `http://localhost:${ports.page}/status`;
  const faults = [];
  await tunnel(ports, '127.0.0.1', '/down/x');
  const kept = await Promise.all([1, 2, 3].map((last) => tunnel(ports, `127.0.0.${last}`)));
  kept.forEach((client) => client.send('x'.repeat(5000)));
  await looks(browser, url, faults);
  const page = await updates(browser, url, ports, faults);
  await staysText(page, ports);
  await withoutScript(browser, url, faults);
  assert.deepEqual(faults, []);
  await foreignPages(browser, url, ports);
  write('policies/market.toml', fs.readFileSync(path.join(place, 'policies/market.toml'), 'utf8').split('evil')[0]);
  await page.bringToFront();
  await page.waitForFunction(() => !/Rejected/.test(document.getElementById('files').textContent), PATIENCE);
  agent = await comesBack(page, agent, ports);
  await browser.close();
  agent.kill('SIGTERM');
}

main().then(
  () => process.exit(0),
  (fault) => {
    console.error(fault);
    process.exit(1);
  },
);
