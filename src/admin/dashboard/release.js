'use strict';
// The view of one release: the four answers, waves and gates, graphs, the watchdog's evidence, and after a trip what it was decided on.

function viewRelease(name) {
  const status = app.status, r = status.releases.find((x) => x.name === name) || (name ? null : status.releases[0]);
  if (!r) return [el('p', { class: 'summary' }, name ? `No release is called ${name}.` : 'The config has no release.')];
  const a = answers(r, status), others = status.releases.length > 1;
  return [
    others && el('p', null, el('label', { for: 'which' }, 'Release'), el('select', { id: 'which', onchange: (e) => { location.hash = link(e.target.value); } },
      status.releases.map((x) => el('option', { value: x.name, selected: x.name === r.name }, x.name)))),
    el('section', { class: `card ${a.tone}` }, cardHead(r, a, 'h2'), bar(r), answerList(r, a)),
    warmingUp(r),
    maintenance(r),
    r.trip && frozenEvidence(r, status),
    el('h3', null, 'Waves and gates'), gates(r),
    el('h3', null, 'Both arms, the last five minutes'), arms(r),
    el('h3', null, 'Over time'), spans(), el('p', { class: 'dim', id: 'no-history', hidden: app.series[r.name] && app.series[r.name].at.length > 1 }, app.past ? 'The first points come after ten seconds.' : 'loading…'), chartsFor(r),
    el('h3', null, 'The watchdog'), evidence(r),
  ];
}

function spans() {
  const choice = (seconds, text) => el('button', { class: 'small', 'aria-pressed': String(charts.span === seconds), onclick: () => { charts.span = seconds; changed(); } }, text);
  return el('div', { class: 'spans', role: 'group', 'aria-label': 'How far back' }, choice(300, '5 min'), choice(900, '15 min'), choice(3600, '1 hour'));
}

// Slowness of new is no evidence yet.
function warmingUp(r) {
  const w = r.warming_up;
  if (!w) return null;
  const left = w.left_s > 0 ? `${w.left_s} s left` : `${w.answers_left} answers to come`;
  return el('p', { class: 'notice watch', id: 'warming-up' }, el('b', null, w.server ? `${w.server} is warming up` : 'Warming up'), `, ${left}. Slowness is no evidence yet; failures are.`);
}

/** One that stands, or the button that begins one. */
function maintenance(r) {
  const m = r.maintenance;
  if (m) {
    return el('p', { class: 'notice watch', id: 'maintenance' }, el('b', null, `▲ Maintenance ${m.change}`), ` until ${clock(new Date(m.until))}, by ${m.actor}${m.reason ? `: ${m.reason}` : ''}. Ceilings and both_arms only report, waves hold. The comparison goes on. `,
      el('button', { class: 'small', onclick: () => endMaintenance(r) }, 'End it…'));
  }
  return r.state !== 'rolled_back' && el('p', { class: 'maintain' }, el('button', { class: 'small', onclick: () => maintain(r) }, 'Maintenance…'));
}

function gates(r) {
  if (!r.wave && !r.gates.length && !r.progress) {
    return el('p', null, `The weight is set by hand: ${percent(r.weight_configured)} in the file${r.weight === r.weight_configured ? ', and in force' : `, ${percent(r.weight)} in force`}. No waves, no gates.`);
  }
  const p = r.progress, now = serverNow();
  const word = { pass: '✓ pass', fail: '✖ fail', inconclusive: '… waits' };
  return el('div', null,
    r.waves && r.waves.length > 0 && el('ol', { class: 'waves' }, r.waves.map((w, i) => {
      const at = p ? p.number - 1 : r.waves.findIndex((x) => x.name === r.wave), done = i < at || r.state === 'complete', here = i === at && !done;
      return el('li', { class: done ? 'done' : here ? 'here' : '', 'aria-current': here ? 'step' : null },
        el('b', null, `${done ? '✓' : here ? '●' : '○'} ${w.name}`), ` ${percent(w.weight)}${w.segments.length ? ` + ${w.segments.join(', ')}` : ''}`,
        el('span', { class: 'dim' }, here && p ? `baked ${span(Math.min(p.baked_s, w.bake_s))} of ${span(w.bake_s)}` : `bakes ${span(w.bake_s)}`, w.open === 'by-hand' && !done && !here ? ', opened by hand' : ''));
    })),
    el('p', null, r.wave ? ['Now in wave ', el('b', null, r.wave), ` (${percent(r.weight)} in force). `] : 'Before the first wave. ',
      p && p.next ? ['Next: ', el('b', null, p.next), '. '] : '', p && p.open_hours ? `Waves open ${p.open_hours}. ` : ''),
    p && p.paused && el('p', { class: 'notice watch' }, el('b', null, '▲ Paused'), ` by ${p.paused.actor} at ${since(p.paused.at, now)}: ${p.paused.reason}`),
    p && p.held_s !== null && el('p', { class: 'notice watch' }, el('b', null, `▲ Held for ${span(p.held_s)}`), p.missing.length ? `, waiting for: ${p.missing.map((m) => m.split(':')[0].replaceAll('_', ' ')).join(', ')}.` : ''),
    p && p.power && el('p', { class: 'dim' }, p.power),
    p && !['rolled_back', 'frozen'].includes(r.state) && el('p', { class: 'spans' },
      p.paused ? el('button', { class: 'small', onclick: () => resume(r.name, 'pause', r) }, 'Go on…') : el('button', { class: 'small', onclick: () => step(r, 'pause') }, 'Pause…'),
      p.next && el('button', { class: 'small', onclick: () => step(r, 'promote') }, `Open ${p.next} now…`)),
    r.gates.length > 0 && el('div', { class: 'scroll' }, el('table', { class: 'stack' },
      el('thead', null, el('tr', null, ['Gate', 'Verdict', 'Figures, and what it waits for'].map((h) => el('th', { scope: 'col' }, h)))),
      el('tbody', null, r.gates.map((g) => el('tr', null, el('th', { scope: 'row' }, g.name.replaceAll('_', ' ')), el('td', { 'data-head': 'Verdict' }, el('span', { class: `verdict ${g.verdict}` }, word[g.verdict] || g.verdict)), el('td', { class: 'wide', 'data-head': 'Figures' }, g.detail)))))));
}

function arms(r) {
  const heads = ['requests', 'failed', 'ratio', 'p50', 'p99', 'users', 'in flight', 'servers up'];
  const row = (name, a) => el('tr', null, el('th', { scope: 'row' }, el('i', { class: `key ${name}` }), `${name} ${a.upstream}`),
    [count(a.requests), count(a.failures), ratio(a.error_ratio), millis(a.p50_ms), millis(a.p99_ms), count(a.users), count(a.in_flight), a.servers.length ? `${a.servers_healthy} of ${a.servers.length}` : String(a.servers_healthy)].map((t, i) => el('td', { class: 'num', 'data-head': heads[i] }, t)));
  return el('div', { class: 'scroll' }, el('table', { class: 'stack' },
    el('thead', null, el('tr', null, el('th', { scope: 'col' }, ''), heads.map((h) => el('th', { scope: 'col', class: 'num' }, h)))),
    el('tbody', null, row('stable', r.arms.stable), row('new', r.arms.new))),
    mix('stable', r.arms.stable), mix('new', r.arms.new));
}

/** How an arm answered, by class of status; those that do not occur are left out. */
function mix(name, a) {
  const occur = Object.entries(a.answers).filter(([, n]) => n > 0), all = occur.reduce((sum, [, n]) => sum + n, 0);
  const share = (n) => n < all && n / all >= 0.99995 ? '>99.99%' : measured(100 * n / all);
  return all > 0 && el('p', { class: 'mix' }, el('i', { class: `key ${name}` }), `answers of ${name}: `,
    occur.map(([status, n]) => `${status === 'none' ? 'no answer' : status} ${count(n)} (${share(n)})`).join(', '));
}

const DOG = { quiet: 'Quiet.', suspicious: 'Suspicious.', tripped: 'Tripped.', both_arms: 'Both arms are bad: not blamed on new.', blind: 'Blind: it cannot judge now.' };

/** Bars on the scale that evidence grows on: each tenfold of the odds is as long as the one before it. */
function evidence(r) {
  const dog = r.watchdog, alpha = dog.limits ? dog.limits.alpha : 0.001, tens = Math.log10(1 / alpha);
  const at = [...Array(Math.floor(tens + 1e-9)).keys()].map((i) => [10 ** i, i / tens]);
  const meter = (s) => {
    const e = s.evidence_ratio, known = e !== null && e !== undefined, share = Math.max(0, Math.min(1, known ? e : 0));
    return el('div', { class: `meter ${share >= 1 && !LEADS_TO[s.signal] ? 'bad' : share >= 0.33 ? 'watch' : ''}` },
      el('span', { class: 'name' }, s.signal === 'resource_hold' ? 'resource' : s.signal.replaceAll('_', ' '), s.stratum === 'all' ? '' : el('span', { class: 'dim' }, s.signal.startsWith('resource') ? ` ${s.stratum}` : ` route ${s.stratum}`), s.signal === 'resource_hold' && el('span', { class: 'dim' }, ', holds waves only')),
      el('div', { class: 'track', role: 'img', 'aria-label': known ? `${onItsWay(share)} of the way to ${LEADS_TO[s.signal] || 'a rollback'}` : 'not measured' },
        at.slice(1).map(([, x]) => el('i', { class: 'tick', style: { left: `${x * 100}%` } })), el('div', { class: 'fill', style: { width: `${share * 100}%` } }), el('i', { class: 'end' })),
      el('span', { class: 'num' }, known ? onItsWay(share) : '–'),
      el('span', { class: 'told' }, s.detail));
  };
  const scale = dog.signals.length > 0 && el('div', { class: 'meter' }, el('span', { class: 'name dim' }, 'odds against chance'), el('div', { class: 'scale' },
    at.map(([n, x]) => el('span', { class: x === 0 ? 'first' : '', style: { left: `${x * 100}%` } }, `${count(n)}×`)), el('span', { class: 'last', style: { left: '100%' } }, `${count(1 / alpha)}× rolls back`)), el('span', null, ''));
  return el('div', null,
    el('p', null, el('b', null, DOG[dog.state] || dog.state), ' ', r.state === 'rolled_back' ? 'It goes on looking; with nobody in new there is nothing to compare.' : dog.detail),
    dog.limits && el('p', { class: 'dim' }, dog.limits.enabled ? `Ceilings of the file: ${measured(dog.limits.errors_max * 100)} failed, p99 ${millis(dog.limits.latency_p99_max_ms)}; slower than stable by ${measured(dog.limits.latency_tolerance * 100)}. A release that is not worse is taken out with a chance of at most ${trimmed(alpha * 100, 4)}%.${dog.limits.report_only ? ' Mode "report": it says what it would do, and does nothing.' : ''}` : 'Switched off in the file: nothing is taken out.'),
    scale, dog.signals.map(meter), dog.signals.length > 0 && el('p', { class: 'dim' }, 'A request that failed is, for latency, one that is never answered.'));
}

/** What was seen when it tripped; it does not change any more. */
function frozenEvidence(r, status) {
  const t = r.trip, e = t.evidence || {}, frozen = r.state === 'frozen', now = Date.parse(status.at) || Date.now();
  const young = (now - Date.parse(t.at)) / 1e3 < 300, users = e.users ? e.users.new : usersAt(r.name, t.at) ?? (young ? r.arms.new.users : null);
  const pair = (name, of) => e[name] && el('tr', null, el('th', { scope: 'row' }, name), el('td', { class: 'num' }, count(e[name].requests)), el('td', { class: 'num' }, count(e[name].failures)),
    el('td', { class: 'num' }, e[name].requests ? measured(100 * e[name].failures / e[name].requests) : '–'), el('td', { class: 'num' }, millis(e[name].p99_ms)));
  const fact = (name, ...what) => [el('dt', null, name), el('dd', null, what)];
  return el('section', { class: 'frozen', 'aria-label': 'What it was decided on' },
    el('h3', null, frozen ? 'Why it was frozen' : 'Why it was rolled back'),
    el('dl', { class: 'answers' },
      fact('Why', el('b', null, t.cause.replaceAll('_', ' ')), `: ${t.detail || CAUSES[t.cause] || ''}`),
      t.stable_shows_the_same && fact('But', el('b', null, `stable shows the same since ${clock(new Date(t.stable_same_since))}`), ': the cause may be what both share.'),
      t.decided_by && fact('By what', decidedBy(t.decided_by)),
      fact('Since when', since(t.at, now), t.onset_to_trip_ms ? `; ${millis(t.onset_to_trip_ms)} after the first sign` : '', `; by ${t.actor}`),
      fact('How many', frozen ? `${count(r.arms.new.users)} users were in new in the last five minutes, and are` : users === null ? 'not known any more' : `${count(users)} users were in new in the five minutes before`),
      fact('What now', frozen ? `The weight is held at ${percent(r.weight)}. Roll back, or resume.` : `Everybody is on stable. For a new build: attempt = ${Math.max(r.attempt, r.attempt_seen) + 1} under [release.${r.name}]. For the same build: `, ' ', el('button', { class: 'small', onclick: () => resume(r.name, r.ends[0], r) }, 'Resume…'))),
    e.new && el('div', { class: 'scroll' }, el('table', null, el('caption', { class: 'dim' }, `The ${e.window_s === 60 ? 'minute' : span(e.window_s)} before it`),
      el('thead', null, el('tr', null, ['', 'requests', 'failed', 'ratio', 'p99'].map((h, i) => el('th', { scope: 'col', class: i ? 'num' : '' }, h)))), el('tbody', null, pair('new'), pair('stable')))),
    t.evidence && el('details', null, el('summary', null, 'All of the evidence'), el('pre', null, JSON.stringify(t.evidence, null, 2))));
}

/** The counts since the onset, and where. */
function decidedBy(d) {
  const arm = (name, a) => `${name} ${count(a.bad)} of ${count(a.requests)}${a.requests ? ` (${measured(100 * a.bad / a.requests)})` : ''}${a.waiting ? `, ${count(a.waiting)} without an answer` : ''}`;
  const where = [d.route && `route ${d.route}`, d.server && `${d.one_server ? 'one server: ' : ''}${d.server}`].filter(Boolean).join(', ');
  return `${d.signal.replaceAll('_', ' ')}, since ${clock(new Date(d.since))} (${span(d.for_ms / 1e3)}): ${arm('new', d.new)}${d.stable ? `; ${arm('stable', d.stable)}` : ''}${where ? `; ${where}` : ''}`;
}

/** Users in new at the last point before; null where that is not known. */
function usersAt(name, iso) {
  const s = app.series[name], at = Date.parse(iso) / 1e3;
  if (!s) return null;
  const i = s.at.findLastIndex((t) => t <= at);
  return i < 0 ? null : s.new.users[i];
}
