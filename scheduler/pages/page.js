"use strict";
// The page's script. Names are put into text nodes only, never into markup, nor into a chart's text.
const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const STATES = {
  no_speech: "no speech", no_face: "no face", unreadable: "unreadable", absent: "no such stream",
};
const HATCHES = { no_speech: "/", no_face: "\\", unreadable: "x", absent: "-" };
const SIDES = { audio: "voice", video: "face", fused: "fused" };
const PAGE_ROWS = 60;
const QUIET = { displayModeBar: false, responsive: true };
let first = 0, shown = null, open = null, cursor = 0;

function el(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
function clock(seconds) {
  if (seconds === null || seconds === undefined) return "length unknown";
  const whole = Math.floor(seconds), parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const kept = parts[0] ? parts : parts.slice(1);
  return kept.map((part, at) => (at ? String(part).padStart(2, "0") : part)).join(":");
}
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// Where the data comes from: the page itself, or the server that it came from.
const embedded = {
  async list(wish, from) {
    const kept = DATA.videos.filter((video) => matches(video, wish));
    const by = {
      "newest recorded": (v) => v.recorded, "newest annotated": (v) => v.annotated, longest: (v) => v.duration,
      "most pleasant": (v) => v.valence, "least pleasant": (v) => (v.valence === null ? null : -v.valence),
    }[wish.sort];
    if (by) kept.sort((a, b) => (by(a) === null) - (by(b) === null) || (by(a) < by(b) ? 1 : by(a) > by(b) ? -1 : 0));
    return { total: kept.length, videos: kept };
  },
  async video(id) { return JSON.parse($("video-" + id).textContent); },
};
const served = {
  async list(wish, from) {
    return ask("api/videos?" + new URLSearchParams({ ...wish, offset: from, limit: PAGE_ROWS }));
  },
  async video(id) { return ask("api/videos/" + id); },
};
async function ask(url) {
  const answer = await fetch(url);
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.error);
  return value;
}
const source = DATA.live ? served : embedded;

function matches(video, wish) {
  const states = video.states || [];
  return (!wish.text || video.uri.toLowerCase().includes(wish.text.toLowerCase()))
    && (!wish.emotion || video.emotions.includes(wish.emotion))
    && (!wish.state || states.includes(wish.state) || (wish.state === "gone" && video.gone))
    && (!wish.pipeline || video.digest === wish.pipeline)
    && (!wish.since || (video.recorded && video.recorded.slice(0, 10) >= wish.since))
    && (!wish.until || (video.recorded && video.recorded.slice(0, 10) <= wish.until));
}

// Overview: a card for each video, whose strip is drawn when it comes near the screen.
const near = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const box = entry.target;
    if (entry.isIntersecting && !box.drawn) { drawStrip(box); box.drawn = true; }
    else if (!entry.isIntersecting && box.drawn) { Plotly.purge(box); box.drawn = false; }
  }
}, { rootMargin: "200px" });

function drawStrip(box) {
  const count = DATA.emotions.length, scale = [];
  DATA.emotions.forEach((name, at) => {
    scale.push([at / count, DATA.colours[name]], [(at + 1) / count, DATA.colours[name]]);
  });
  const { strip, duration } = box.video, step = (duration || 1) / strip.length;
  Plotly.newPlot(box, [{
    type: "heatmap", z: [strip], x0: step / 2, dx: step, zmin: -0.5, zmax: count - 0.5, colorscale: scale,
    showscale: false, hoverongaps: false, text: [strip.map((e, n) => (e === null ? "" : clock(n * step) + " " + DATA.emotions[e]))],
    hovertemplate: "%{text}<extra></extra>",
  }], {
    margin: { l: 0, r: 0, t: 0, b: 0 }, height: 34, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: css("--line"),
    xaxis: { visible: false, fixedrange: true }, yaxis: { visible: false, fixedrange: true },
  }, { ...QUIET, responsive: false });
}

function card(video) {
  const made = el("article", undefined, { class: "card" });
  const link = el("a", video.uri, { href: "#video=" + video.id, title: video.uri });
  const day = video.recorded ? ", recorded " + video.recorded.slice(0, 10) : "";
  const mood = video.valence === null ? "" : ", valence " + video.valence.toFixed(2);
  made.append(link, el("p", clock(video.duration) + day + mood + (video.gone ? ", gone from there" : "")));
  if (video.strip.length) {
    const box = el("div", undefined, { class: "strip", role: "img", "aria-label": "mostly " + (video.emotions.join(", ") || "nothing") });
    box.video = video;
    made.append(box);
    near.observe(box);
  } else made.append(el("p", "No timeline yet, or it failed; moodreel status says which."));
  return made;
}

async function overview() {
  const wish = Object.fromEntries(new FormData($("filters")));
  let found;
  try { found = await source.list(wish, first); }
  catch (error) { $("count").textContent = error.message; return; }
  near.disconnect();
  document.querySelectorAll(".strip").forEach((box) => box.drawn && Plotly.purge(box));
  $("cards").replaceChildren(...found.videos.map(card));
  $("count").textContent = found.total === 0 ? "No video is like this." : found.total + (found.total === 1 ? " video" : " videos");
  const paged = found.videos.length < found.total;
  $("pages").hidden = !paged;
  $("page").textContent = (first + 1) + " to " + (first + found.videos.length) + " of " + found.total;
  $("previous").disabled = first === 0;
  $("next").disabled = first + found.videos.length >= found.total;
}

// One video: its timeline, and the cursor that goes with it.
function traces(video) {
  const made = [];
  ["fused", "audio", "video"].forEach((side, row) => {
    DATA.emotions.forEach((name, at) => made.push({
      type: "scatter", mode: "lines", line: { width: 0, color: DATA.colours[name] }, stackgroup: side, name,
      stackgaps: "infer zero", fillcolor: DATA.colours[name], x: video.times,
      y: video.scores[side][at].map((value) => value ?? 0), yaxis: "y" + (row ? row + 1 : ""), hoverinfo: "none",
    }));
    const bands = video.states.filter((state) => state[0] === side);
    for (const state of Object.keys(STATES)) {
      const these = bands.filter((band) => band[1] === state);
      if (these.length) made.push({
        type: "bar", x: these.map((band) => (band[2] + band[3]) / 2), width: these.map((band) => band[3] - band[2]),
        y: these.map(() => 100), yaxis: "y" + (row ? row + 1 : ""), name: STATES[state], hoverinfo: "none",
        marker: { color: css("--card"), line: { width: 0 }, pattern: { shape: HATCHES[state], fgcolor: css("--dim"), size: 8, solidity: 0.25 } },
      });
    }
  });
  const parts = video.segments.filter((segment) => segment[2]);
  made.push({
    type: "bar", x: parts.map((s) => (s[0] + s[1]) / 2), width: parts.map((s) => s[1] - s[0]), y: parts.map(() => 1),
    marker: { color: parts.map((s) => DATA.colours[s[2]]), line: { width: 1, color: css("--back") } }, yaxis: "y4", hoverinfo: "none",
  });
  return made;
}
function layout(video) {
  const axis = (title, domain) => ({ title: { text: title }, domain, range: [0, 100], fixedrange: true, ticksuffix: "%", tickvals: [0, 50, 100], gridcolor: css("--line"), zeroline: false });
  const end = video.duration || Math.max(1, ...video.times);
  return {
    height: 600, margin: { l: 62, r: 10, t: 8, b: 36 }, showlegend: false, hovermode: "x", barmode: "overlay", bargap: 0,
    paper_bgcolor: css("--back"), plot_bgcolor: css("--back"), font: { color: css("--text") },
    xaxis: { range: [0, end], fixedrange: true, title: { text: "seconds" }, anchor: "y4", gridcolor: css("--line") },
    yaxis: axis("fused", [0.74, 1]), yaxis2: axis("voice", [0.45, 0.71]), yaxis3: axis("face", [0.16, 0.42]),
    yaxis4: { domain: [0, 0.12], range: [0, 1], fixedrange: true, showticklabels: false, title: { text: "segments", standoff: 20 }, showgrid: false },
    shapes: [{ type: "line", xref: "x", yref: "paper", x0: cursor, x1: cursor, y0: 0, y1: 1, line: { color: css("--text"), width: 2 } }],
  };
}
async function draw() {
  await Plotly.react($("chart"), traces(open), layout(open), QUIET);
}
function timeAt(event) {
  const box = $("chart"), axis = box._fullLayout.xaxis, left = box.getBoundingClientRect().left + axis._offset;
  return Math.min(axis.range[1], Math.max(0, axis.p2d(event.clientX - left)));
}
function numbersAt(seconds) {
  let at = 0;
  open.times.forEach((time, n) => { if (Math.abs(time - seconds) < Math.abs(open.times[at] - seconds)) at = n; });
  const lines = [el("strong", clock(seconds) + " (" + seconds.toFixed(1) + " s)")];
  for (const side of ["fused", "audio", "video"]) {
    const known = DATA.emotions.map((name, n) => [open.scores[side][n][at], name]).filter((pair) => pair[0] !== null);
    const band = open.states.find((state) => state[0] === side && state[2] <= seconds && seconds < state[3]);
    const text = known.length ? known.sort((a, b) => b[0] - a[0]).slice(0, 3).map((p) => p[1] + " " + p[0] + " %").join(", ")
      : band ? STATES[band[1]] : "nothing";
    lines.push(el("div", SIDES[side] + ": " + text));
  }
  $("numbers").replaceChildren(...lines);
}
function moveTo(seconds, seek) {
  cursor = Math.min(open.duration || seconds, Math.max(0, seconds));
  const video = $("video");
  if (seek && video.readyState > 0) video.currentTime = cursor;
  const chart = $("chart");
  chart.setAttribute("aria-valuenow", cursor.toFixed(1));
  chart.setAttribute("aria-valuetext", clock(cursor));
  Plotly.relayout(chart, { "shapes[0].x0": cursor, "shapes[0].x1": cursor });
  numbersAt(cursor);
}
function row(segment) {
  const made = el("tr"), cell = el("td"), go = el("button", clock(segment[0]), { "aria-label": "Go to " + clock(segment[0]) });
  go.addEventListener("click", () => moveTo(segment[0], true));
  cell.append(go);
  const key = el("td"), dot = el("span", undefined, { class: "key" });
  if (segment[2]) { dot.style.background = DATA.colours[segment[2]]; key.append(dot); }
  key.append(segment[2] || "none");
  made.append(cell, el("td", clock(segment[1])), key, el("td", segment[3] === null ? "" : Math.round(100 * segment[3]) + " %"),
    el("td", segment[4] === null ? "" : segment[4].toFixed(2)));
  return made;
}
function complain(text) { $("warning").textContent = text; $("warning").hidden = !text; }

async function detail(id) {
  let video;
  try { video = await source.video(id); }
  catch (error) { $("overview").hidden = false; $("detail").hidden = true; $("count").textContent = error.message; return; }
  open = video;
  cursor = 0;
  $("overview").hidden = true;
  $("detail").hidden = false;
  $("name").textContent = video.uri;
  $("facts").textContent = [clock(video.duration), video.windows + " windows",
    video.averaged > 1 ? "each point is the mean of " + video.averaged : "", video.recorded ? "recorded " + video.recorded.slice(0, 10) : "",
    video.pipeline ? "pipeline " + video.pipeline : "", video.gone ? "gone from there" : ""].filter(Boolean).join(" · ");
  $("segments").replaceChildren(...video.segments.map(row));
  const states = new Set(video.states.map((state) => state[1]));
  $("states").replaceChildren(...[...states].map((state) => el("li", HATCHES[state] + "  " + STATES[state])));
  $("chart").setAttribute("aria-valuemax", String(video.duration || 0));
  complain(video.why || "");
  const player = $("video");
  if (video.url) player.src = video.url; else player.removeAttribute("src");
  player.hidden = !video.url;
  await draw();
  moveTo(0, false);
}

function route() {
  const id = /^#video=(\d+)$/.exec(location.hash);
  const only = !DATA.live && DATA.videos.length === 1;
  $("video").pause();
  $("back").hidden = !id || only;
  if (id) return detail(id[1]);
  if (only) return detail(DATA.videos[0].id);
  open = null;
  $("detail").hidden = true;
  $("overview").hidden = false;
  return overview();
}

function follow() {
  const video = $("video");
  if (open && !video.paused) moveTo(video.currentTime, false);
  if (!video.paused && !video.ended) requestAnimationFrame(() => setTimeout(follow, 60));
}
function theme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  $("theme").setAttribute("aria-pressed", String(dark));
  if (open) draw();
  document.querySelectorAll(".strip").forEach((box) => box.drawn && drawStrip(box));
}

function start() {
  for (const name of DATA.emotions) {
    const item = el("li"), key = el("span", undefined, { class: "key" });
    key.style.background = DATA.colours[name];
    item.append(key, name);
    $("legend").append(item);
    $("filters").elements.emotion.append(el("option", name));
  }
  for (const [name, values] of [["state", ["", ...(DATA.live ? DATA.states : ["gone", ...Object.keys(STATES)])]], ["sort", DATA.sorts]])
    for (const value of values) $("filters").elements[name].append(el("option", value ? STATES[value] || value : "any", { value }));
  const pipelines = DATA.pipelines || [...new Map(DATA.videos.filter((v) => v.digest).map((v) => [v.digest, v.pipeline]))];
  for (const [digest, name] of pipelines) $("filters").elements.pipeline.append(el("option", name, { value: digest }));
  let waiting;
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  for (const kind of ["input", "change"]) $("filters").addEventListener(kind, () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { first = 0; overview(); }, 150);
  });
  $("previous").addEventListener("click", () => { first = Math.max(0, first - PAGE_ROWS); overview(); });
  $("next").addEventListener("click", () => { first += PAGE_ROWS; overview(); });
  $("back").addEventListener("click", () => { location.hash = ""; });
  const chart = $("chart"), video = $("video");
  chart.addEventListener("click", (event) => open && moveTo(timeAt(event), true), true);
  chart.addEventListener("mousemove", (event) => open && numbersAt(timeAt(event)));
  chart.addEventListener("mouseleave", () => open && numbersAt(cursor));
  document.addEventListener("keydown", (event) => {
    if (!open || event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|BUTTON|VIDEO|A)$/.test(event.target.tagName)) return;
    const step = event.shiftKey ? 10 : 1;
    const to = { ArrowLeft: cursor - step, ArrowRight: cursor + step, Home: 0, End: open.duration }[event.key];
    if (to !== undefined) moveTo(to, true);
    else if (event.key === " " && open.url) { if (video.paused) video.play().catch(() => {}); else video.pause(); }
    else return;
    event.preventDefault();
  });
  video.addEventListener("play", follow);
  video.addEventListener("seeked", () => open && moveTo(video.currentTime, false));
  video.addEventListener("error", () => open && open.url && complain(
    "This browser cannot load the video: it is not where it was, or of a kind that the browser does not play. The timeline works without it."));
  const dark = matchMedia("(prefers-color-scheme: dark)");
  theme(dark.matches);
  dark.addEventListener("change", () => theme(dark.matches));
  $("theme").addEventListener("click", () => theme(document.documentElement.dataset.theme !== "dark"));
  addEventListener("hashchange", route);
  Promise.resolve(route()).then(() => { document.documentElement.dataset.ready = "yes"; });
}
start();
