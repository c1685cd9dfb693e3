'use strict';
// The view of resources: what the two versions use up beside what they answer, and what that is held against.

const VERDICTS = { pass: '✓ within', fail: '✖ over', inconclusive: '… not clear yet' };
const EFFECTS = { trip: 'taken out by the watchdog; waves hold', hold: 'waves hold' };

/** In the unit of the reading, three figures. */
function figure(x) {
  if (x === null || x === undefined) return '–';
  const [size, unit] = [[1e12, ' T'], [1e9, ' G'], [1e6, ' M']].find(([s]) => Math.abs(x) >= s) || [1, ''];
  return `${Number((x / size).toPrecision(3))}${unit}`;
}

function usage(u) {
  if (u.lack) return [el('b', { class: 'state watch' }, 'not known'), el('p', { class: 'dim' }, u.lack)];
  return [figure(u.mean), u.highest !== u.mean && u.highest !== null ? el('span', { class: 'dim' }, ` (highest ${figure(u.highest)})`) : ''];
}

/** What is not known is not merely "not clear yet": somebody has to see to it. */
function verdict(x) {
  if (x.verdict === 'inconclusive' && (x.new.lack || x.stable.lack)) return ['inconclusive', '? not known'];
  return [x.verdict, VERDICTS[x.verdict] || x.verdict];
}

function viewResources() {
  const watched = app.status.releases.filter((r) => (r.resources || []).length);
  const head = el('h2', { class: 'summary' }, 'What the two versions use up');
  if (!watched.length) {
    return [head, el('p', { id: 'resources-none' }, 'No release watches resources. Processor, memory and a database often fail before the answers do: add ',
      el('code', null, '[upstream.NAME.resources]'), ' with ', el('code', null, 'scrape'), ', and ', el('code', null, '[[release.NAME.resource]]'), ' to the file.')];
  }
  const limits = (x) => [x.ceiling === null ? null : `at most ${figure(x.ceiling)}`, x.times_stable_max === null ? null : `at most ${figure(x.times_stable_max)} × stable`].filter(Boolean).join(', ');
  return [head, watched.map((r) => el('section', null,
    el('h3', null, el('a', { href: `#/release/${encodeURIComponent(r.name)}` }, r.name)),
    el('div', { class: 'scroll' }, el('table', { class: 'resources stack' },
      el('thead', null, el('tr', null, ['', 'verdict', 'new', 'stable', 'limit', 'if it is over'].map((h) => el('th', { scope: 'col' }, h)))),
      el('tbody', null, r.resources.map((x) => el('tr', null,
        el('th', { scope: 'row' }, x.name, el('p', { class: 'mono dim' }, x.reading)),
        el('td', { 'data-head': 'verdict' }, el('span', { class: `verdict ${verdict(x)[0]}` }, verdict(x)[1]), x.over > 0 && el('p', { class: 'dim' }, `${x.over} of ${x.in_a_row} readings in a row`)),
        el('td', { 'data-head': 'new' }, usage(x.new)), el('td', { 'data-head': 'stable' }, usage(x.stable)), el('td', { 'data-head': 'limit' }, limits(x)), el('td', { 'data-head': 'if it is over' }, EFFECTS[x.on] || x.on)))))))),
    el('p', { class: 'dim' }, 'Only as many readings in a row as the file says, all over a limit, are over it; a reading that fails is neither within nor over.')];
}
