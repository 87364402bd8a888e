// Renews the page in place and draws what it has in numbers. All that is shown can be read without this.
"use strict";
(() => {
  const KEPT = 180; // looks that are remembered, for as long as the page is open
  const LINES = [["cold", []], ["prefetched", [8, 4]], ["warm", [2, 3]]]; // told apart without colours too
  const STEPS = Array.from({ length: 45 }, (_, power) => 2 ** power); // bytes between two lines
  const looks = [];
  const drawn = new Set(); // charts of uPlot that are on the page
  const browsed = new Map(); // where the reader is in each chart that he went through by keys: the number of a point
  const byId = (id) => document.getElementById(id);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const numbers = (root) => JSON.parse(root.getElementById("numbers").textContent);

  function bytes(value) {
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = 0;
    while (Math.abs(value) >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
    return `${value >= 10 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
  }

  function micros(value) {
    return value >= 1e6 ? `${+(value / 1e6).toPrecision(2)} s`
      : value >= 1e3 ? `${+(value / 1e3).toPrecision(2)} ms` : `${value} µs`;
  }

  function axis(format, size = 30) {
    const made = { stroke: colour("soft"), grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line") },
      font: "12px system-ui, sans-serif", size };
    return format ? { ...made, values: (_, found) => found.map(format) } : made;
  }

  function plot(place, data, series, axes, scales) {
    for (const old of drawn) if (old.root.parentNode === place || !old.root.isConnected) { old.destroy(); drawn.delete(old); }
    const width = place.clientWidth;
    if (!width) return;
    const chart = new uPlot({ width, height: 190, series, axes, scales, cursor: { drag: { x: false, y: false } } }, data, place);
    drawn.add(chart);
    // What each line has at a point, in words: all that a pointer finds out, a keyboard and a screen reader do too.
    const words = data[0].map((x, at) => [series[0].value(chart, x),
      ...series.slice(1).map((each, row) => `${each.label} ${each.value(chart, data[row + 1][at])}`)].join(", "));
    // A chart that was just made knows its scales after its own microtask.
    browse(place, words, (at) => queueMicrotask(() => {
      chart.setCursor({ left: chart.valToPos(data[0][at], "x"), top: chart.over.clientHeight / 2 });
    }));
  }

  // A chart is a slider over its points: arrows go from one to the next, Home to the first, End to the newest and on with it.
  function browse(place, words, show) {
    const name = place.dataset.boots || place.dataset.disk || place.id;
    if (!place.browse) {
      place.tabIndex = 0;
      place.setAttribute("role", "slider");
      place.addEventListener("keydown", (event) => {
        const last = place.browse.words.length - 1, at = Math.min(browsed.get(name) ?? last, last);
        const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last }[event.key];
        if (to === undefined || last < 0) return;
        event.preventDefault();
        if (event.key === "End") browsed.delete(name); else browsed.set(name, Math.min(last, Math.max(0, to)));
        tell(place, name, last);
      });
      const said = document.createElement("p");
      said.className = "soft said";
      place.after(said);
    }
    place.browse = { words, show };
    tell(place, name, browsed.has(name) ? words.length - 1 : -1);
  }

  // Says what is at the reader's point, or at the newest; and marks it, if there is a ``last`` one to mark.
  function tell(place, name, last) {
    const { words, show } = place.browse, newest = words.length - 1;
    const at = Math.min(browsed.get(name) ?? newest, newest), text = words[at] || "nothing yet";
    for (const [key, value] of [["min", 1], ["max", Math.max(1, words.length)], ["now", Math.max(1, at + 1)], ["text", text]]) {
      place.setAttribute(`aria-value${key}`, value);
    }
    place.nextElementSibling.textContent = text;
    if (last >= 0 && at >= 0) show(at);
  }

  function line(label, name, dash, format) {
    return { label, stroke: colour(name), width: 2, dash, points: { show: true, size: 6, fill: colour(name) },
      spanGaps: true, value: (_, found) => (found == null ? "-" : format(found)) };
  }

  // The median seconds of each template's measurements, from the first that is remembered to the last.
  function drawBoots(found) {
    for (const place of document.querySelectorAll("[data-boots]")) {
      const of = found.boots[place.dataset.boots];
      if (!of) continue;
      const name = (at) => (of.taken[at - 1] ? new Date(1000 * of.taken[at - 1]).toLocaleDateString() : "");
      plot(place, [of.taken.map((_, at) => at + 1), ...LINES.map(([phase]) => of[phase])],
        [{ label: "measured", value: (_, at) => (at == null ? "-" : name(at)) },
          ...LINES.map(([phase, dash]) => line(phase, phase, dash, (s) => `${s.toFixed(1)} s`))],
        [{ ...axis(name), incrs: [1, 2, 5, 10], space: 90 }, axis((s) => `${s} s`, 56)],
        { x: { time: false, range: (_, least, most) => [least - 0.3, most + 0.3] }, y: { range: (_, least, most) => [0, most * 1.1 || 1] } });
    }
  }

  // What clones read and what the disks had to, between each two looks.
  function drawRates() {
    const steps = looks.slice(1).map((now, at) => {
      const before = looks[at], seconds = now.taken - before.taken;
      const rate = (name) => (seconds > 0 && now[name] >= before[name] ? (now[name] - before[name]) / seconds : null);
      return [now.at, rate("asked"), rate("backend")];
    });
    const place = byId("rates");
    plot(place, [0, 1, 2].map((column) => steps.map((step) => step[column])),
      [{ label: "at", value: (_, at) => (at == null ? "-" : new Date(1000 * at).toLocaleTimeString()) },
        line("clones", "accent", [], (rate) => `${bytes(rate)}/s`),
        line("disks", "degraded", [8, 4], (rate) => `${bytes(rate)}/s`)],
      [axis(), { ...axis((rate) => `${bytes(rate)}/s`, 78), incrs: STEPS }], { y: { range: (_, least, most) => [0, most * 1.1 || 1] } });
  }

  // One row of cells for each power of two, one column for each look.
  function drawHeats() {
    const heats = byId("heats"), names = Object.keys(looks[looks.length - 1].disks);
    for (const row of [...heats.children]) if (!names.includes(row.dataset.disk)) row.remove();
    for (const disk of names) {
      let row = [...heats.children].find((each) => each.dataset.disk === disk);
      if (!row) {
        row = document.createElement("div");
        row.className = "chart heatrow";
        row.dataset.disk = disk;
        row.append(document.createElement("span"), document.createElement("canvas"));
        row.lastChild.className = "rows";
        row.lastChild.dataset.disk = disk;
        heats.append(row);
      }
      drawHeat(disk, row.firstChild, row.querySelector("canvas"));
    }
  }

  function drawHeat(disk, title, canvas) {
    const shown = looks.slice(-61);
    const columns = shown.slice(1).map((now, at) => {
      const then = shown[at].disks[disk] || [];
      return (now.disks[disk] || []).map((count, bucket) => Math.max(0, count - (then[bucket] || 0)));
    });
    const words = columns.map((column, at) => `${new Date(1000 * shown[at + 1].at).toLocaleTimeString()}, ` +
      (column.flatMap((count, bucket) => (count ? [`${count} within ${micros(2 ** (bucket + 1))}`] : [])).join(", ") || "no request"));
    const used = columns.flatMap((column) => column.flatMap((count, bucket) => (count ? [bucket] : [])));
    const least = used.length ? Math.min(...used) : 0, most = used.length ? Math.max(...used) : 0;
    const top = Math.max(1, ...columns.flat());
    const range = used.length ? `${micros(2 ** least)} to ${micros(2 ** (most + 1))}` : "no request yet";
    title.textContent = `${disk}: ${range}`;
    title.className = "soft";
    canvas.setAttribute("aria-label", `Latencies of ${disk}, ${range}`);
    paint(canvas, columns, least, most, top);
    browse(canvas, words, (at) => paint(canvas, columns, least, most, top, at));
  }

  function paint(canvas, columns, least, most, top, marked = -1) {
    const scale = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    canvas.width = width * scale;
    canvas.height = height * scale;
    const pen = canvas.getContext("2d"), high = height / (most - least + 1), wide = width / 60;
    pen.scale(scale, scale);
    pen.fillStyle = colour("back");
    pen.fillRect(0, 0, width, height);
    pen.fillStyle = colour("accent");
    columns.forEach((column, at) => column.forEach((count, bucket) => {
      if (!count) return;
      pen.globalAlpha = 0.2 + 0.8 * Math.log(count + 1) / Math.log(top + 1);
      pen.fillRect(width - (columns.length - at) * wide, height - (bucket - least + 1) * high, wide - 1, high - 1);
    }));
    if (marked < 0) return;
    pen.globalAlpha = 1;
    pen.strokeStyle = colour("ink");
    pen.strokeRect(width - (columns.length - marked) * wide, 0.5, wide - 1, height - 1);
  }

  function draw() {
    drawBoots(numbers(document));
    byId("live").hidden = looks.length < 2;
    if (looks.length > 1) { drawRates(); drawHeats(); }
  }

  function remember(found) {
    if (found.live) looks.push({ ...found.live, at: Date.now() / 1000 });
    if (looks.length > KEPT) looks.shift();
  }

  // Takes over what changed, and leaves the reader where he is: with his focus, and where he scrolled to.
  function take(fresh) {
    for (const part of fresh.querySelectorAll("[data-part]")) {
      const old = document.querySelector(`[data-part="${part.dataset.part}"]`);
      if (!old) continue;
      const places = (root) => [...root.querySelectorAll("a, summary, [tabindex], [data-boots]")];
      const open = [...old.querySelectorAll("details")].map((each) => each.open);
      const focus = places(old).indexOf(document.activeElement), scrolled = places(old).map((each) => each.scrollLeft);
      old.replaceWith(document.adoptNode(part));
      part.querySelectorAll("details").forEach((each, at) => { each.open = open[at] || false; });
      for (const chart of part.querySelectorAll("[data-boots]")) chart.tabIndex = 0;
      places(part).forEach((each, at) => { each.scrollLeft = scrolled[at] || 0; });
      if (focus >= 0 && places(part)[focus]) places(part)[focus].focus({ preventScroll: true });
    }
    byId("numbers").textContent = fresh.getElementById("numbers").textContent;
    document.title = fresh.title;
  }

  async function renew() {
    const silent = byId("silent");
    try {
      const answer = await fetch(location.href, { cache: "no-store" });
      if (!answer.ok) throw new Error(await answer.text());
      take(new DOMParser().parseFromString(await answer.text(), "text/html"));
      silent.hidden = true;
      remember(numbers(document));
      draw();
    } catch (error) {
      silent.textContent = `No answer at ${new Date().toLocaleTimeString()}: ${error.message}. What is below is older.`;
      silent.hidden = false;
    }
    setTimeout(renew, 1000 * document.documentElement.dataset.renew);
  }

  document.documentElement.classList.add("drawn");
  remember(numbers(document));
  draw();
  setTimeout(renew, 1000 * document.documentElement.dataset.renew);
  addEventListener("resize", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
