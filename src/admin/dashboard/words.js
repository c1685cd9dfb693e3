'use strict';
// Elements, figures, and what a release is told as: the four questions of whoever opens this page at night.
// Text from outside reaches the document through createTextNode and attributes only.

/** An element. `on…` are listeners, `style` is an object, true and false are attributes without a value. */
function el(tag, props, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) e[name] = value;
    else if (name === 'style') Object.assign(e.style, value);
    else if (name === 'value') e.value = value;
    else e.setAttribute(name, value === true ? '' : value);
  }
  e.append(...children.flat(9).filter((c) => c !== null && c !== undefined && c !== false).map((c) => c instanceof Node ? c : String(c)));
  return e;
}

/** Makes `old` look like `fresh`, touching only what differs: focus, selection and open details stay. */
function morph(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || old.id !== fresh.id) return old.replaceWith(fresh);
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  if (old.hasAttribute('data-keep')) return;
  for (const { name } of [...old.attributes]) if (name !== 'style' && name !== 'open' && !fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (name !== 'style' && name !== 'open' && old.getAttribute(name) !== value) old.setAttribute(name, value);
  if (old.style.cssText !== fresh.style.cssText) old.style.cssText = fresh.style.cssText;
  for (const on of ['onclick', 'onsubmit', 'onchange', 'oninput', 'ontoggle']) if (old[on] !== fresh[on]) old[on] = fresh[on];
  morphChildren(old, [...fresh.childNodes]);
}

function morphChildren(parent, fresh) {
  fresh.forEach((node, i) => {
    const old = parent.childNodes[i];
    if (old) morph(old, node); else parent.append(node);
  });
  while (parent.childNodes.length > fresh.length) parent.lastChild.remove();
}

function show(parent, ...children) {
  morphChildren(parent, [...el('div', null, children).childNodes]);
}

const count = (n) => Math.round(n).toLocaleString('en-US');
const trimmed = (x, digits) => String(Number(x.toFixed(digits)));
const percent = (x) => `${trimmed(x, 4)}%`;
/** Two decimals, but never a 0% that is more than none, nor a 100% that is less than all. */
const measured = (x) => x > 0 && x < 0.005 ? '<0.01%' : x < 100 && x >= 99.995 ? '>99.99%' : `${trimmed(x, 2)}%`;
/** How far something is on its way: it has arrived at 100% alone. */
const onItsWay = (share) => share > 0 && share < 0.01 ? '<1%' : `${Math.floor(100 * Math.min(1, share))}%`;
const ratio = (x) => x === null || x === undefined ? '–' : measured(x * 100);
const millis = (ms) => ms === null || ms === undefined ? '–' : ms < 10 ? `${ms.toFixed(1)} ms` : ms < 1000 ? `${ms.toFixed(0)} ms` : `${(ms / 1000).toFixed(2)} s`;

function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor(s / 60) % 60} min`;
  return `${Math.floor(s / 86400)} days ${Math.floor(s / 3600) % 24} h`;
}

const two = (n) => String(n).padStart(2, '0');
function clock(date) {
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}
function day(date) {
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
}
/** "03:12:04 (4 min ago)", by the server's clock; with the day if it is another one. */
function since(iso, nowMs) {
  const at = new Date(iso), now = new Date(nowMs);
  if (isNaN(at)) return iso;
  return `${day(at) === day(now) ? '' : day(at) + ' '}${clock(at)} (${span((now - at) / 1000)} ago)`;
}

const CAUSES = {
  fuse: 'new refuses connections', ceiling: 'new is over a ceiling of the file', errors: 'new fails its users more often than stable, beyond chance',
  client_errors: 'new answers 4xx to its users more often than stable, beyond chance', latency: 'new is slower than stable, beyond chance',
  mismatch: 'the arms do not get the users that they should', resource: 'new uses up more than it may', harm: 'new has failed too many users',
  both_arms: 'both versions were bad: taken out as a precaution', manual: 'a person decided it', fleet: 'another replica decided it',
};
const STATES = { pending: 'Pending', progressing: 'Progressing', paused: 'Paused', complete: 'Complete', frozen: 'FROZEN', rolled_back: 'ROLLED BACK' };
/** A wave that is held for longer is worth a look. */
const HELD_LONG_S = 7200;
const ICONS = { ok: '✓', watch: '▲', bad: '✖', unknown: '?' };

const sentence = (text) => text ? `${text.slice(0, 1).toUpperCase()}${text.slice(1).replace(/\.$/, '')}.` : '';
/** Stable fails more than the file allows: rolling back does not help those users. */
const stableFails = (r) => r.watchdog.limits && r.arms.stable.requests >= 20 && r.arms.stable.error_ratio > r.watchdog.limits.errors_max;
const SHARED = 'Look at what both versions share: the database, the network, the load.';

const failed = (a) => `${count(a.failures)} of ${count(a.requests)} failed${a.requests ? ` (${ratio(a.error_ratio)})` : ''}`;
const sides = (r) => `new ${failed(r.arms.new)}, stable ${failed(r.arms.stable)}, in five minutes.`;

/** What a signal leads to, where that is no rollback. */
const LEADS_TO = { latency_notice: 'a notice', worse_than_before: 'an alarm', resource_hold: 'a hold' };

/** The signal that is nearest to a trip. */
function strongest(r) {
  return r.watchdog.signals.filter((s) => s.evidence_ratio !== null && s.evidence_ratio !== undefined && !LEADS_TO[s.signal])
    .reduce((best, s) => !best || s.evidence_ratio > best.evidence_ratio ? s : best, null);
}

/** The share of users in new, in percent; null while nobody was seen. */
function usersShare(r) {
  const all = r.arms.new.users + r.arms.stable.users;
  return all ? 100 * r.arms.new.users / all : null;
}

/** What a release is told as: tone (ok, watch, bad, unknown), headline, and four answers. */
function answers(r, status) {
  const now = Date.parse(status.at) || Date.now();
  const { new: fresh, stable } = r.arms, dog = r.watchdog, top = strongest(r), limits = dog.limits;
  const quiet = fresh.requests + stable.requests === 0;
  const near = top ? `${onItsWay(top.evidence_ratio)} of the way to a rollback` : 'no evidence yet';
  const users = `${count(fresh.users)} of ${count(fresh.users + stable.users)} users seen in five minutes`;
  const over = (r.resources || []).filter((x) => x.verdict === 'fail' && x.on === 'hold').map((x) => x.name);
  const alarm = r.ends.includes('alarm') && dog.signals.find((s) => s.signal === 'worse_than_before');
  const wave = (r.waves || []).find((w) => w.name === r.wave), named = wave && wave.segments.length ? `, and ${wave.segments.join(', ')}` : '';
  const a = { tone: 'ok', state: STATES[r.state] || r.state, verdict: 'ok' };
  if (r.wave) a.state += `, wave ${r.wave}`;
  if (r.soak_left_s > 0) a.state += `, soaking, ${span(r.soak_left_s)} left`;
  if (r.maintenance) a.state += `, maintenance ${r.maintenance.change}`;
  const down = ['stable', 'new'].flatMap((arm) => r.arms[arm].servers.filter((s) => !s.healthy)
    .map((s) => `${arm}: ${s.name} ${s.down ? `fails its health probe: ${s.down}` : 'does not accept connections'}`));
  a.down = down;

  a.inside = r.weight >= 100 ? 'Everyone: 100% of users are in new.'
    : quiet ? `${percent(r.weight)} of users belong to new; nobody was seen in five minutes.`
    : `${users} ${fresh.users === 1 ? 'is' : 'are'} in new; the target is ${percent(r.weight)}${named}.`;
  if (r.held_back) a.inside += ` ${percent(r.held_back)} of users stay on stable until ${r.waves && r.waves.length ? 'it is complete' : '`holdback` is lowered'}.`;
  if (quiet) { a.tone = 'unknown'; a.verdict = 'unknown'; a.worse = 'Cannot tell.'; a.why = 'No request came in the last five minutes.'; }
  else if (limits && !limits.enabled) { a.tone = 'watch'; a.verdict = 'watch'; a.worse = 'Nobody looks.'; a.why = `The watchdog is switched off in the file. ${sides(r)}`; }
  else if (dog.state === 'both_arms') { a.tone = 'bad'; a.verdict = 'bad'; a.worse = 'Both versions are bad.'; a.why = `${sentence(dog.detail)} In five minutes: ${sides(r).replace(', in five minutes', '')}`; }
  else if (dog.state === 'blind') { a.tone = 'unknown'; a.verdict = 'unknown'; a.worse = 'Cannot tell: the watchdog is blind.'; a.why = `${dog.detail}. ${sides(r)}`; }
  else if (dog.state === 'suspicious' && over.length && !(top && top.evidence_ratio >= 0.5)) {
    a.tone = 'watch'; a.verdict = 'watch'; a.worse = `It uses more than it may: ${over.join(', ')}.`; a.why = `Waves hold for that; nothing is taken out. Evidence: ${near}. ${sides(r)}`; a.uses = true;
  }
  else if (alarm) { a.tone = 'watch'; a.verdict = 'watch'; a.worse = 'It does worse than in its own past.'; a.why = `${sentence(alarm.detail)} ${sides(r)}`; }
  else if (dog.state === 'suspicious') { a.tone = 'watch'; a.verdict = 'watch'; a.worse = 'Perhaps.'; a.why = `Evidence is ${near}${top ? ` (${top.signal}: ${top.detail})` : ''}. ${sides(r)}`; }
  else if (!fresh.requests) { a.worse = 'Nothing to compare.'; a.why = `No request went to new. ${sides(r)}`; }
  else if (!stable.requests) { a.worse = 'No sign of it.'; a.why = `Nobody is left in stable to compare with: only the ceilings of the file hold. ${sides(r)}`; }
  else { a.worse = fresh.requests < 100 ? 'No sign of it, in few requests.' : 'No, nothing beyond chance.'; a.why = `Evidence: ${near}. ${sides(r)}`; }

  if (r.state === 'rolled_back' && r.trip) {
    const t = r.trip, by = t.actor === 'watchdog' || t.actor === 'fuse' ? `the ${t.actor}` : t.actor;
    a.tone = 'bad'; a.verdict = t.cause === 'manual' ? 'watch' : 'bad';
    const left = r.under_way ? r.under_way.requests : 0;
    a.inside = `${left ? `No new request: they go to stable. ${left} of before ${left === 1 ? 'has' : 'have'} not ended on new` : 'Nobody: every user is on stable'}. (The file says ${percent(r.weight_configured)}.)`;
    a.worse = t.cause === 'manual' ? 'A person took it out:' : t.cause === 'both_arms' ? 'Both were bad:' : 'It was:';
    a.why = t.cause === 'manual' ? `“${t.detail}”.` : `${t.detail || CAUSES[t.cause]}.`;
    if (t.stable_shows_the_same) a.why += ` Stable shows the same since ${clock(new Date(t.stable_same_since))}.`;
    a.acted = `Yes: rolled back by ${by} at ${since(t.at, now)}${t.onset_to_trip_ms ? `, ${millis(t.onset_to_trip_ms)} after the first sign` : ''}.`;
    a.todo = stableFails(r) ? `Act: stable fails too, ${failed(r.arms.stable)} in five minutes. ${SHARED} New stays out meanwhile.`
      : `Users are safe; nothing is urgent. Mend new, then raise attempt to ${Math.max(r.attempt, r.attempt_seen) + 1} in the file, or resume.`;
    a.calls = 'resume';
  } else if (r.state === 'frozen' && r.trip) {
    const t = r.trip;
    a.tone = 'bad'; a.verdict = 'bad';
    a.worse = t.cause === 'manual' ? 'A person asked:' : 'It was:'; a.why = `${t.detail || CAUSES[t.cause]}.`;
    a.acted = `It froze the release at ${percent(r.weight)} at ${since(t.at, now)}: nobody new comes in, nobody is taken out.`;
    a.todo = 'Decide now: roll back if stable answers, or resume to go on.';
    a.calls = 'resume';
  } else if (r.held) {
    if (a.tone === 'ok' || a.tone === 'unknown') a.tone = 'watch';
    a.acted = `Not the watchdog. It is held at ${percent(r.weight)}; the file says ${percent(r.weight_configured)}.`;
    a.todo = `${r.held.slice(0, 1).toUpperCase()}${r.held.slice(1)}.`;
    a.calls = r.ends.length ? 'resume' : null;
    a.state += ', held';
  } else {
    a.acted = limits && limits.report_only ? 'No, and it would not: mode = "report".'
      : dog.state === 'both_arms' ? 'Not yet. If it lasts for 30 s, the release is frozen (or new is taken out, where the file says so).' : a.tone === 'ok' ? 'No: it had no reason to.' : 'No.';
    a.todo = a.tone === 'bad' ? `${SHARED} A rollback of new is always safe.`
      : limits && !limits.enabled ? `Switch it on again (enabled under [release.${r.name}.watchdog]), or look at the figures yourself.`
      : alarm ? `Accept it: grayling resume ${r.name} --ends alarm --reason …; or roll back: it is always safe.`
      : a.uses ? 'Look at the resources. If you cannot wait, roll back: it is always safe.'
      : a.tone === 'watch' ? 'Look at the evidence. If you cannot wait, roll back: it is always safe.'
      : quiet ? 'See whether traffic should be reaching this proxy.'
      : a.tone === 'unknown' ? 'See why it is blind; until then look at the figures yourself.'
      : r.weight === 0 && !fresh.users ? 'Nothing. To let users in, raise the weight in the file.' : 'Nothing.';
    if (alarm) a.calls = 'alarm';
    const waits = r.gates.filter((g) => g.verdict !== 'pass');
    const p = r.progress, fails = waits.filter((g) => g.verdict === 'fail'), names = (of) => of.map((g) => g.name.replaceAll('_', ' ')).join(', ');
    const next = p && p.next ? `The next wave, ${p.next},` : 'The last step';
    if (p && p.held_s !== null) a.state += ', held';
    if (a.tone !== 'ok') { /* what is said already comes first */ }
    else if (r.state === 'paused') { a.tone = 'watch'; a.todo = `Paused${p && p.paused ? ` by ${p.paused.actor}: “${p.paused.reason}”` : ''}. To go on: resume, in the view of the release.`; }
    else if (fails.length) { a.tone = 'watch'; a.todo = `${next} does not open: new does not pass ${names(fails)}. Look at the gates.`; }
    else if (p && p.held_s !== null) {
      if (p.held_s >= HELD_LONG_S) a.tone = 'watch';
      a.todo = `Nothing${p.held_s >= HELD_LONG_S ? ' urgent' : ''}. ${next} has waited for ${span(p.held_s)}, for: ${names(waits)}.`;
    } else if (waits.length) a.todo = `Nothing. ${next} waits for: ${names(waits)}.`;
  }
  if (down.length && a.tone === 'ok') { a.tone = 'watch'; a.todo = 'A server is out: see below.'; }
  return a;
}
