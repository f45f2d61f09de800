import { text } from './text.js';

document.querySelector('#shown').textContent = text;
window.loads = (window.loads ?? 0) + 1;

import.meta.hot.accept('./text.js', (fresh) => {
  document.querySelector('#shown').textContent = fresh.text;
});
