'use strict';
// The graphs of a release: four of them under one cursor, with the file's limits and what was decided.

const charts = { made: [], release: null, span: 3600, root: null };
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const MARKS = { trip: 'rolled back', freeze: 'frozen', resume: 'resumed', attempt: 'attempt', weight: 'weight', stop: 'stop file', unstop: 'stop file gone', start: 'start', pause: 'paused', promote: 'promoted', maintenance: 'maintenance', stable_shows_the_same: 'stable the same', wave: 'wave' };
const RULED = [['stable', '--stable', (s) => s.stable], ['new', '--new', (s) => s.new]];

/** `lines`: [label, colour, values of a series, dash]; `limit`: [value, label] of a release. */
const PLOTS = [
  { id: 'errors', title: 'Share of requests that failed', log: false, format: (v) => ratio(v),
    lines: RULED.map(([n, c, of]) => [n, c, (s) => of(s).error_ratio]), limit: (l) => [l.errors_max, `ceiling ${measured(l.errors_max * 100)}`] },
  { id: 'latency', title: 'Latency until the response head', log: true, floor: 1, format: millis,
    lines: RULED.flatMap(([n, c, of]) => [[`${n} p99`, c, (s) => of(s).p99_ms], [`${n} p50`, c, (s) => of(s).p50_ms, [5, 4]]]), limit: (l) => [l.latency_p99_max_ms, `p99 ceiling ${millis(l.latency_p99_max_ms)}`] },
  { id: 'rate', title: 'Requests a second', log: true, floor: 0.1, format: (v) => v === null ? '–' : `${v < 10 ? trimmed(v, 1) : count(v)}/s`,
    lines: RULED.map(([n, c, of]) => [n, c, (s) => of(s).rate]) },
  { id: 'evidence', title: 'Evidence against new, on its way to a rollback', log: false, top: 1.12, format: (v) => v === null ? '–' : onItsWay(v),
    lines: [['strongest signal', '--text', (s) => s.evidence]], limit: () => [1, 'rolls back'] },
];

function drawMarks(u, plot) {
  const { ctx } = u, { left, top, width, height } = u.bbox, dpr = devicePixelRatio;
  ctx.save();
  ctx.font = `${11 * dpr}px system-ui, sans-serif`;
  ctx.textBaseline = 'bottom'; ctx.textAlign = 'left';
  const limits = charts.limits;
  if (plot.limit && limits) {
    const [value, label] = plot.limit(limits), y = Math.round(u.valToPos(value, 'y', true));
    if (y >= top - 1 && y <= top + height) {
      ctx.strokeStyle = ctx.fillStyle = colour('--bad');
      ctx.lineWidth = 1.5 * dpr; ctx.setLineDash([7 * dpr, 4 * dpr]);
      ctx.beginPath(); ctx.moveTo(left, y); ctx.lineTo(left + width, y); ctx.stroke();
      ctx.fillText(label, left + 4 * dpr, y - 2 * dpr);
    }
  }
  ctx.setLineDash([]);
  // Where the last label ended: of what is grave, halfway up, and of the rest, at the bottom.
  const edges = { true: -1e9, false: -1e9 };
  for (const e of app.ledger) {
    const at = Date.parse(e.at) / 1e3;
    if ((e.release && e.release !== charts.release) || !MARKS[e.kind] || at < u.scales.x.min || at > u.scales.x.max) continue;
    const x = Math.round(u.valToPos(at, 'x', true)), grave = e.kind === 'trip' || e.kind === 'freeze';
    ctx.strokeStyle = ctx.fillStyle = colour(grave ? '--bad' : '--dim');
    ctx.lineWidth = (grave ? 2 : 1) * dpr;
    ctx.beginPath(); ctx.moveTo(x, top); ctx.lineTo(x, top + height); ctx.stroke();
    const text = (e.kind === 'weight' || e.kind === 'wave') && e.weight_after !== null ? percent(e.weight_after) : MARKS[e.kind], wide = ctx.measureText(text).width;
    const right = x + wide + 6 * dpr > left + width, from = right ? x - wide - 3 * dpr : x + 3 * dpr;
    if (from > edges[grave]) { ctx.fillText(text, from, grave ? top + height / 2 : top + height - 2 * dpr); edges[grave] = from + wide + 4 * dpr; }
  }
  ctx.restore();
}

function range(plot) {
  return (u, min, max) => {
    const limit = plot.limit && charts.limits ? plot.limit(charts.limits)[0] : 0;
    const high = Math.max(max === null ? 0 : max, limit);
    if (plot.log) {
      const low = Math.max(plot.floor, min === null ? plot.floor : min);
      return [10 ** Math.floor(Math.log10(low)), 10 ** Math.ceil(Math.log10(Math.max(high, low * 10) * 1.05))];
    }
    return [0, plot.top || high * 1.15 || 1];
  };
}

/** On a logarithmic scale nothing is drawn at zero, and less than the floor at the floor. */
function columns(plot, s) {
  const clean = (values) => plot.log ? values.map((v) => v === null || v <= 0 ? null : Math.max(v, plot.floor)) : values;
  const from = s.at.length ? Math.max(0, s.at.findIndex((t) => t >= s.at[s.at.length - 1] - charts.span)) : 0;
  return [s.at.slice(from), ...plot.lines.map(([, , of]) => clean(of(s).slice(from)))];
}

function make(plot, series, width) {
  const axis = { stroke: () => colour('--dim'), grid: { stroke: () => colour('--line'), width: 1 }, ticks: { stroke: () => colour('--line'), width: 1 }, font: '12px system-ui, sans-serif' };
  const tens = (u, splits) => splits.map((v) => plot.log && Math.abs(Math.log10(v) - Math.round(Math.log10(v))) > 1e-9 ? null : v);
  return new uPlot({
    width, height: 190, cursor: { sync: { key: 'grayling' }, drag: { x: false, y: false } }, legend: { show: false },
    scales: { x: { time: true }, y: { distr: plot.log ? 3 : 1, range: range(plot) } },
    axes: [
      { ...axis, space: 70, values: (u, ticks) => ticks.map((t) => clock(new Date(t * 1e3)).slice(0, u.scales.x.max - u.scales.x.min < 300 ? 8 : 5)) },
      { ...axis, size: 64, filter: tens, grid: { ...axis.grid, filter: tens }, ticks: { ...axis.ticks, filter: tens }, values: (u, ticks) => ticks.map((v) => v === null ? '' : plot.format(v)) },
    ],
    series: [
      {},
      ...plot.lines.map(([label, name, , dash]) => ({ label, stroke: () => colour(name), width: 2, dash, spanGaps: false, points: { size: 4 } })),
    ],
    hooks: { draw: [(u) => drawMarks(u, plot)], setCursor: [(u) => figures(plot, u.data, u.cursor.idx)] },
  }, columns(plot, series), document.getElementById(`plot-${plot.id}`));
}

/** The figures under the cursor; the latest where there is none. */
function figures(plot, data, at) {
  const i = at === null || at === undefined ? data[0].length - 1 : at, when = at === null || at === undefined ? 'now' : clock(new Date(data[0][i] * 1e3));
  show(document.getElementById(`now-${plot.id}`), `${when}: `, plot.lines.map(([label, name, , dash], k) => [k ? ' · ' : '',
    el('i', { class: dash ? 'rule dashed' : 'rule', style: { borderTopColor: `var(${name})` } }), `${label} ${plot.format(data[k + 1][i])}`]));
}

/** The place for the graphs, which are kept as they are while the rest of the view changes. */
function chartsFor(r) {
  if (charts.release !== r.name) { charts.made.forEach((c) => c.destroy()); charts.made = []; charts.release = r.name; charts.root = null; }
  charts.limits = r.watchdog.limits;
  charts.root ||= el('div', { class: 'charts' }, PLOTS.map((p) => el('figure', { id: `figure-${p.id}` },
    el('figcaption', null, el('b', null, p.title), el('span', { class: 'dim', id: `now-${p.id}` })), el('div', { class: 'plot', id: `plot-${p.id}` }))));
  return el('div', { id: 'charts', 'data-keep': true });
}

/** After the view stands in the document. */
function drawCharts() {
  const s = app.series[charts.release], place = document.getElementById('charts');
  if (!place) return;
  if (place.firstChild !== charts.root) place.replaceChildren(charts.root);
  if (!s || s.at.length < 2) return;
  if (charts.made.length === 0) {
    charts.made = PLOTS.map((p) => make(p, s, document.getElementById(`plot-${p.id}`).clientWidth));
  }
  const end = s.at[s.at.length - 1], stamp = `${end} ${s.at.length} ${charts.span} ${app.ledger.length} ${JSON.stringify(charts.limits)}`;
  if (charts.stamp === stamp) return;
  charts.stamp = stamp;
  PLOTS.forEach((p, i) => {
    charts.made[i].setData(columns(p, s));
    figures(p, charts.made[i].data, charts.made[i].cursor.idx);
  });
}

new ResizeObserver(() => charts.made.forEach((c, i) => {
  const at = document.getElementById(`plot-${PLOTS[i].id}`);
  if (at && at.clientWidth && at.clientWidth !== c.width) c.setSize({ width: at.clientWidth, height: 190 });
})).observe(document.body);
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => charts.made.forEach((c) => c.redraw(false)));
