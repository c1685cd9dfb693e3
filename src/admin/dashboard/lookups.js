'use strict';
// The views that look something up: Who, Ledger, Config. What was asked for last stays until it is asked again.

const lookup = { who: null, whoFault: null, user: '', release: null, config: null, configFault: null, only: '' };
const REASONS = {
  weight: (x) => x.arm === 'new' ? `the weight in force, ${percent(x.weight)}, reaches this user` : `the weight in force, ${percent(x.weight)}, does not reach this user yet`,
  segment: (x) => `the segment ${x.segment} is always in new`, excluded: (x) => `the segment ${x.segment} is never in new`,
  tripped: () => 'new is rolled back or held: everybody is on stable', no_user_id: () => 'this is no user id (empty, or too long): always stable',
};

function viewWho() {
  const names = app.status.releases.map((r) => r.name);
  const find = async (e) => {
    e.preventDefault();
    lookup.user = document.getElementById('user').value;
    const select = document.getElementById('who-release');
    lookup.release = select ? select.value : names[0];
    try {
      lookup.who = await apiSignedIn(`/api/v1/explain?user=${encodeURIComponent(lookup.user)}&release=${encodeURIComponent(lookup.release)}`); lookup.whoFault = null;
    } catch (fault) { lookup.who = null; lookup.whoFault = fault.message; }
    changed();
  };
  return [
    el('h2', { class: 'summary' }, 'Which version does a user get?'),
    el('form', { class: 'row', onsubmit: find },
      el('div', null, el('label', { for: 'user' }, 'User id, as the service gets it'), el('input', { id: 'user', 'data-keep': true, autocomplete: 'off', spellcheck: 'false', required: true, value: lookup.user })),
      names.length > 1 && el('div', null, el('label', { for: 'who-release' }, 'Release'), el('select', { id: 'who-release', 'data-keep': true }, names.map((n) => el('option', { value: n, selected: n === lookup.release }, n)))),
      el('button', { class: 'button' }, 'Look up')),
    lookup.whoFault && el('p', { class: 'notice', role: 'alert' }, lookup.whoFault),
    lookup.who && explained(lookup.who),
  ];
}

function explained(x) {
  const fact = (name, what) => [el('dt', null, name), el('dd', null, what)];
  const r = app.status.releases.find((one) => one.name === x.release);
  return el('section', { class: 'card', 'aria-live': 'polite', id: 'explained' },
    el('p', { class: 'summary' }, el('b', null, lookup.user), ' gets ', el('i', { class: `key ${x.arm}` }), el('b', null, x.arm), r ? ` (${r.arms[x.arm].upstream})` : '', `: ${(REASONS[x.reason] || (() => x.reason))(x)}.`),
    el('dl', { class: 'answers' },
      fact('Release', x.release),
      fact('Bucket', x.bucket === null ? 'none' : `${count(x.bucket)} of 1,000,000`),
      fact('Enters new', x.enters_at === null ? 'never: no bucket' : x.reason === 'excluded' ? 'never, while the segment is excluded' : x.reason === 'segment' ? `is in by segment; by weight from ${percent(x.enters_at)} on` : `at a weight of ${percent(x.enters_at)}${x.wave ? `, in wave ${x.wave}` : ''}${x.weight === null ? '' : `; in force: ${percent(x.weight)}`}`)),
    el('p', { class: 'dim' }, 'Segments by header or network look at the request itself, and are not seen here.'));
}

function viewLedger() {
  const names = [...new Set(app.ledger.map((e) => e.release).filter(Boolean))];
  const entries = app.ledger.filter((e) => !lookup.only || e.release === lookup.only).reverse(), now = serverNow();
  const weights = (e) => e.weight_after === null || e.weight_after === undefined ? '' : e.weight_before === null || e.weight_before === undefined ? percent(e.weight_after) : `${percent(e.weight_before)} → ${percent(e.weight_after)}`;
  return [
    el('h2', { class: 'summary' }, 'What was decided, latest first'),
    names.length > 1 && el('p', null, el('label', { for: 'only' }, 'Release'), el('select', { id: 'only', onchange: (e) => { lookup.only = e.target.value; changed(); } },
      el('option', { value: '' }, 'all'), names.map((n) => el('option', { value: n, selected: n === lookup.only }, n)))),
    entries.length === 0 ? el('p', null, app.past ? 'No decision yet.' : 'loading…') : el('div', { class: 'scroll' }, el('table', { id: 'ledger', class: 'stack' },
      el('thead', null, el('tr', null, ['No.', 'When', 'Release', 'What', 'Weight', 'By', 'Detail'].map((h) => el('th', { scope: 'col' }, h)))),
      el('tbody', null, entries.map((e) => el('tr', { id: `entry-${e.n}` },
        el('td', { class: 'num', 'data-head': 'No.' }, e.n), el('td', { title: e.at, 'data-head': 'When' }, since(e.at, now).replace(/ \(.*/, '')), el('td', { 'data-head': 'Release' }, e.release || '', e.attempt ? el('span', { class: 'dim' }, ` attempt ${e.attempt}`) : ''),
        el('td', { class: 'what', 'data-head': 'What' }, el('b', null, e.kind === 'trip' ? '✖ trip' : e.kind === 'freeze' ? '▲ freeze' : e.kind)), el('td', { class: 'num', 'data-head': 'Weight' }, weights(e)), el('td', { 'data-head': 'By' }, e.actor),
        el('td', { class: 'wide' }, e.detail, e.reason ? el('p', null, `Reason: ${e.reason}`) : '', e.rebuilt ? el('p', { class: 'dim' }, 'Written again after a crash.') : '',
          e.evidence && el('details', null, el('summary', null, 'Evidence'), el('pre', null, JSON.stringify(e.evidence, null, 2))))))))),
    app.ledger.length >= ENTRIES_MAX && el('p', { class: 'dim' }, `Only the latest ${ENTRIES_MAX}; all of them: grayling ledger`),
  ];
}

async function loadConfig() {
  try {
    const [running, file] = [await apiSignedIn('/api/v1/config'), await apiSignedIn('/api/v1/config/file')];
    lookup.config = { ...file, running: running.text }; lookup.configFault = null;
  } catch (fault) { lookup.configFault = fault.message; }
  changed();
}

function viewConfig() {
  const c = lookup.config, state = app.status.config;
  // Another revision, or another fault: what is shown is old.
  const stamp = `${state.revision} ${state.last_error}`;
  if (lookup.stamp !== stamp) { lookup.stamp = stamp; loadConfig(); }
  const head = [el('h2', { class: 'summary' }, 'The file, and what is in force'),
    el('p', null, `Revision ${state.revision} is in force since ${since(state.loaded_at, serverNow())}. `, el('button', { class: 'small', onclick: loadConfig }, 'Look again'))];
  if (lookup.configFault) return [head, el('p', { class: 'notice' }, lookup.configFault)];
  if (!c) return [head, el('p', null, 'loading…')];
  const same = c.text === c.running;
  return [head,
    el('p', { class: 'mono' }, c.path),
    c.last_error && el('div', { class: 'notice', role: 'alert' }, el('b', null, '✖ The file as it stands is not in force.'), c.last_report ? '' : ` ${c.last_error}`),
    c.last_report && el('pre', { id: 'report' }, c.last_report),
    c.error && el('p', { class: 'notice' }, el('b', null, '✖ The file cannot be read: '), c.error),
    same && !c.last_error && el('p', null, el('b', { class: 'state ok' }, '✓ The file and what is in force are the same.')),
    same || c.text === null ? el('pre', { id: 'config-text' }, c.running) : beside(c.running, c.text)];
}

/** Two texts side by side, with the lines marked that differ (longest common subsequence; plain beyond 3,000 lines). */
function beside(left, right) {
  const a = left.split('\n'), b = right.split('\n'), rows = [];
  const row = (i, j) => rows.push([i, j]);
  if (a.length * b.length <= 9e6) {
    const w = b.length + 1, t = new Uint16Array((a.length + 1) * w);
    for (let i = a.length - 1; i >= 0; i--) for (let j = b.length - 1; j >= 0; j--) t[i * w + j] = a[i] === b[j] ? t[(i + 1) * w + j + 1] + 1 : Math.max(t[(i + 1) * w + j], t[i * w + j + 1]);
    let i = 0, j = 0;
    while (i < a.length || j < b.length) {
      if (i < a.length && j < b.length && a[i] === b[j]) row(i++, j++);
      else {
        const lost = [], come = [];
        while ((i < a.length || j < b.length) && !(i < a.length && j < b.length && a[i] === b[j])) {
          if (j >= b.length || (i < a.length && t[(i + 1) * w + j] >= t[i * w + j + 1])) lost.push(i++); else come.push(j++);
        }
        for (let k = 0; k < Math.max(lost.length, come.length); k++) row(lost[k], come[k]);
      }
    }
  } else for (let k = 0; k < Math.max(a.length, b.length); k++) row(k < a.length ? k : undefined, k < b.length ? k : undefined);
  const cells = (lines, k, differs) => [el('td', { class: 'n' }, k === undefined ? '' : `${k + 1}${differs ? ' ◂' : ''}`), el('td', null, k === undefined ? '' : lines[k])];
  return el('table', { class: 'diff', id: 'beside' },
    el('colgroup', null, ['n', '', 'n', ''].map((c) => el('col', { class: c }))),
    el('thead', null, el('tr', null, el('th', { colspan: 2, scope: 'col' }, 'In force'), el('th', { colspan: 2, scope: 'col' }, 'The file as it stands'))),
    el('tbody', null, rows.map(([i, j]) => { const differs = i === undefined || j === undefined || a[i] !== b[j]; return el('tr', { class: differs ? 'differs' : '' }, cells(a, i, differs), cells(b, j, differs)); })));
}
