'use strict';
// Which view is shown, and when it is drawn again.

const VIEWS = [['now', 'Now'], ['release', 'Release'], ['who', 'Who'], ['ledger', 'Ledger'], ['config', 'Config'], ['resources', 'Resources']];

function route() {
  const [, view, name] = location.hash.match(/^#\/([a-z]+)(?:\/(.*))?$/) || [];
  let decoded = null;
  try { decoded = name ? decodeURIComponent(name) : null; } catch { /* typed by hand */ }
  return { view: VIEWS.some(([v]) => v === view) ? view : 'now', name: decoded };
}

function headline() {
  if (!app.status) return 'grayling';
  if (isStale()) return '✖ stale – grayling';
  const names = (state) => app.status.releases.filter((r) => r.state === state).map((r) => r.name);
  const [back, frozen] = [names('rolled_back'), names('frozen')];
  if (back.length) return `✖ ${back.join(', ')} rolled back – grayling`;
  if (frozen.length) return `✖ ${frozen.join(', ')} frozen – grayling`;
  return app.status.config.last_error ? '▲ config – grayling' : '✓ grayling';
}

let lastView = null;
function draw() {
  const { view, name } = route(), key = `${view}/${name || ''}`;
  show(document.getElementById('views'), VIEWS.map(([v, text], i) => el('a', { href: `#/${v}`, 'aria-current': v === view ? 'page' : null, 'aria-keyshortcuts': String(i + 1), title: `key ${i + 1}` }, text)));
  show(document.getElementById('notices'), notices());
  const main = document.getElementById('main');
  if (key !== lastView) { main.replaceChildren(); lastView = key; }
  if (app.status) {
    const views = { now: viewNow, release: () => viewRelease(name), who: viewWho, resources: viewResources, ledger: viewLedger, config: viewConfig };
    show(main, views[view]());
    drawCharts();
  } else show(main, el('p', { class: 'summary' }, app.fault ? app.fault : 'Asking the proxy…'));
  foot();
  tick();
}

function foot() {
  const s = app.status, who = app.session;
  show(document.getElementById('foot'), s && el('span', null, `grayling ${s.version}, up ${span(s.uptime_s)}`), s && el('span', null, `config revision ${s.config.revision}`),
    who.actor && who.actor !== 'local' && el('span', null, `signed in as ${who.actor} `, el('button', { class: 'small', onclick: signOut }, 'Sign out')),
    who.token_needed && !who.actor && el('span', null, 'changes need your token ', el('button', { class: 'small', onclick: () => signIn('') }, 'Sign in')),
    el('span', null, 'Keys 1 to 6: views'));
}

/** What depends on the time alone. */
function tick() {
  const feed = document.getElementById('feed'), stale = isStale() || (app.fault && !app.status);
  feed.className = stale ? 'stale' : '';
  feed.textContent = stale ? `✖ STALE: nothing heard for ${app.status ? span(age() / 1000) : 'now'}` : app.status ? `● live, ${clock(new Date(serverNow()))}` : 'connecting…';
  document.body.classList.toggle('stale', Boolean(stale));
  document.title = headline();
}

listeners.push(draw);
addEventListener('hashchange', () => { if (location.hash.startsWith('#/') || !location.hash) { draw(); scrollTo(0, 0); document.getElementById('main').focus({ preventScroll: true }); } });
addEventListener('keydown', (e) => {
  const typing = e.target.closest('input, textarea, select, dialog');
  if (typing || e.ctrlKey || e.metaKey || e.altKey) return;
  const view = VIEWS[Number(e.key) - 1];
  if (view) location.hash = `#/${view[0]}`;
});
let wasStale = false;
setInterval(() => {
  tick();
  // The first second of silence that is too long, and each one after it: how old it is stands in the notice.
  if (isStale() || wasStale || (app.lastWord && performance.now() > app.lastWord.until)) {
    wasStale = isStale();
    if (app.lastWord && performance.now() > app.lastWord.until) app.lastWord = null;
    draw();
  }
}, 1000);
draw();
listen();
