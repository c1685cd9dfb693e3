'use strict';
// The feed and the API: what is known (`app`), how stale it is, who we are to the server.

const app = {
  status: null,        // the last summary
  heard: 0,            // when it came, by performance.now()
  series: {},          // by release: columns of the last hour
  ledger: [],          // the latest entries, oldest first
  past: false,         // are `series` and `ledger` there?
  session: { actor: null, token_needed: false },
  fault: null,         // why there is no feed
};
const LATE_MS = 3500, POINTS_MAX = 720, ENTRIES_MAX = 300;

const listeners = [];
const changed = () => listeners.forEach((f) => f());
const age = () => performance.now() - app.heard;
const isStale = () => app.status !== null && age() > LATE_MS;
const serverNow = () => (app.status && Date.parse(app.status.at) + age()) || Date.now();

/** The answer's JSON; throws an Error with `status`, its message what the server says and hints. */
async function api(path, method, body) {
  const init = { method: method || 'GET', cache: 'no-store', credentials: 'same-origin' };
  if (body) { init.body = JSON.stringify(body); init.headers = { 'content-type': 'application/json' }; }
  let answer;
  try { answer = await fetch(path, init); } catch { throw Object.assign(new Error('the proxy does not answer'), { status: 0 }); }
  if (answer.status === 204) return null;
  const told = await answer.json().catch(() => ({ error: `status ${answer.status}` }));
  if (!answer.ok) throw Object.assign(new Error(told.hint ? `${told.error}\n${told.hint}` : told.error), { status: answer.status });
  return told;
}

/** The same; where a token is asked for, asks for it and tries again. */
async function apiSignedIn(path, method, body) {
  try { return await api(path, method, body); } catch (fault) {
    if (fault.status !== 401 || !await signIn(fault.message)) throw fault;
    return api(path, method, body);
  }
}

let source = null, retry = null, failures = 0;

function listen() {
  clearTimeout(retry);
  if (source) source.close();
  source = new EventSource('/api/v1/events');
  source.addEventListener('status', (e) => {
    failures = 0;
    take(JSON.parse(e.data));
  });
  source.addEventListener('change', (e) => { note([JSON.parse(e.data)]); changed(); });
  source.addEventListener('point', (e) => { extend(JSON.parse(e.data)); changed(); });
  source.addEventListener('dropped', () => { loadPast(); });
  source.onopen = () => { loadPast(); };
  source.onerror = () => { source.close(); lost(); };
}

/** Why is there no stream? Polls meanwhile. */
async function lost() {
  clearTimeout(retry);
  try {
    take(await api('/api/v1/status'));
  } catch (fault) {
    app.fault = fault.message;
    // The token is no longer valid: nothing that it gave access to stays on the screen.
    if (fault.status === 401) Object.assign(app, { status: null, series: {}, ledger: [], past: false });
    changed();
    if (fault.status === 401 && await signIn(fault.message)) return listen();
  }
  failures += 1;
  retry = setTimeout(listen, Math.min(5000, 500 * 2 ** Math.min(failures, 4)));
}

function take(status) {
  app.status = status; app.heard = performance.now(); app.fault = null;
  changed();
}

async function loadPast() {
  try {
    const [history, entries] = await Promise.all([api('/api/v1/history'), api(`/api/v1/ledger?last=${ENTRIES_MAX}`)]);
    app.series = history.releases;
    app.ledger = [];
    note(entries);
    app.past = true;
  } catch { /* the stream itself tells what is wrong */ }
  loadSession();
  changed();
}

async function loadSession() {
  try { app.session = await api('/api/v1/session'); changed(); } catch { /* likewise */ }
}

function note(entries) {
  const known = new Set(app.ledger.map((e) => e.n));
  app.ledger = app.ledger.concat(entries.filter((e) => !known.has(e.n))).sort((a, b) => a.n - b.n).slice(-ENTRIES_MAX);
}

function extend(point) {
  for (const [name, fresh] of Object.entries(point.releases)) {
    const known = app.series[name];
    if (!known) { app.series[name] = fresh; continue; }
    if (known.at.length && fresh.at[0] <= known.at[known.at.length - 1]) continue;
    const add = (to, from) => { for (const key of Object.keys(from)) { if (Array.isArray(from[key])) { to[key] = to[key].concat(from[key]).slice(-POINTS_MAX); } else add(to[key], from[key]); } };
    add(known, fresh);
  }
}

// A page in the background gives its stream back: browsers open six connections to one server, and there may be more pages than that.
document.addEventListener('visibilitychange', () => {
  clearTimeout(retry);
  if (document.hidden) retry = setTimeout(background, 20000);
  else if (!source || source.readyState === EventSource.CLOSED) listen();
});
async function background() {
  if (source) source.close();
  try { take(await api('/api/v1/status')); } catch (fault) { app.fault = fault.message; changed(); }
  retry = setTimeout(background, 15000);
}

// Kept for the way back, it would keep its stream as well, and with it one of the six.
addEventListener('pagehide', () => { clearTimeout(retry); if (source) source.close(); });
addEventListener('pageshow', (e) => { if (e.persisted) listen(); });

// ---- Questions to the person: one dialog for all of them.

/** Asks; resolves to what `send` resolved to, or to null where it was called off. The dialog stays with the fault if `send` fails. */
function ask({ title, text, label, value, kind, action, sure, send, required }) {
  const dialog = document.getElementById('ask');
  if (dialog.open) dialog.close();
  return new Promise((done) => {
    const field = label && el(kind === 'password' ? 'input' : 'textarea', { id: 'ask-field', rows: 2, maxlength: 4000, type: kind, autocomplete: kind === 'password' ? 'current-password' : 'off', required, value: value || '' });
    const fault = el('p', { class: 'fault', role: 'alert' });
    const act = el('button', { class: sure ? 'button sure' : 'button', id: 'ask-act' }, action);
    let over = false;
    const finish = (result) => { if (!over) { over = true; dialog.close(); done(result); } };
    const form = el('form', { onsubmit: async (e) => {
      e.preventDefault();
      if (act.disabled) return;
      act.disabled = true; fault.textContent = '';
      try { finish(await send(field ? field.value.trim() : null)); } catch (f) {
        // The token dialog takes this one's place: it opens again with what was typed.
        if (!over && dialog.open && form.isConnected) { fault.textContent = f.message; act.disabled = false; } else { said(f.message); finish(null); }
      }
    } },
    el('h2', { id: 'ask-title' }, title), text.map((t) => el('p', null, t)),
    field && el('label', { for: 'ask-field' }, label), field, fault,
    el('div', { class: 'buttons' }, el('button', { type: 'button', class: 'button', onclick: () => finish(null) }, 'Cancel'), act));
    if (field && field.tagName === 'TEXTAREA') field.onkeydown = (e) => { if (e.key === 'Enter' && !e.shiftKey) { e.preventDefault(); form.requestSubmit(); } };
    dialog.replaceChildren(form);
    dialog.oncancel = (e) => { e.preventDefault(); finish(null); };
    dialog.showModal();
    (field && !value ? field : act).focus();
  });
}

let signingIn = null;
/** Asks for the token, once at a time; true: signed in. */
function signIn(why) {
  signingIn ||= ask({
    title: 'Who are you?', kind: 'password', label: 'Token', action: 'Sign in', required: true,
    text: [String(why || '').split('\n')[0], 'Your token is the second word of your line in the token file of [admin]. This browser keeps it in a cookie that no script can read.'],
    send: async (token) => { await api('/api/v1/session', 'POST', { token }); return true; },
  }).then((ok) => { signingIn = null; loadSession(); return ok === true; });
  return signingIn;
}

async function signOut() {
  await api('/api/v1/session', 'DELETE').catch(() => null);
  app.session.actor = null;
  lost();
}

const path = (release, verb) => `/api/v1/releases/${encodeURIComponent(release)}/${verb}`;

function said(text) {
  document.getElementById('said').textContent = text;
  app.lastWord = { text, until: performance.now() + 12000 };
  changed();
}

async function rollBack(r) {
  const top = strongest(r);
  const reason = top && top.evidence_ratio >= 0.3 ? `from the page: ${top.signal}: ${top.detail}` : 'from the page';
  const answer = await ask({
    title: `Roll back ${r.name}?`, label: 'Reason, for the ledger', value: reason.slice(0, 1000), action: 'Roll back now', sure: true,
    text: ['Every user is on stable with the next request. It stays so, over reloads and restarts, until a person resumes.'],
    send: (why) => change(r.name, 'rollback', why),
  });
  if (answer) said(`${r.name}: ${answer.message} (ledger entry ${answer.ledger})`);
}

const ENDS = { rollback: 'the rollback', freeze: 'the freeze', hold: 'the hold', pause: 'the pause', alarm: 'the alarm' };

/** Ends one thing that holds a release. `release`: null where the file does not name it any more. */
async function resume(name, ends, release) {
  const waves = release && release.waves.length > 0, weight = release && percent(release.weight_configured);
  const effect = !release ? 'The rollback is forgotten: its servers may get users again.'
    : ends === 'alarm' ? 'The change is accepted: the present level of new counts as the usual one, and is learnt anew. The alarm holds nothing back any more.'
    : ends === 'pause' ? 'The waves go on from where they are.'
    : ends === 'rollback' && waves ? `Users go to new again, in the first wave, ${release.waves[0].name}. Evidence starts afresh.`
    : `Users go to new again at once, at ${weight} as the file has it, unless something else holds it. Evidence starts afresh.`;
  const answer = await ask({
    title: `End ${ENDS[ends]} of ${name}?`, label: 'Reason, for the ledger', required: true, action: ends === 'alarm' ? 'Accept' : 'Resume', sure: false,
    text: [effect],
    send: (why) => change(name, 'resume', why, { ends }),
  });
  if (answer) said(`${name}: ${answer.message} (ledger entry ${answer.ledger})`);
}

const STEPS = {
  pause: ['Pause', 'The waves stay where they are; the watchdog goes on looking.'],
  promote: ['Open the next wave of', 'It opens at once. Gates that wait are skipped, and the ledger names them.'],
};

/** A step along the plan by hand. */
async function step(r, verb) {
  const [title, text] = STEPS[verb];
  // What the person has seen is what is sent: the wave, and the gates that fail now.
  const wave = r.progress && r.progress.next, failing = r.gates.filter((g) => g.verdict === 'fail').map((g) => g.name);
  const more = verb === 'promote' ? { wave, despite: failing } : {};
  const lines = verb === 'promote' && failing.length ? [text, `These gates fail, and are overruled: ${failing.join(', ').replaceAll('_', ' ')}.`] : [text];
  const what = verb === 'promote' ? `${wave} of ${r.name}` : r.name;
  const answer = await ask({ title: verb === 'promote' ? `Open ${what}?` : `${title} ${what}?`, label: 'Reason, for the ledger', required: true, action: title.split(' ')[0], text: lines, send: (why) => change(r.name, verb, why, more) });
  if (answer) said(`${r.name}: ${answer.message} (ledger entry ${answer.ledger})`);
}

/** Ceilings only report for a while. The length and the change stand in one line, as in "30m CHG-123". */
async function maintain(r) {
  const answer = await ask({
    title: `Maintenance of ${r.name}?`, label: 'How long (24h at most), the change, and why, as in: 30m CHG-123 the database moves', required: true, action: 'Begin', sure: false,
    text: ['The ceilings and both_arms only report, and waves hold. The comparison with stable goes on. It ends by itself.'],
    send: (text) => {
      const [length, change, ...why] = text.trim().split(/\s+/);
      return change ? changeBy(r.name, 'maintenance', { for: length, change, ...(why.length ? { reason: why.join(' ') } : {}) }) : Promise.reject(new Error('Write how long and which change, as in: 30m CHG-123'));
    },
  });
  if (answer) said(`${r.name}: ${answer.message} (ledger entry ${answer.ledger})`);
}

async function endMaintenance(r) {
  const answer = await ask({
    title: `End the maintenance ${r.maintenance.change} of ${r.name}?`, label: 'Reason, for the ledger', action: 'End it', sure: false,
    text: ['Ceilings and both_arms act again at once, and waves go on.'],
    send: (why) => change(r.name, 'maintenance', why, { end: true }),
  });
  if (answer) said(`${r.name}: ${answer.message} (ledger entry ${answer.ledger})`);
}

/** Without a token that the server knows, asks for it in this dialog's place. */
async function change(name, verb, why, more) {
  return changeBy(name, verb, { ...(why ? { reason: why } : {}), ...more });
}

async function changeBy(name, verb, body) {
  const answer = await apiSignedIn(path(name, verb), 'POST', body);
  loadPast();
  return answer;
}
