// Updates an open page: each event has the sections that changed, as the server has rendered them.
//
// Nothing is built here. Without this script, the page loads itself anew.
'use strict';

(() => {
  const RETRY_MS = 5000; // a stream that was refused: too many pages, or the agent restarts
  const SILENCE_MS = 5000; // an event is due each second

  const feed = document.getElementById('feed');
  const pause = document.getElementById('pause');
  const summary = document.getElementById('summary');

  // The browser takes HTML for parsing only from this policy, which the headers name.
  const policy = window.trustedTypes
    ? window.trustedTypes.createPolicy('sidegate', { createHTML: (html) => html })
    : { createHTML: (html) => html };
  const parser = new DOMParser();

  let source = null;
  let retry = 0;
  let silence = 0;
  let isPaused = false;
  const late = new Map(); // sections that wait until the reader lets go of the old one

  const show = (state, text) => {
    if (feed.dataset.state === state) return;
    feed.dataset.state = state;
    feed.textContent = text;
  };

  /// Whether the reader has selected text in `old`, or has the keyboard's focus there.
  const isHeld = (old) => {
    const selection = document.getSelection();
    const isSelected = selection && !selection.isCollapsed && selection.containsNode(old, true);
    return isSelected || old.contains(document.activeElement);
  };

  const replace = (fresh) => {
    const old = document.getElementById(fresh.id);
    if (!old || old.isEqualNode(fresh)) return;
    if (isHeld(old)) {
      late.set(fresh.id, fresh);
      return;
    }
    late.delete(fresh.id);
    const open = [...old.querySelectorAll('details')].map((one) => one.open);
    [...fresh.querySelectorAll('details')].forEach((one, index) => { one.open = open[index] ?? false; });
    old.replaceWith(fresh);
  };

  const update = (event) => {
    const parsed = parser.parseFromString(policy.createHTML(event.data), 'text/html');
    const fresh = [...late.values()];
    late.clear();
    for (const element of [...fresh, ...parsed.body.children]) {
      if (element.id === 'summary') {
        // Its element stays, so that a screen reader says the new text.
        if (summary.textContent !== element.textContent) summary.textContent = element.textContent;
        summary.className = element.className;
        document.title = element.dataset.title;
      } else if (element.id) {
        replace(document.adoptNode(element));
      }
    }
    show('live', 'Live');
    listen();
  };

  /// Says that the page is old, if no event arrives in time.
  const listen = () => {
    clearTimeout(silence);
    silence = setTimeout(() => show('lost', 'No answer: the page shows an earlier state'), SILENCE_MS);
  };

  const close = () => {
    clearTimeout(retry);
    clearTimeout(silence);
    if (source) source.close();
    source = null;
  };

  const open = () => {
    close();
    // A hidden page takes no place on the listener and none of the browser's six connections.
    if (isPaused || document.hidden) return;
    source = new EventSource('/status/events');
    source.addEventListener('message', update);
    source.addEventListener('error', () => {
      show('lost', 'Connection lost: the page shows an earlier state');
      // The browser itself tries again after a broken stream, but not after a refused one.
      if (source && source.readyState === EventSource.CLOSED) retry = setTimeout(open, RETRY_MS);
    });
    listen();
  };

  pause.addEventListener('click', () => {
    isPaused = !isPaused;
    pause.textContent = isPaused ? 'Resume updates' : 'Pause updates';
    if (isPaused) show('paused', 'Paused');
    else show('connecting', 'Connecting');
    open();
  });
  document.addEventListener('visibilitychange', open);
  window.addEventListener('pagehide', close);
  window.addEventListener('pageshow', open);

  feed.hidden = false;
  pause.hidden = false;
  open();
})();
