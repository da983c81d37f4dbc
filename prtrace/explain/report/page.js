"use strict";
// Draws the report in #report.  What others named reaches the document as text nodes only.
(() => {
  const report = JSON.parse(document.getElementById("report").textContent);
  const $ = (id) => document.getElementById(id);
  const canvas = $("chart"), pen = canvas.getContext("2d");
  const LANE = 34, TOP = 26, BOTTOM = 8, ROWS = 300, NEAR = 6;
  const BAND = { registered: "registered", holder: "holder", "in doubt": "doubt",
                 "not watched": "unwatched" };
  const MARK = {
    "PERSISTENT RESERVE OUT": ["good", "square"], "refused": ["bad", "square"],
    "unknown effect": ["odd", "square"], "PERSISTENT RESERVE IN": ["read", "tick"],
    "reservation conflict": ["bad", "cross"], "unit attention": ["odd", "triangle"],
    "paths changed": ["faint", "circle"], "records lost": ["bad", "circle"],
  };
  const AT = 0, LANE_OF = 1, SORT = 2, WHAT = 3, WHO = 4, RESULT = 5, HOST = 6, COUNT = 7;
  let unit, chart, account, from, to, first, last, gutter = 0, chosen = -1, colours = {}, waiting = 0;
  let wanted = "", fits = null;

  const clockOf = (micro) => new Date(Date.parse(chart.start.slice(0, 23) + "Z") + micro / 1000);
  const pad = (number, digits = 2) => String(number).padStart(digits, "0");
  const day = (date) => `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}`;
  const time = (date) =>
    `${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}`;
  const stamp = (micro) => {
    const date = clockOf(micro);
    return `${day(date)} ${time(date)}.${pad(date.getMilliseconds(), 3)}`;
  };
  const laneName = (lane) => (lane < 0 ? "the whole unit" : chart.lanes[lane]);
  const word = (mark, at) => chart.words[mark[at]];
  const element = (name, text, className) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  };

  function readColours() {
    const style = getComputedStyle(document.documentElement);
    for (const name of ["ground", "raised", "line", "text", "faint", "accent", "bad", "odd", "good",
                        "registered", "holder", "doubt", "unwatched", "read"])
      colours[name] = style.getPropertyValue(`--${name}`).trim();
  }

  // The first mark at or after a time; marks are in the order of their times.
  function firstMark(micro) {
    let low = 0, high = chart.marks.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (chart.marks[middle][AT] < micro) low = middle + 1; else high = middle;
    }
    return low;
  }

  const width = () => canvas.clientWidth;
  const x = (micro) => gutter + ((micro - from) / (to - from)) * (width() - gutter - 8);
  const microAt = (pixel) => from + ((pixel - gutter) / (width() - gutter - 8)) * (to - from);
  const y = (lane) => TOP + (lane + 1) * LANE;

  function shape(kind, px, py, size) {
    switch (kind) {
      case "square": pen.fillRect(px - size, py - size, 2 * size, 2 * size); break;
      case "tick": pen.fillRect(px - 0.5, py - size, 1, 2 * size); break;
      case "circle": pen.beginPath(); pen.arc(px, py, size, 0, 7); pen.fill(); break;
      case "triangle":
        pen.beginPath(); pen.moveTo(px, py - size - 1); pen.lineTo(px + size + 1, py + size);
        pen.lineTo(px - size - 1, py + size); pen.fill(); break;
      case "cross":
        pen.lineWidth = 2; pen.beginPath(); pen.moveTo(px - size, py - size);
        pen.lineTo(px + size, py + size); pen.moveTo(px + size, py - size);
        pen.lineTo(px - size, py + size); pen.stroke(); break;
    }
  }

  function draw() {
    const ratio = window.devicePixelRatio || 1;
    const high = TOP + (chart.lanes.length + 1) * LANE + BOTTOM, wide = width();
    canvas.style.height = `${high}px`;
    canvas.width = Math.round(wide * ratio);
    canvas.height = Math.round(high * ratio);
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.fillStyle = colours.ground;
    pen.fillRect(0, 0, wide, high);
    pen.font = "12px system-ui, 'DejaVu Sans', sans-serif";
    pen.textBaseline = "middle";
    lanes(wide);
    pen.save();
    pen.beginPath();
    pen.rect(gutter, 0, wide - gutter, high);
    pen.clip();
    bands(high);
    axis(wide, high);
    marks();
    pen.restore();
    const begin = stamp(from), end = stamp(to);
    $("span").textContent = `${begin} to ${begin.slice(0, 10) === end.slice(0, 10) ? end.slice(11) : end}`;
    canvas.setAttribute("aria-label",
      `${chart.lanes.length} nexuses, ${chart.marks.length} events, ${begin} to ${end}`);
  }

  function lanes(wide) {
    for (let lane = -1; lane < chart.lanes.length; lane++) {
      const middle = y(lane) + LANE / 2;
      pen.fillStyle = colours.line;
      pen.fillRect(0, y(lane), wide, 1);
      pen.fillStyle = lane < 0 ? colours.faint : colours.text;
      pen.fillText(short(laneName(lane), gutter - 20), 10, middle);
    }
  }

  function short(text, room) {
    if (pen.measureText(text).width <= room) return text;
    let keep = text.length;
    while (keep > 1 && pen.measureText(`${text.slice(0, keep)}…`).width > room) keep--;
    return `${text.slice(0, keep)}…`;
  }

  function bands(high) {
    for (const [lane, kind, begin, end, text] of chart.bands) {
      if (end < from || begin > to) continue;
      const left = Math.max(x(begin), gutter), right = Math.max(Math.min(x(end), width()), left + 1);
      const what = BAND[chart.lasting[kind]];
      pen.fillStyle = colours[what];
      if (what === "doubt" || what === "unwatched") {
        pen.fillRect(left, TOP + 1, right - left, high - TOP - BOTTOM);
      } else if (what === "registered") {
        pen.fillRect(left, y(lane) + 20, right - left, 8);
        if (right - left > 130) {
          pen.fillStyle = colours.faint;
          pen.font = "11px system-ui, 'DejaVu Sans', sans-serif";
          pen.fillText(short(chart.words[text], right - left - 8), left + 4, y(lane) + 12);
        }
      } else {
        pen.fillRect(left, y(lane) + 28, right - left, 4);
      }
    }
  }

  const STEPS = [1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6, 2e6, 5e6, 1e7, 15e6, 3e7, 6e7,
    12e7, 3e8, 6e8, 9e8, 18e8, 36e8, 72e8, 108e8, 216e8, 432e8, 864e8, 1728e8, 6048e8, 25920e8,
    77760e8, 31536e9];

  function axis(wide, high) {
    const room = wide - gutter, step = STEPS.find((each) => ((to - from) / each) * 100 < room)
      || STEPS[STEPS.length - 1];
    const zone = clockOf(0).getTimezoneOffset() * 6e7;
    const origin = Date.parse(chart.start.slice(0, 23) + "Z") * 1000 - zone;
    pen.font = "11px system-ui, 'DejaVu Sans', sans-serif";
    let before = "";
    for (let at = Math.ceil((from + origin) / step) * step - origin; at <= to; at += step) {
      const px = x(at), date = clockOf(at);
      pen.fillStyle = colours.line;
      pen.fillRect(px, TOP - 6, 1, high - TOP);
      const text = step >= 864e8 ? day(date)
        : step < 1e6 ? `${time(date)}.${pad(date.getMilliseconds(), 3)}` : time(date);
      pen.fillStyle = colours.faint;
      pen.fillText(day(date) === before || step >= 864e8 ? text : `${day(date).slice(5)} ${text}`,
        px + 3, TOP - 14);
      before = day(date);
    }
  }

  // Of the marks of one lane and sort that fall on one pixel, one is drawn.
  function marks() {
    const drawn = new Map(), until = firstMark(to + 1);
    for (let at = firstMark(from); at < until; at++) {
      const mark = chart.marks[at], px = Math.round(x(mark[AT]));
      const place = mark[LANE_OF] * 16 + mark[SORT];
      if (drawn.get(place) === px || (fits && !fits[at])) continue;
      drawn.set(place, px);
      const [colour, kind] = MARK[chart.sorts[mark[SORT]]];
      pen.fillStyle = pen.strokeStyle = colours[colour];
      shape(kind, px, y(mark[LANE_OF]) + (mark[LANE_OF] < 0 ? 16 : 24), kind === "tick" ? 7 : 4);
    }
    if (chosen >= 0) {
      const mark = chart.marks[chosen];
      pen.strokeStyle = colours.accent;
      pen.lineWidth = 2;
      pen.beginPath();
      pen.arc(x(mark[AT]), y(mark[LANE_OF]) + (mark[LANE_OF] < 0 ? 16 : 24), 9, 0, 7);
      pen.stroke();
    }
  }

  function rows() {
    const body = $("rows"), found = [];
    let count = 0;
    for (let at = firstMark(from), until = firstMark(to + 1); at < until; at++) {
      if (fits && !fits[at]) continue;
      count++;
      if (found.length < ROWS || at === chosen) found.push(at);
    }
    const made = found.map((at) => {
      const mark = chart.marks[at], row = element("tr");
      if (at === chosen) row.className = "chosen";
      row.dataset.mark = at;
      const [colour] = MARK[chart.sorts[mark[SORT]]];
      const times = mark[COUNT] > 1 ? ` ×${mark[COUNT]}` : "";
      row.append(element("td", stamp(mark[AT])), element("td", laneName(mark[LANE_OF])),
        element("td", word(mark, WHAT) + times, colour === "bad" ? "bad" : colour === "odd" ? "odd" : ""),
        element("td", word(mark, WHO)), element("td", word(mark, RESULT)));
      return row;
    });
    body.replaceChildren(...made);
    const cut = count > found.length ? `, the first ${found.length} are listed: zoom or search` : "";
    $("count").textContent = `${count} of ${chart.marks.length} events${cut}`;
  }

  function show(soon) {
    draw();
    clearTimeout(waiting);
    if (soon) waiting = setTimeout(rows, 120); else rows();
  }

  function look(begin, end, soon) {
    const least = 2000, whole = last - first;
    const span = Math.min(Math.max(end - begin, least), whole);
    const middle = (begin + end) / 2;
    from = Math.min(Math.max(middle - span / 2, first), last - span);
    to = from + span;
    show(soon);
  }

  const zoom = (factor, at = (from + to) / 2) =>
    look(at - (at - from) * factor, at + (to - at) * factor, true);
  const move = (part) => look(from + (to - from) * part, to + (to - from) * part, true);

  function choose(at, into) {
    chosen = at;
    const mark = chart.marks[at];
    if (into || mark[AT] < from || mark[AT] > to) {
      const span = to - from;
      look(mark[AT] - span / 2, mark[AT] + span / 2);
    } else show();
    tell(at);
  }

  function nextMark(way) {
    let at = chosen < 0 ? firstMark(from) - (way > 0 ? 1 : 0) : chosen;
    do at += way; while (fits && at >= 0 && at < chart.marks.length && !fits[at]);
    if (at >= 0 && at < chart.marks.length) choose(at);
  }

  function near(px, py) {
    const lane = Math.floor((py - TOP) / LANE) - 1;
    let best = -1, gap = NEAR;
    for (let at = firstMark(microAt(px - NEAR)); at < chart.marks.length; at++) {
      const mark = chart.marks[at];
      if (x(mark[AT]) > px + NEAR) break;
      if (mark[LANE_OF] !== lane || (fits && !fits[at])) continue;
      const distance = Math.abs(x(mark[AT]) - px);
      if (distance < gap) { gap = distance; best = at; }
    }
    return best;
  }

  function bandsAt(px, py) {
    const lane = Math.floor((py - TOP) / LANE) - 1, at = microAt(px);
    return chart.bands.filter(([each, , begin, end]) =>
      (each === lane || each < 0) && begin <= at && at <= end).map((each) => chart.words[each[4]]);
  }

  function place(px, py, lines) {
    const tip = $("tip");
    tip.textContent = lines.filter(Boolean).join("\n");
    tip.hidden = false;
    const left = Math.min(px + 14, $("stage").clientWidth - tip.offsetWidth - 6);
    tip.style.left = `${Math.max(left, 4)}px`;
    tip.style.top = `${py + 16}px`;
  }

  function lines(at) {
    const mark = chart.marks[at], times = mark[COUNT] > 1 ? ` ×${mark[COUNT]}` : "";
    return [stamp(mark[AT]), `${laneName(mark[LANE_OF])}: ${word(mark, WHAT)}${times}`,
      word(mark, WHO) && `by ${word(mark, WHO)}`, word(mark, RESULT),
      word(mark, HOST) && `recorded by ${word(mark, HOST)}`];
  }

  const tell = (at) => place(x(chart.marks[at][AT]), y(chart.marks[at][LANE_OF]) + 20, lines(at));

  function search() {
    wanted = $("search").value.trim().toLowerCase();
    fits = null;
    if (wanted) {
      const words = chart.words.map((each) => each.toLowerCase().includes(wanted));
      const inLane = chart.lanes.map((each) => each.toLowerCase().includes(wanted));
      fits = chart.marks.map((mark) => words[mark[WHAT]] || words[mark[WHO]] || words[mark[RESULT]]
        || words[mark[HOST]] || Boolean(inLane[mark[LANE_OF]]));
    }
    show();
  }

  const CERTAIN = { observed: "", inferred: "inferred: ", "not known": "not known: " };

  function incidents() {
    const made = account.incidents.map((incident) => {
      const box = element("details"), head = element("summary");
      const times = incident.count > 1 ? ` ×${incident.count}` : "";
      head.append(element("b", incident.kind, incident.harmless ? "" : "bad"),
        ` ${stampOf(incident.last)} ${incident.device || incident.nexus || "the unit"}`
        + `${incident.host ? ` on ${incident.host}` : ""}${times}: ${incident.title}`);
      const chain = element("ol");
      for (const link of incident.chain) {
        const line = element("li");
        const by = link.host && link.host !== incident.host ? `by ${link.host}'s clock ` : "";
        if (link.at) line.append(element("span", `${stampOf(link.at)} ${by}`, "sure"));
        line.append(element("span", CERTAIN[link.certainty], link.certainty === "observed" ? "" : "odd"),
          link.text);
        chain.append(line);
      }
      if (incident.harmless) chain.append(element("li", `harmless: ${incident.harmless}`, "sure"));
      box.append(head, chain);
      head.addEventListener("click", () => {
        if (box.open || !incident.at) return;
        const at = (Date.parse(incident.at.slice(0, 23) + "Z") - Date.parse(chart.start.slice(0, 23) + "Z"))
          * 1000 - (chart.ahead[incident.host] || 0);
        const span = Math.max((last - first) / 20, 10e6);
        look(at - span / 2, at + span / 2);
      });
      return box;
    });
    const none = unit.nothing_wrong === null ? [] : [element("p", unit.nothing_wrong, "none")];
    $("incidents").replaceChildren(...none, ...made);
    if (made.length && !none.length) made[0].open = true;
  }

  const stampOf = (text) => {
    const date = new Date(text.slice(0, 23) + "Z");
    return `${day(date)} ${time(date)}`;
  };

  function now() {
    const list = [];
    const say = (label, text, className) =>
      list.push(element("dt", label), element("dd", text, className));
    for (const each of unit.statements) {
      const words = each.words.map((word) => (typeof word === "string" ? word : stampOf(word.at)));
      say(each.label, words.join(""), each.tone);
    }
    for (const each of unit.offers) {
      const offer = element("dd", `${each.host ? `On ${each.host}: ` : ""}${each.what}`);
      offer.append(...each.commands.map((text) => element("code", text)),
        element("p", `costs: ${each.costs}`));
      list.push(element("dt", "may be done"), offer);
    }
    $("now").replaceChildren(...list);
  }

  function legend() {
    const space = "http://www.w3.org/2000/svg";
    const item = (name, colour, kind) => {
      const made = element("li"), drawing = document.createElementNS(space, "svg");
      drawing.setAttribute("viewBox", "0 0 14 12");
      drawing.setAttribute("aria-hidden", "true");
      const part = document.createElementNS(space, "path");
      part.setAttribute("d", {
        square: "M3 2h8v8H3z", tick: "M6.5 0h1v12h-1z", circle: "M7 2a4 4 0 1 1 0 8a4 4 0 0 1 0-8z",
        triangle: "M7 1l5 9H2z", cross: "M3 3.5L4.5 2 7 4.6 9.5 2 11 3.5 8.4 6 11 8.5 9.5 10 7 7.4 4.5 10 3 8.5 5.6 6z",
        band: "M0 2h14v8H0z", thin: "M0 4h14v4H0z",
      }[kind]);
      part.setAttribute("fill", `var(--${colour})`);
      drawing.append(part);
      made.append(drawing, name);
      return made;
    };
    const there = new Set(chart.marks.map((mark) => mark[SORT]));
    const lasting = new Set(chart.bands.map((band) => band[1]));
    $("legend").replaceChildren(
      ...chart.lasting.flatMap((name, at) => lasting.has(at)
        ? [item(name, BAND[name], name === "holder" ? "thin" : "band")] : []),
      ...chart.sorts.flatMap((name, at) => there.has(at) ? [item(name, ...MARK[name])] : []));
  }

  function take(number) {
    unit = report.units[number];
    ({ chart, account } = unit);
    first = 0;
    last = Math.max(chart.marks.length ? chart.marks[chart.marks.length - 1][AT] : 0, 2000);
    const margin = (last - first) * 0.01;
    first -= margin;
    last += margin;
    chosen = -1;
    $("clock").hidden = !chart.clock;
    $("clock").textContent = `The times of the chart and of the table are by ${chart.clock}'s clock, as far `
      + "as the difference is known (clock, above); all others are each host's own.";
    $("now-title").textContent = `${chart.lu}  ${account.target}`;
    pen.font = "12px system-ui, 'DejaVu Sans', sans-serif";
    const longest = Math.max(...[...chart.lanes, "the whole unit"].map((each) => pen.measureText(each).width));
    gutter = Math.min(longest + 24, width() * 0.3);
    now();
    incidents();
    legend();
    [from, to] = [first, last];
    search();
  }

  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) move(Math.sign(event.deltaX) * 0.1);
    else zoom(event.deltaY > 0 ? 1.25 : 0.8, microAt(event.offsetX));
  }, { passive: false });
  let dragged = null;
  canvas.addEventListener("pointerdown", (event) => {
    dragged = { x: event.offsetX, from, to, far: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (dragged) {
      const far = event.offsetX - dragged.x;
      dragged.far = dragged.far || Math.abs(far) > 3;
      if (!dragged.far) return;
      const micro = (far / (width() - gutter - 8)) * (dragged.to - dragged.from);
      $("tip").hidden = true;
      look(dragged.from - micro, dragged.to - micro, true);
      return;
    }
    const at = near(event.offsetX, event.offsetY);
    const told = at >= 0 ? lines(at) : event.offsetX > gutter ? bandsAt(event.offsetX, event.offsetY) : [];
    if (told.length) place(event.offsetX, event.offsetY, told); else $("tip").hidden = true;
  });
  canvas.addEventListener("pointerup", (event) => {
    const at = dragged && !dragged.far ? near(event.offsetX, event.offsetY) : -1;
    dragged = null;
    if (at >= 0) choose(at);
  });
  canvas.addEventListener("pointerleave", () => { $("tip").hidden = true; });
  $("in").addEventListener("click", () => zoom(0.5));
  $("out").addEventListener("click", () => zoom(2));
  $("all").addEventListener("click", () => look(first, last));
  $("search").addEventListener("input", search);
  $("rows").addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row) choose(Number(row.dataset.mark), true);
  });
  $("unit").addEventListener("change", () => take($("unit").selectedIndex));
  const KEYS = {
    "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), ArrowLeft: () => move(-0.2),
    ArrowRight: () => move(0.2), Home: () => look(first, last), n: () => nextMark(1),
    p: () => nextMark(-1), Escape: () => { $("tip").hidden = true; },
    "/": () => $("search").focus(),
  };
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select");
    if (event.ctrlKey || event.metaKey || event.altKey || (typing && event.key !== "Escape")) return;
    const act = KEYS[event.key];
    if (act) { event.preventDefault(); act(); }
  });
  const again = () => { readColours(); draw(); };
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  window.matchMedia("print").addEventListener("change", again);
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const each of opened) each.open = true;
    again();
  });
  window.addEventListener("afterprint", () => {
    for (const each of opened) each.open = false;
    again();
  });
  new ResizeObserver(() => draw()).observe($("stage"));

  $("made").textContent = `made ${stampOf(report.made)}; times are in this browser's zone`;
  for (const each of report.units) $("unit").append(element("option", each.chart.lu));
  $("choice").hidden = report.units.length < 2;
  readColours();
  take(0);
  document.documentElement.dataset.drawn = "yes";
})();
