'use strict';
// The view "Now": every release as a card with a bar of its users and four answers; and what stands above all views.

const MANY = 3;
const link = (name) => `#/release/${encodeURIComponent(name)}`;

/** Users in new against those in stable; the dotted line is the target. */
function bar(r) {
  // The users are those of five minutes; a rollback takes all of them out with their next request.
  const out = r.state === 'rolled_back', share = out ? 0 : usersShare(r), target = r.weight, actual = share === null ? 0 : share;
  const at = (x) => `${Math.max(0, Math.min(100, x))}%`;
  const said = share === null ? 'nobody was seen' : `${measured(share)} of users are in new`;
  return el('div', null,
    el('div', { class: 'bar', role: 'img', 'aria-label': `${said}; the target is ${percent(target)}` },
      el('div', { class: 'in', style: { width: at(actual), minWidth: '5px', visibility: actual > 0 ? 'visible' : 'hidden' } }),
      el('div', { class: 'target', style: { left: at(target) } }),
      el('span', { class: target > 60 ? 'flag left' : 'flag', style: { left: at(target) } }, `target ${percent(target)}`),
      actual < 75 && el('span', { class: 'rest' }, `stable ${r.arms.stable.upstream}`)),
    el('p', { class: 'legend' },
      el('span', null, el('i', { class: 'key new' }), `new ${r.arms.new.upstream}: `, el('b', null, out ? 'nobody' : `${count(r.arms.new.users)} users`), out ? (r.arms.new.users ? ` (${count(r.arms.new.users)} were, in the last five minutes)` : '') : share === null ? '' : ` (${measured(share)})`),
      el('span', null, el('i', { class: 'key stable' }), `stable ${r.arms.stable.upstream}: `, el('b', null, `${count(r.arms.stable.users)} users`)),
      !out && el('span', { class: 'dim' }, r.share_actual === null ? 'no request in the last minute' : `${measured(r.share_actual)} of the last minute's requests went to new`)));
}

function rollBackButton(r) {
  const done = r.state === 'rolled_back';
  return el('button', { class: 'button danger', disabled: done, onclick: done ? null : () => rollBack(r), 'aria-label': done ? `${r.name} is rolled back` : `Roll back ${r.name}` },
    done ? 'Rolled back' : 'Roll back…');
}

function cardHead(r, a, level) {
  const icon = ICONS[a.tone];
  return el('div', { class: 'card-head' },
    el('div', null,
      el(level, null, level === 'h2' && route().view !== 'release' ? el('a', { href: link(r.name) }, r.name) : r.name),
      el('span', { class: `state ${a.tone}` }, `${icon} ${a.state}`), el('span', { class: 'dim' }, `  attempt ${r.attempt}`)),
    rollBackButton(r));
}

function answerList(r, a) {
  const tone = a.verdict === 'unknown' ? 'watch' : a.verdict;
  return el('dl', { class: 'answers' },
    el('dt', null, 'Who is in?'), el('dd', null, a.inside),
    el('dt', null, 'Is it worse?'), el('dd', null, el('b', { class: tone }, a.worse), ' ', a.why),
    el('dt', null, 'Did it act?'), el('dd', null, a.acted),
    el('dt', null, 'What do I do?'), el('dd', null, a.todo, ' ', a.calls && el('button', { class: 'small', onclick: () => resume(r.name, a.calls === 'alarm' ? 'alarm' : r.ends[0], r) }, a.calls === 'alarm' ? 'Accept…' : 'Resume…'),
      a.down.map((d) => el('p', { class: 'dim' }, d))));
}

function viewNow() {
  const status = app.status, list = status.releases.map((r) => [r, answers(r, status)]);
  return [
    list.length === 0 && el('p', { class: 'summary' }, 'The config has no release: every request goes where its route says.'),
    list.length > 1 && el('p', { class: 'summary' }, tally(list)),
    list.map(([r, a]) => el('section', { class: `card ${a.tone}`, 'aria-label': r.name },
      cardHead(r, a, 'h2'), bar(r),
      // Among many, those without a finding are told in a line, so that the others are found.
      list.length > MANY && a.tone === 'ok' ? el('p', null, a.inside, ' Is it worse? ', el('b', null, a.worse), ' ', a.todo === 'Nothing.' ? 'Nothing to do.' : a.todo) : answerList(r, a),
      el('p', null, el('a', { href: link(r.name) }, 'Graphs and evidence'), a.uses && ['  ', el('a', { href: '#/resources' }, 'Resources')]))),
  ];
}

/** "10 releases: 1 rolled back (name), 9 without a finding." */
function tally(list) {
  const groups = [
    ['rolled back', list.filter(([r]) => r.state === 'rolled_back')],
    ['frozen', list.filter(([r]) => r.state === 'frozen')],
    ['to be looked at', list.filter(([r, a]) => !['rolled_back', 'frozen'].includes(r.state) && (a.tone === 'watch' || a.tone === 'bad'))],
    ['without traffic, or blind', list.filter(([, a]) => a.tone === 'unknown')],
  ].filter(([, of]) => of.length);
  const well = list.length - groups.reduce((n, [, of]) => n + of.length, 0);
  const parts = groups.map(([what, of]) => [el('b', null, `${of.length} ${what}`), ' (', of.slice(0, 5).map(([r], i) => [i ? ', ' : '', el('a', { href: link(r.name) }, r.name)]), of.length > 5 ? ', …' : '', '); ']);
  return [`${list.length} releases: `, parts, `${well} without a finding.`];
}

function notices() {
  const status = app.status, all = [];
  const notice = (kind, title, ...rest) => all.push(el('div', { class: `notice ${kind}`, role: 'status' }, el('b', null, title), ' ', rest));
  if (isStale() || app.fault) {
    const since = status ? `What stands below is ${span(age() / 1000)} old.` : 'Nothing has been heard yet.';
    notice('bad', '✖ Stale.', `${(app.fault || 'Nothing comes in').split('\n')[0]}. ${since} The proxy may be serving all the same. Trying again…`);
  }
  if (app.lastWord && performance.now() < app.lastWord.until) notice('watch', '▲', app.lastWord.text);
  if (!status) return all;
  if (status.config.last_error && route().view !== 'config') {
    notice('bad', '✖ The config file is not in force.', `Revision ${status.config.revision} is. `, `${status.config.last_error.split('\n')[0]} `, el('a', { href: '#/config' }, 'See the lines'));
  }
  if (status.state_error) notice('bad', '✖ A restart may forget rollbacks.', status.state_error);
  for (const r of status.removed) {
    notice('watch', `▲ ${r.name} is still rolled back`, `(${r.cause}, ${since(r.at, serverNow())}), though the file does not name it any more: nobody may be sent to ${r.servers.join(', ')}. `,
      el('button', { class: 'small', onclick: () => resume(r.name, 'rollback', null) }, 'Forget it…'));
  }
  return all;
}
