// JupyterLab's own client of the server's API and of a kernel's socket: `node jupyter.js URL TOKEN`
'use strict';

const { ContentsManager, KernelManager, ServerConnection } = require('@jupyterlab/services');
const WebSocket = require('ws');
const { assert, talk, within } = require('./talk');

const [baseUrl, token] = process.argv.slice(2);
const { origin } = new URL(baseUrl);
let answered; // the last answer, as the client got it

// As in a browser, whatever is asked names the page that asks.
class PageSocket extends WebSocket {
  constructor(url, protocols) {
    super(url, protocols, { origin });
  }
}

async function pageFetch(request) {
  request.headers.set('Origin', origin);
  const answer = await fetch(request);
  answered = answer.clone();
  return answer;
}

const serverSettings = ServerConnection.makeSettings({
  baseUrl,
  wsUrl: baseUrl.replace('https', 'wss'),
  token,
  fetch: pageFetch,
  WebSocket: PageSocket,
});
const kernels = new KernelManager({ serverSettings });
const ended = [];
let kernel;

async function round() {
  kernel = watch(await kernels.startNew({ name: 'python3' }));
  await printed('answer = 6 * 7');
  assert.equal(await printed('print("naïve ☕", answer)'), 'naïve ☕ 42\n');
}

/// The client that went away connects to its kernel, which still has its variables.
async function back() {
  kernel = watch(kernels.connectTo({ model: kernel.model }));
  assert.equal(await printed('print(answer + 1)'), '43\n');
}

function watch(started) {
  started.connectionStatusChanged.connect((_, connection) => ended.push({ connection, kernel: started.status }));
  started.statusChanged.connect((_, status) => ended.push({ kernel: status }));
  return started;
}

/// What the kernel prints as it executes this code.
async function printed(code) {
  const future = kernel.requestExecute({ code });
  let text = '';
  future.onIOPub = ({ header, content }) => (text += header.msg_type === 'stream' ? content.text : '');
  const { content } = await within(60_000, 'the kernel replies', future.done);
  assert.equal(content.status, 'ok');
  return text;
}

/// A file that is larger than the route's `max_body` is saved.
async function refused({ bytes }) {
  const contents = new ContentsManager({ serverSettings });
  try {
    await contents.save('large.txt', { type: 'file', format: 'text', content: 'x'.repeat(bytes) });
  } catch (fault) {
    if (!(fault instanceof ServerConnection.ResponseError)) throw fault;
    return { status: answered.status, type: answered.headers.get('content-type'), body: await answered.text() };
  }
  throw new Error(`${bytes} bytes were saved`);
}

/// Its client tries again at once, and takes the kernel for dead when the server's API refuses it, too.
async function gone() {
  while (!ended.some(({ kernel }) => kernel === 'dead')) await new Promise((resolve) => setTimeout(resolve, 20));
  return { ended };
}

talk({ round, refused, ended: gone, back });
